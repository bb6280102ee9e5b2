"""Answers on disk as they come, in few files, so that a killed run goes on where it was.

A part file holds the answers of consecutive writes and is named after them: ``00000000-00000031``
holds writes 0 to 31. It is written under another name, synced and renamed, so what is there under
its name is whole. Small parts are merged into one; killed after the merged part is there and before
the small ones are gone, both lie in the folder, and the names tell that one is in the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from msm_ray.llm.protocol import ANSWER_SCHEMA

# Writes in one merged part. A million answers, 64 to a write, are 61 merged parts.
MERGE_WRITES = 256
_SLICE_ROWS = 8192
_NAME = re.compile(r"(\d{8,})-(\d{8,})\.parquet")
_TEMPORARY = "writing.parquet"


class Journal:
    """The parts in one folder. Only one process may write to it.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _TEMPORARY).unlink(missing_ok=True)  # of a killed process
        self._parts: list[tuple[int, int]] = []
        for first, last in sorted(_ranges(folder), key=lambda part: (part[0], -part[1])):
            if self._parts and last <= self._parts[-1][1]:
                self._file(first, last).unlink()  # was merged
            else:
                self._parts.append((first, last))

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Write rows of ANSWER_SCHEMA; when this returns, they survive a crash."""
        number = self._parts[-1][1] + 1 if self._parts else 0
        self._write(number, number, [pa.Table.from_pylist(rows, schema=ANSWER_SCHEMA)])
        self._parts.append((number, number))
        small = [part for part in self._parts[-MERGE_WRITES:] if part[0] == part[1]]
        if len(small) == MERGE_WRITES:
            self._merge(small)

    def ids(self) -> pa.ChunkedArray:
        """The ids of all rows."""
        columns = [pq.read_table(self._file(*part), columns=["id"])["id"] for part in self._parts]
        return pa.chunked_array([c for column in columns for c in column.chunks], type=pa.string())

    def table(self) -> pa.Table:
        """All rows, in the order in which they were written."""
        tables = [pq.read_table(self._file(*part)) for part in self._parts]
        return pa.concat_tables([ANSWER_SCHEMA.empty_table(), *tables])

    def _merge(self, parts: list[tuple[int, int]]) -> None:
        first, last = parts[0][0], parts[-1][1]
        self._write(first, last, [pq.read_table(self._file(*part)) for part in parts])
        self._parts[-len(parts) :] = [(first, last)]
        for part in parts:
            self._file(*part).unlink()

    def _file(self, first: int, last: int) -> Path:
        return self._folder / f"{first:08d}-{last:08d}.parquet"

    def _write(self, first: int, last: int, tables: list[pa.Table]) -> None:
        temporary = self._folder / _TEMPORARY
        with temporary.open("wb") as file:
            pq.write_table(pa.concat_tables(tables), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._file(first, last))
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Flusher:
    """Gathers rows of a running event loop and appends them to a journal in batches.

    Args:
        journal: where to.
        rows: this many are written at once...
        seconds: ...or what there is after so long.
        written: called after each write, in the event loop.
    """

    def __init__(
        self, journal: Journal, rows: int, seconds: float, written: Callable[[], None]
    ) -> None:
        self._journal, self._rows, self._seconds, self._written = journal, rows, seconds, written
        self._waiting: list[dict[str, Any]] = []
        self._wake = asyncio.Event()
        self._closing = False

    def add(self, row: dict[str, Any]) -> None:
        """Have a row of ANSWER_SCHEMA written soon."""
        self._waiting.append(row)
        if len(self._waiting) >= self._rows:
            self._wake.set()

    def close(self) -> None:
        """Have `run` return."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Write until closed."""
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._wake.wait()
            self._wake.clear()
            rows, self._waiting = self._waiting, []
            if rows:
                # Waiting for the disk must not stop the answers that are coming in.
                await asyncio.to_thread(self._journal.append, rows)
            self._written()

    def finish(self) -> None:
        """Write what is left, when `run` has returned and nothing more is added."""
        if self._waiting:
            self._journal.append(self._waiting)
            self._waiting = []


def in_order(ids: pa.ChunkedArray, answers: pa.Table) -> pa.Table:
    """The rows of ``answers`` in the order of ``ids``; both have the same ids, each once."""
    assert answers.num_rows == len(ids), "there are more or fewer answers than prompts"
    found = pc.index_in(ids.combine_chunks(), value_set=answers["id"].combine_chunks())
    assert found.null_count == 0, "a prompt has no answer"
    where = found.to_numpy()
    assert len(np.unique(where)) == len(ids), "an id was answered twice"
    # Arrow would first make one array of all texts, and 2 GiB of text are more than it can hold.
    batches = answers.to_batches()
    ends = np.cumsum([batch.num_rows for batch in batches])
    tables = [ANSWER_SCHEMA.empty_table()]
    for start in range(0, len(where), _SLICE_ROWS):
        rows = where[start : start + _SLICE_ROWS]
        order = np.argsort(rows)
        batch_of = np.searchsorted(ends, rows[order], side="right")
        pieces = []
        for number in np.unique(batch_of):
            first = ends[number] - batches[number].num_rows
            pieces.append(batches[number].take(pa.array(rows[order][batch_of == number] - first)))
        tables.append(pa.Table.from_batches(pieces).take(pa.array(np.argsort(order))))
    return pa.concat_tables(tables)


def _ranges(folder: Path) -> list[tuple[int, int]]:
    matches = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    return [(int(match[1]), int(match[2])) for match in matches if match]
