"""Content-addressed artifacts on any fsspec URL: commit, read, verify, set aside.

A store holds::

    artifacts/<id>/record.json          written last, once: its presence is the commit
    artifacts/<id>/<attempt>/...        the data files that the record lists, with size and sha256
    artifacts/<id>/record.damaged-*.json    the record of an attempt that was found damaged
    claims/<id>.json                    who makes an artifact now (claims.py)
    runs/<name>/...                     what runs leave beside artifacts: reports, events
    work/<id>/                          scratch of stages on a local store, resumed after a crash

Readers go through the record, so they see all files of one attempt or nothing. Two drivers may make
the same artifact at the same time; both write data, the first record stays, the other attempt goes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msm_ray.errors import UnusablePlace, UserError
from msm_ray.manifest import (
    DamagedArtifact,
    File,
    MissingArtifact,
    Record,
    file_sha256,
    listed,
    matches,
)
from msm_ray.scratch import sweep
from msm_ray.storage import Storage

__all__ = ["DamagedArtifact", "File", "MissingArtifact", "Record", "Store"]

SMALL_FILE_BYTES = 64 * 2**20  # read through in a moment: `Store.check` hashes files up to this
ATTEMPT_TIME = "%Y%m%dT%H%M%S"  # UTC; the first part of an attempt's name
ASIDE = "record.damaged-"  # how the record of what was set aside begins
ORPHAN_SECONDS = 24 * 3600.0  # scratch that nobody touched for so long belongs to no running stage


# (store url, id, attempt) whose files this process has hashed: artifacts never change after commit.
_verified: set[tuple[str, str, str]] = set()
_fetching: dict[tuple[str, str], threading.Lock] = {}
_lock = threading.Lock()


class Store:
    """The artifacts below one URL or local path. Safe to use from several threads and processes."""

    def __init__(
        self,
        url: str | Path,
        create: bool = True,
        cache: Path | None = None,
        mend: bool | None = None,
    ) -> None:
        """``UserError`` if the place cannot be written.

        ``create=False`` is for looking: nothing is made, and a store that is not there is empty.
        ``cache`` is where a remote store's artifacts and scratch lie on this machine. Damage that
        is found is set aside if ``mend``, which without a word is as ``create``.
        """
        self._mend = create if mend is None else mend
        self._storage = Storage(str(url), write=create)
        self.url = self._storage.url
        name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self._cache = self._storage.root or (
            (cache or Path.home() / ".cache" / "msm-ray").absolute() / name
        )

    @property
    def local(self) -> bool:
        """Whether the store is a directory of this machine."""
        return self._storage.root is not None

    # ---- reading -------------------------------------------------------------------------------

    def get(self, id: str) -> Record | None:
        """The record of a committed artifact, else None.

        A record that cannot be read as one raises `DamagedArtifact`.
        """
        try:
            data = self._storage.read_bytes(_record_name(id))
        except FileNotFoundError:
            return None
        try:
            record = Record.from_json(json.loads(data))
            if record.id != id:
                raise ValueError(f"is the record of {record.id}")
            return record
        except (ValueError, TypeError, KeyError) as error:
            what = "is not valid JSON" if isinstance(error, json.JSONDecodeError) else str(error)
            if not isinstance(error, ValueError) or isinstance(error, UnicodeDecodeError):
                what = "is not a record"
            raise self._aside(id, None, "record.json", what) from None

    def ids(self) -> list[str]:
        """Ids of all committed artifacts, sorted. Their records may still turn out damaged."""
        if self._storage.root is not None:
            top = self._storage.root / "artifacts"
            found = self._storage.names("artifacts")
            return [id for id in found if (top / id / "record.json").is_file()]
        parts = [name.split("/") for name in self._storage.sizes("artifacts")]
        return sorted(part[0] for part in parts if part[1:] == ["record.json"])

    def fetch(self, id: str) -> Path:
        """The artifact's files in a local directory, verified. Read only: do not write there.

        A local store hands out its own directory. `MissingArtifact`, or `DamagedArtifact` (set
        aside) if a file is missing or not what was committed.
        """
        record = self.get(id)
        if record is None:
            raise MissingArtifact(self.url, id)
        with _lock:
            lock = _fetching.setdefault((self.url, id), threading.Lock())
        with lock:
            if self.local:
                self.check(record, whole=True)
                return self._local(record)
            return self._download(record)

    def verify(self, id: str) -> Record:
        """Read every file of the artifact again, whatever was verified before; see `fetch`."""
        record = self.get(id)
        if record is None:
            raise MissingArtifact(self.url, id)
        _verified.discard(self._mark(record))
        shutil.rmtree(self._cache / "fetched" / id, ignore_errors=True)
        self.fetch(id)
        return record

    def check(self, record: Record, whole: bool = False) -> None:
        """Compare the artifact's files with its record, cheaply; `DamagedArtifact` (set aside).

        Sizes always; contents of files up to 64 MiB, or of all with ``whole``, where the store is
        local. Remote contents are checked when they are fetched. Once per process and artifact.
        """
        if self._mark(record) in _verified:
            return
        sizes = self._storage.sizes(f"artifacts/{record.id}/{record.attempt}")
        for file in record.files:
            if file.path not in sizes:
                raise self._aside(record.id, record.attempt, file.path, "is missing")
            if sizes[file.path] != file.size:
                what = f"has {sizes[file.path]} bytes instead of {file.size}"
                raise self._aside(record.id, record.attempt, file.path, what)
        if not self.local:
            return
        for file in record.files:
            if whole or file.size <= SMALL_FILE_BYTES:
                self._check_contents(record, file, self._local(record))
        if whole or all(file.size <= SMALL_FILE_BYTES for file in record.files):
            _verified.add(self._mark(record))

    def _check_contents(self, record: Record, file: File, directory: Path) -> None:
        if file_sha256(directory / file.path) != file.sha256:
            raise self._aside(record.id, record.attempt, file.path, "does not match its sha256")

    def _mark(self, record: Record) -> tuple[str, str, str]:
        return self.url, record.id, record.attempt

    def _local(self, record: Record) -> Path:
        return self._cache / "artifacts" / record.id / record.attempt

    def _download(self, record: Record) -> Path:
        target = self._cache / "fetched" / record.id / record.attempt
        if self._mark(record) in _verified and target.is_dir():
            return target
        if target.is_dir():
            if all(matches(file, target) for file in record.files):
                _verified.add(self._mark(record))
                return target
            shutil.rmtree(target)  # only the copy is bad; the store has the truth
        part = target.with_name(f"{record.attempt}.part-{uuid.uuid4().hex}")
        part.mkdir(parents=True)
        try:
            for file in record.files:
                name = f"artifacts/{record.id}/{record.attempt}/{file.path}"
                try:
                    self._storage.get_file(name, part / file.path)
                except FileNotFoundError:
                    raise self._aside(record.id, record.attempt, file.path, "is missing") from None
                self._check_contents(record, file, part)
            try:
                os.rename(part, target)
            except OSError:
                if not target.is_dir():  # else another process has just fetched the same
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
        _verified.add(self._mark(record))
        return target

    # ---- damage --------------------------------------------------------------------------------

    def _aside(self, id: str, attempt: str | None, file: str, what: str) -> DamagedArtifact:
        """Set the damaged artifact aside, unless this store only looks; the error to raise."""
        if not self._mend:
            return DamagedArtifact(id, file, what, aside=False)
        try:
            if attempt is None:
                self._move_record_aside(id)
            else:
                self.set_aside(id, attempt)
        except UserError as error:  # a store that may only be read: the damage is the news
            return DamagedArtifact(id, file, f"{what} (and {error})", aside=False)
        return DamagedArtifact(id, file, what)

    def ids_aside(self) -> list[str]:
        """Ids of artifacts that were set aside and not made again since, sorted."""
        rest = set(self._storage.names("artifacts")) - set(self.ids())
        names = {id: self._storage.names(f"artifacts/{id}") for id in rest}
        return sorted(id for id in rest if any(n.startswith(ASIDE) for n in names[id]))

    def set_aside(self, id: str, attempt: str | None = None) -> bool:
        """Take back the commit of ``id``, so that a run makes it again; whether there was one.

        With ``attempt``, only if it is still that attempt which is committed. The data stay until
        the next commit of ``id`` or `gc`.
        """
        if attempt is not None:
            record = self.get(id)
            if record is None or record.attempt != attempt:
                return False
        return self._move_record_aside(id)

    def _move_record_aside(self, id: str) -> bool:
        aside = f"artifacts/{id}/{ASIDE}{uuid.uuid4().hex[:8]}.json"
        try:
            self._storage.rename(_record_name(id), aside)
        except FileNotFoundError:
            return False
        return True

    # ---- writing -------------------------------------------------------------------------------

    def commit(self, record: Record, local_dir: Path) -> Record:
        """Commit the files below ``local_dir`` as the artifact ``record.id``; use the result.

        ``local_dir`` is used up. Symbolic links to files are replaced by the files. If somebody
        else has committed the same id meanwhile, theirs stays and is returned. ``UserError`` if the
        store is full or cannot be written; nothing is visible then.
        """
        files = tuple(listed(local_dir))
        attempt = f"{datetime.now(UTC):{ATTEMPT_TIME}}-{uuid.uuid4().hex[:8]}"
        created = datetime.now(UTC).isoformat(timespec="seconds")
        record = dataclasses.replace(record, files=files, attempt=attempt, created=created)
        text = _pretty(record.to_json())
        tree = f"artifacts/{record.id}/{attempt}"
        try:
            self._storage.put_tree(tree, local_dir, [file.path for file in files])
            mine = self._storage.create(_record_name(record.id), text)
        except UserError:
            self._storage.remove(tree)
            # Whoever commits removes the attempts of others, maybe while this one was written.
            other = self.get(record.id)
            if other is None:
                raise
            return other
        except BaseException:
            self._storage.remove(tree)
            raise
        if not mine:
            self._storage.remove(tree)
            other = self.get(record.id)
            if other is None:
                raise UserError(f"store {self.url}: {record.id} was set aside while committing")
            return other
        if self.local:
            _verified.add(self._mark(record))
        self._remove_other_attempts(record)
        return record

    def _remove_other_attempts(self, record: Record) -> int:
        """Remove data of attempts that were not committed. They cannot be any more: one was."""
        orphans = [
            name
            for name in self._storage.names(f"artifacts/{record.id}")
            if name != record.attempt and not name.startswith("record.")
        ]
        for name in orphans:
            self._storage.remove(f"artifacts/{record.id}/{name}")
        return len(orphans)

    def gc(self, grace_seconds: float = ORPHAN_SECONDS) -> list[str]:
        """Remove the `leftovers`; their names. ``UserError`` if the store cannot be written."""
        removed = self._unreferenced(grace_seconds)
        for name in removed:
            self._storage.remove(name)
        return removed + self._sweep(grace_seconds, remove=True)

    def leftovers(self, grace_seconds: float = ORPHAN_SECONDS) -> list[str]:
        """Names of what no record points to and nobody touched for ``grace_seconds``.

        Attempts and claims beside a commit count at once, as do records that were set aside.
        Without a commit they may be under way, so attempts wait for the grace time, as does
        scratch; claims go stale by themselves.
        """
        return self._unreferenced(grace_seconds) + self._sweep(grace_seconds, remove=False)

    def _unreferenced(self, grace_seconds: float) -> list[str]:
        found: list[str] = []
        claims = set(self._storage.names("claims"))
        for id in self._storage.names("artifacts"):
            try:
                record = self.get(id)
            except DamagedArtifact:
                record = None
            keep = {record.attempt, "record.json"} if record else set()
            for name in self._storage.names(f"artifacts/{id}"):
                if name not in keep and (record or _older(name, grace_seconds)):
                    found.append(f"artifacts/{id}/{name}")
            if record and f"{id}.json" in claims:
                found.append(f"claims/{id}.json")
        return found + self._storage.temporary(grace_seconds)

    def _sweep(self, grace_seconds: float, remove: bool) -> list[str]:
        with self._storage.user_errors(reading=False):
            swept = sweep(self._cache / "work", grace_seconds, remove)
        return [f"work/{name}" for name in swept]

    def work_dir(self, id: str) -> Path:
        """Local scratch for making ``id``: the same after ``kill -9``, removed after the commit."""
        return self._directory("work", id)

    def write_bytes(self, name: str, data: bytes) -> str:
        """Write the file ``name`` (such as ``runs/NAME/report.html``) as a whole; its URL."""
        self._storage.write_bytes(name, data)
        return f"{self.url}/{name}"

    def read_bytes(self, name: str) -> bytes:
        """Read the file ``name``; ``FileNotFoundError`` if there is none."""
        return self._storage.read_bytes(name)

    def write_json(self, name: str, value: Any) -> str:
        """Write ``value`` as JSON, as a whole; its URL. Nan and infinity raise ``ValueError``."""
        return self.write_bytes(name, _pretty(value))

    def read_json(self, name: str) -> Any:
        """Read a JSON file; ``FileNotFoundError``, or ``UserError`` if it is not JSON."""
        try:
            return json.loads(self._storage.read_bytes(name))
        except ValueError as error:
            raise UserError(f"store {self.url}: {name} is not valid JSON: {error}") from None

    def events_path(self, run: str) -> Path:
        """The local file that takes the events of the run ``run``; its directory is there."""
        return self._directory("runs", run) / "events.jsonl"

    def _directory(self, *names: str) -> Path:
        path = self._cache.joinpath(*names)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnusablePlace(
                f"store {self.url}: cannot make {path}: {error.strerror}"
            ) from error
        return path

    def create(self, name: str, data: bytes) -> bool:
        """Write the file ``name`` unless it is there already; whether it was written."""
        return self._storage.create(name, data)

    def remove(self, name: str) -> None:
        """Remove the file or tree ``name``; what is not there is fine."""
        self._storage.remove(name)

    def names(self, name: str) -> list[str]:
        """Names right below the directory ``name`` (such as ``runs``), sorted."""
        return self._storage.names(name)


def _older(name: str, seconds: float) -> bool:
    """Whether ``name``, in an artifact without a readable record, is older than ``seconds``."""
    if name.startswith("record."):
        return True
    try:
        begun = datetime.strptime(name.split("-")[0], ATTEMPT_TIME).replace(tzinfo=UTC)
    except ValueError:  # nothing of ours
        return False
    return (datetime.now(UTC) - begun).total_seconds() > seconds


def _record_name(id: str) -> str:
    return f"artifacts/{id}/record.json"


def _pretty(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()
