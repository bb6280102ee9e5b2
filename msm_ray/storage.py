"""Files of a store, by relative name, on a local disk or behind any other fsspec URL.

A local store is written so that a crash leaves the old file or the new one, never half of one:
temporary file, fsync, rename. Object stores replace an object as a whole by themselves. What goes
wrong with the place itself (full, not writable, not there, unknown) is the user's to mend and comes
out as one line, `UserError`.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from msm_ray.errors import UnusablePlace, UserError

_REASONS = {
    errno.ENOSPC: "is full; free some space or name another store",
    errno.EDQUOT: "is over its disk quota; free some space or name another store",
    errno.EACCES: "cannot be written: permission denied",
    errno.EPERM: "cannot be written: permission denied",
    errno.EROFS: "cannot be written: the file system is read-only",
    errno.ENOTDIR: "needs a directory, and there is a file in its way",
    errno.EEXIST: "needs a directory, and there is a file in its way",
}

TEMPORARY = ".tmp"  # directory of a local store for files that are being written


class Storage:
    """Named blobs and trees of files below one URL or local path.

    Relative names use ``/``. A name that is not there raises ``FileNotFoundError``.
    """

    def __init__(self, url: str, write: bool = True) -> None:
        """``write=True`` tries a write; otherwise nothing is made and the place may not exist."""
        if not url or "\0" in url:
            raise UserError(f"store {url!r}: not a path or URL")
        self.root: Path | None = None
        protocol = url.split("://", 1)[0] if "://" in url else ""
        if protocol in ("", "file", "local"):
            path = url.split("://", 1)[1] if protocol else url
            self.root = Path(os.path.abspath(os.path.expanduser(path)))
            self.url = str(self.root)
        else:
            self.url = url.rstrip("/")
            self._fs, self._base = _connect(self.url, protocol)
        if write:
            probe = f"{TEMPORARY}/probe-{uuid.uuid4().hex}"  # only a write shows that one can write
            self.write_bytes(probe, b"")
            self.remove(probe)

    @contextmanager
    def user_errors(self, reading: bool = True) -> Iterator[None]:
        """Turn what is wrong with the place itself into one line for the user.

        Only a reader can take "not found" as an answer.
        """
        try:
            yield
        except (UserError, AssertionError):
            raise
        except FileNotFoundError as error:
            if reading:
                raise
            raise UnusablePlace(f"store {self.url}: cannot be written: {_line(error)}") from error
        except OSError as error:
            reason = _REASONS.get(error.errno or 0)
            if reason is None and isinstance(error, PermissionError):
                reason = _REASONS[errno.EACCES]
            raise UnusablePlace(f"store {self.url}: {reason or _line(error)}") from error
        except Exception as error:
            if self.root is not None:
                raise
            # A remote file system has errors of its own (no credentials, no such host).
            raise UnusablePlace(f"store {self.url}: cannot be used: {_line(error)}") from error

    def path(self, name: str) -> Path | None:
        """Where ``name`` lies on this machine, or None where the store is remote."""
        return None if self.root is None else self.root / _checked(name)

    def _key(self, name: str) -> str:
        return f"{self._base}/{_checked(name)}"

    def read_bytes(self, name: str) -> bytes:
        with self.user_errors():
            if self.root is not None:
                return (self.root / _checked(name)).read_bytes()
            data: bytes = self._fs.cat_file(self._key(name))
            return data

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write ``name`` as a whole, replacing what was there."""
        with self.user_errors(reading=False):
            if self.root is not None:
                target = self.root / _checked(name)
                with self._temporary(target, data) as temporary:
                    os.replace(temporary, target)
            else:
                self._fs.pipe_file(self._key(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Write ``name`` as a whole unless it is there already; whether it was written.

        Of several processes that create one name at once, one succeeds. An object store without
        conditional writes may let the last one win instead; nothing here relies on it for safety.
        """
        with self.user_errors(reading=False):
            if self.root is not None:
                target = self.root / _checked(name)
                with self._temporary(target, data) as temporary:
                    try:
                        os.link(temporary, target)
                    except FileExistsError:
                        return False
                    except OSError as error:
                        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                            raise
                        # A file system without hard links: the last of two writers wins there.
                        if target.exists():
                            return False
                        os.replace(temporary, target)
                return True
            if self._fs.exists(self._key(name)):
                return False
            try:
                self._fs.pipe_file(self._key(name), data, mode="create")
            except FileExistsError:
                return False
            return True

    @contextmanager
    def _temporary(self, target: Path, data: bytes) -> Iterator[Path]:
        """``data`` in a file of its own on ``target``'s disk, gone afterwards."""
        assert self.root is not None
        path = self.root / TEMPORARY / uuid.uuid4().hex
        target.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(exist_ok=True)
        try:
            with open(path, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield path
            _sync(target.parent)
        finally:
            path.unlink(missing_ok=True)

    def temporary(self, grace_seconds: float) -> list[str]:
        """Names of temporary files that killed processes left so long ago."""
        if self.root is None:
            return []
        found = []
        for path in sorted((self.root / TEMPORARY).glob("*")):
            with suppress(FileNotFoundError):  # its process has just finished with it
                if time.time() - path.stat().st_mtime > grace_seconds:
                    found.append(f"{TEMPORARY}/{path.name}")
        return found

    def put_tree(self, name: str, directory: Path, files: list[str]) -> None:
        """Bring ``files`` of the local ``directory`` to the tree ``name``, which is new.

        ``directory`` is used up: a local store takes it as it is, by renaming.
        """
        with self.user_errors(reading=False):
            if self.root is None:
                for file in files:
                    self._fs.put_file(str(directory / file), self._key(f"{name}/{file}"))
                shutil.rmtree(directory)
                return
            target = self.root / _checked(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(directory, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                for file in files:  # scratch lies on another disk
                    (target / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(directory / file, target / file)
                shutil.rmtree(directory)
            folders = sorted({target, *((target / file).parent for file in files)})
            # Some libraries write a temporary file, which only its owner may read, and rename it.
            mode = _mode_of_new(target)
            for file in files:
                _make_mode(target / file, mode)
            for folder in folders:
                _make_mode(folder, mode | (mode & 0o444) >> 2)
            # All of it is on the disk before the record says so.
            for path in (*(target / file for file in files), *folders):
                _sync(path)
            _sync(target.parent)

    def get_file(self, name: str, target: Path) -> None:
        """Download ``name`` to the local file ``target``."""
        with self.user_errors():
            target.parent.mkdir(parents=True, exist_ok=True)
            if self.root is not None:
                shutil.copyfile(self.root / _checked(name), target)
            else:
                self._fs.get_file(self._key(name), str(target))

    def sizes(self, name: str) -> dict[str, int]:
        """All files below ``name``: relative name -> size in bytes. Empty if there is none."""
        with self.user_errors():
            if self.root is not None:
                top = self.root / _checked(name)
                return {
                    path.relative_to(top).as_posix(): path.stat().st_size
                    for path in sorted(top.rglob("*"))
                    if path.is_file()
                }
            prefix = self._key(name) + "/"
            found: dict[str, Any] = self._fs.find(prefix, detail=True)
            # fsspec may or may not put a leading slash on what it finds
            start = len(prefix.lstrip("/"))
            return {key.lstrip("/")[start:]: int(info["size"]) for key, info in found.items()}

    def names(self, name: str) -> list[str]:
        """Names of the files and directories right below ``name``, sorted."""
        with self.user_errors():
            if self.root is not None:
                top = self.root / _checked(name)
                return sorted(os.listdir(top)) if top.is_dir() else []
            try:
                found = self._fs.ls(self._key(name), detail=False)
            except FileNotFoundError:
                return []
            return sorted({PurePosixPath(key).name for key in found} - {PurePosixPath(name).name})

    def remove(self, name: str) -> None:
        """Remove the file or tree ``name``; what is not there is fine."""
        with self.user_errors(), suppress(FileNotFoundError):
            if self.root is None:
                self._fs.rm(self._key(name), recursive=True)
            elif (self.root / _checked(name)).is_dir():
                shutil.rmtree(self.root / _checked(name), ignore_errors=False)
            else:
                (self.root / _checked(name)).unlink()

    def rename(self, name: str, to: str) -> None:
        """Rename the file ``name``."""
        with self.user_errors():
            if self.root is not None:
                os.replace(self.root / _checked(name), self.root / _checked(to))
            else:
                self._fs.mv(self._key(name), self._key(to))


def is_full(error: BaseException) -> bool:
    """Whether a full disk is behind ``error``, in the words of whichever library met it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _connect(url: str, protocol: str) -> tuple[Any, str]:
    import fsspec
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    if protocol not in fsspec.available_protocols():
        raise UserError(
            f"store {url}: unknown protocol {protocol!r}; use a local path or an fsspec URL such "
            "as s3://bucket/folder or gs://bucket/folder"
        )
    try:
        # Listings are never cached: other processes write to the same store.
        file_system, base = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        hint = str(known_implementations.get(protocol, {}).get("err", ""))
        packages = [word for word in ("s3fs", "gcsfs", "adlfs", "ossfs") if word in hint]
        mend = f"; pip install {packages[0]}" if packages else ""
        raise UserError(f"store {url}: {hint or _line(error)}{mend}") from error
    except Exception as error:
        raise UserError(f"store {url}: cannot be used: {_line(error)}") from error
    return file_system, str(base).rstrip("/")


def _checked(name: str) -> str:
    assert name not in ("", "."), "a file of a store has a name"
    assert ".." not in PurePosixPath(name).parts, name
    assert not name.startswith("/"), name
    return name


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__


def _mode_of_new(folder: Path) -> int:
    """The permissions of a new file in ``folder``: to ask for the umask itself is to change it."""
    probe = folder / uuid.uuid4().hex
    with open(probe, "xb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o666
    probe.unlink()
    return mode


def _make_mode(path: Path, mode: int) -> None:
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


def _sync(path: Path) -> None:
    """Wait until the file or directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
