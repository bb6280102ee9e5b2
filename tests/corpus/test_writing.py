"""Writing a corpus: what is held of a plan while it is read."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.corpus import writing
from msm_ray.records import PLAN_SCHEMA
from tests.corpus.toy import make_plans


def test_memory_does_not_grow_with_the_plan(tmp_path: Path) -> None:
    """Arrow holds one batch of a plan, never the bytes of all that was read or is to be."""
    rng = random.Random(0)
    with pq.ParquetWriter(tmp_path / "plan.parquet", PLAN_SCHEMA) as file:
        for _ in range(20):
            rows = [{**row, "prompt": rng.randbytes(500).hex()} for row in make_plans(500)]
            file.write_table(pa.Table.from_pylist(rows, PLAN_SCHEMA))
    before = pa.total_allocated_bytes()
    held, read = [], 0
    for _, batch in writing._batches(tmp_path / "plan.parquet", None, 500):
        held.append(pa.total_allocated_bytes() - before)
        read += batch.num_rows
    assert read == 20 * 500
    assert max(held) < (tmp_path / "plan.parquet").stat().st_size / 2
