"""Reading a plan's file in batches, so that memory does not grow with it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from msm_ray.records import DOCUMENT_SCHEMA

_PLAN_COLUMNS = ("index", "prompt", "section_text")  # of a plan row, besides the document's own
_MEASURED_ROWS = 64  # at a time: each may have a long spec and a long section of it


def row_bytes(plan: Path) -> int:
    """Of the texts that are held for one document of a plan, for the one with most.

    A request is held as a row of the plan and as a prompt. A section is held as a row of the plan,
    in Arrow and in Python, and as a part of the judge's prompt, in both again.
    """
    most = 0
    file = pq.ParquetFile(plan, pre_buffer=False)
    columns = {"system": 1, "prompt": 2, "section_text": 4}
    for batch in file.iter_batches(batch_size=_MEASURED_ROWS, columns=list(columns)):
        sizes = [
            pc.multiply(pc.cast(pc.binary_length(batch[name]), pa.int64()), times)
            for name, times in columns.items()
        ]
        most = max(most, pc.max(reduce(pc.add, sizes)).as_py() or 0)
    return most


def batches(plan: Path, ids: set[str] | None, rows: int) -> Iterator[tuple[int, pa.Table]]:
    """The plan's rows in numbered batches of ``rows``; only those with one of ``ids``, if given.

    A row's batch has the same number in every draft and every run: its answers lie below it.
    """
    columns = list(dict.fromkeys([*_document_columns(), *_PLAN_COLUMNS, "system"]))
    file = pq.ParquetFile(plan, pre_buffer=False)  # else all that was read stays in memory
    for number, batch in enumerate(file.iter_batches(batch_size=rows, columns=columns)):
        table = pa.Table.from_batches([batch])
        if ids is not None:
            wanted = pa.array([id in ids for id in table["id"].to_pylist()], pa.bool_())
            table = table.filter(wanted)
        if table.num_rows:
            yield number, table


def _document_columns() -> list[str]:
    made = {"text", "tokens", "model", "sampling"}
    return [name for name in DOCUMENT_SCHEMA.names if name not in made]
