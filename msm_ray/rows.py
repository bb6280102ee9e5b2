"""Rows that somebody else made: Parquet and JSONL files, here or behind any fsspec URL."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.errors import UserError

SUFFIXES = (".jsonl", ".parquet")
# What object stores and hubs say of a file's content, by the names that fsspec has for it.
_MARKS = ("sha256", "md5Hash", "content_md5", "blob_id", "ETag", "etag")


@dataclass(frozen=True)
class File:
    """One file: its path as its file system names it, its size in bytes."""

    path: str
    size: int
    system: Any = field(repr=False)  # of fsspec

    def content(self) -> str:
        """What it holds, in few characters: the hash of its bytes.

        A remote file is not fetched for it where its store has a mark of the content (an object
        store's ETag or MD5); that is the hash then.
        """
        if _is_local(self.system):
            return _sha256(*_state(Path(self.path)))
        info: Mapping[str, Any] = self.system.info(self.path)
        for name in _MARKS:
            if isinstance(mark := info.get(name), str) and mark:
                return f"{name}:{mark.strip(chr(34))}:{self.size}"
        with self.system.open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def most_characters(self, column: str) -> int | None:
        """No more than so many characters of different texts are in ``column``; None: not known.

        Known without reading it: a JSONL file has no more than bytes, and a local Parquet file says
        how long a column of strings is where none is kept as what differs from the one before.
        """
        if self.path.endswith(".jsonl"):
            return self.size
        if not _is_local(self.system):
            return None
        return _column_bytes(*_state(Path(self.path)), column)

    def rows(self, column: str) -> Iterator[Any]:
        """Its rows as mappings with ``column``; None for a line that is no JSON.

        Raises:
            UserError: it is no Parquet file, or has no such column.
        """
        with self.system.open(self.path, "rb") as file:
            if self.path.endswith(".parquet"):
                # Arrow reads a local file faster by itself.
                source = self.path if _is_local(self.system) else file
                yield from parquet_rows(source, self.path, column)
            else:
                yield from jsonl_rows(file)


def files_of(source: str) -> list[File]:
    """The Parquet and JSONL files of ``source``: a file, a folder or a glob, path or fsspec URL.

    Empty files are passed over. In the order of their names.

    Raises:
        UserError: nothing is there, or it cannot be read.
    """
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(source)
        if any(c in path for c in "*?["):
            found = system.glob(path, detail=True)
        elif system.isdir(path):
            found = system.find(path, detail=True)
        else:
            found = {path: system.info(path)} if system.exists(path) else {}
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"{source}: cannot be read: {' '.join(str(error).split())}") from None
    if not found:
        raise UserError(f"{source}: no such file")
    files = [
        File(path, int(info["size"]), system)
        for path, info in sorted(found.items())
        if info["type"] == "file" and path.endswith(SUFFIXES) and info["size"]
    ]
    if not files:
        raise UserError(f"{source}: has no {' or '.join(SUFFIXES)} file that holds anything")
    return files


def parquet_rows(file: Any, name: str, column: str) -> Iterator[Any]:
    """The rows of a Parquet file, each with ``column`` alone.

    Args:
        file: a path or an open file.
        name: what an error calls it.

    Raises:
        UserError: it is no Parquet file, or has no such column.
    """
    try:
        table = pq.ParquetFile(file, pre_buffer=False)  # else all that was read stays in memory
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{name}: is no Parquet file: {error}") from None
    if column not in table.schema_arrow.names:
        raise UserError(
            f"{name}: has no column {column!r}; it has {', '.join(table.schema_arrow.names)}"
        )
    for batch in table.iter_batches(batch_size=4096, columns=[column]):
        yield from batch.to_pylist()


def jsonl_rows(file: BinaryIO) -> Iterator[Any]:
    """What the lines of an open file are; None for one that is no JSON."""
    for line in io.TextIOWrapper(file, encoding="utf-8", errors="replace"):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None


def file_sha256(path: Path) -> str:
    """The hash of a local file's bytes; UserError if it cannot be read."""
    try:
        return _sha256(*_state(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def is_text(value: str) -> bool:
    """Whether it can be stored: half a surrogate pair, which JSON may hold, cannot."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _state(path: Path) -> tuple[str, int, int]:
    """What a file's content is cached by: its path, its size, when it changed."""
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=65_536)
def _sha256(path: str, size: int, changed_ns: int) -> str:
    """Read once a process as long as the file stays: a job's stages are made many times."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=65_536)
def _column_bytes(path: str, size: int, changed_ns: int, column: str) -> int | None:
    try:
        table = pq.ParquetFile(path).metadata
    except (pa.ArrowInvalid, OSError):
        return None  # who reads it will say so
    groups = (table.row_group(i) for i in range(table.num_row_groups))
    chunks = [c for g in groups for c in map(g.column, range(g.num_columns))]
    own = [c for c in chunks if c.path_in_schema == column]
    if any("DELTA_BYTE_ARRAY" in c.encodings for c in own):
        return None
    return sum(c.total_uncompressed_size for c in own) if own else None


def _is_local(system: Any) -> bool:
    protocol = system.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)
