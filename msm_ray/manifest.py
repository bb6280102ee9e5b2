"""The record of an artifact: what it was made from, and which files it has.

The record is the commit: it is written last, with the size and sha256 of every data file and a
hash of its own contents, so that a reader can tell a sound artifact from a damaged one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msm_ray.errors import UserError
from msm_ray.identity import canonical, digest


class DamagedArtifact(UserError):
    """A file of a committed artifact is not what its record says.

    ``id`` is the artifact, ``file`` the name of the file in it, ``aside`` whether it was set aside.
    A run that needs the artifact makes it again.
    """

    def __init__(self, id: str, file: str, what: str, aside: bool = True) -> None:
        then = "set aside, a run makes" if aside else "a run sets it aside and makes"
        super().__init__(f"damaged: {file} in {id} {what}; {then} it again")
        self.id, self.file, self.what, self.aside = id, file, what, aside

    def __reduce__(self) -> tuple[type[DamagedArtifact], tuple[str, str, str, bool]]:
        return DamagedArtifact, (self.id, self.file, self.what, self.aside)


class MissingArtifact(UserError):
    """No artifact ``id`` is committed in the store."""

    def __init__(self, url: str, id: str) -> None:
        super().__init__(f"store {url}: no artifact {id}")
        self.url, self.id = url, id

    def __reduce__(self) -> tuple[type[MissingArtifact], tuple[str, str]]:
        return MissingArtifact, (self.url, self.id)


@dataclass(frozen=True)
class File:
    """One data file of an artifact: name relative to its directory, size in bytes, sha256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """What is known of one committed artifact. ``files`` and ``attempt`` come with the commit."""

    id: str
    kind: str
    label: str
    version: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]  # name -> artifact id
    facts: Mapping[str, Any] = field(default_factory=dict)  # counts and metrics, as JSON values
    provenance: Mapping[str, Any] = field(default_factory=dict)  # versions, where it ran
    seconds: float = 0.0  # what making it took
    attempt: str = ""
    files: tuple[File, ...] = ()
    created: str = ""  # ISO 8601, UTC

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with the hash that shows a changed record."""
        plain: dict[str, Any] = canonical(dataclasses.asdict(self), f"record {self.id}")
        return {**plain, "record_sha256": digest(plain)}

    @staticmethod
    def from_json(value: Any) -> Record:
        """The inverse of `to_json`; ``ValueError`` says what is wrong with ``value``."""
        if not isinstance(value, dict):
            raise ValueError("is not a JSON object")
        plain = {key: item for key, item in value.items() if key != "record_sha256"}
        if digest(plain) != value.get("record_sha256"):
            raise ValueError("does not match its own sha256")
        files = tuple(File(**file) for file in plain.pop("files"))
        return Record(**plain, files=files)

    @property
    def bytes(self) -> int:
        """Size of all data files."""
        return sum(file.size for file in self.files)


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def matches(file: File, directory: Path) -> bool:
    path = directory / file.path
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    return file_sha256(path) == file.sha256


def listed(directory: Path) -> list[File]:
    """All files below ``directory``, sorted by name, with symbolic links made into files."""
    files = []
    for path in sorted(directory.rglob("*")):
        if path.is_symlink():
            source = path.resolve(strict=True)
            if source.is_dir():
                raise ValueError(f"{path.name}: an artifact cannot hold a link to a directory")
            path.unlink()
            shutil.copyfile(source, path)
        if path.is_file():
            name = path.relative_to(directory).as_posix()
            files.append(File(name, path.stat().st_size, file_sha256(path)))
    return sorted(files, key=lambda file: file.path)
