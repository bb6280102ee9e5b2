"""Tokenizing a large Parquet file on a Ray cluster, through Ray Data; the same rows as in process.

Ray Data promises neither that a rerun writes a row once nor, by itself, the order of rows. Nothing
is written by it here, the order is asked for, and what comes back is compared with the file's ids.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from msm_ray.data.tokens import ROWS, Encoder, TokenizedDocuments, joined
from msm_ray.errors import UserError

LEAST_BYTES = 32 * 2**20  # of text; below, starting Ray Data takes longer than the work
BLOCK_BYTES = 8 * 2**20  # of text, in a task


def worthwhile(path: Path, least_bytes: int = LEAST_BYTES) -> bool:
    """Whether a cluster is there, with a CPU to spare, and the file is large enough.

    A stage holds a CPU itself while it waits. Were all of them held by stages that wait for Ray
    Data, none would get on; one that finds no free CPU does its work itself, and frees its own.
    """
    if not ray.is_initialized() or ray.available_resources().get("CPU", 0) < 1:
        return False
    return _bytes(path) >= least_bytes


def _bytes(path: Path) -> int:
    """Of the file's columns, before compression."""
    meta = pq.read_metadata(path)
    return sum(int(meta.row_group(i).total_byte_size) for i in range(meta.num_row_groups))


def batches(path: Path, encoder: Encoder) -> Iterator[TokenizedDocuments]:
    """The file's rows in order, tokenized by Ray Data tasks.

    Raises:
        UserError: what the encoder says of a row.
        RuntimeError: Ray Data lost, doubled or moved a row.
    """
    import ray.data
    from ray.data import DataContext

    here = ray.get_runtime_context().get_node_id()
    shared = ray.put(encoder)
    column = encoder.column

    def encode(table: pa.Table) -> pa.Table:
        said = None
        try:
            docs = ray.get(shared)(table["id"].to_pylist(), table[column].to_pylist())
        except UserError as error:  # raised in a task, its line would be lost in Ray's traceback
            said, docs = str(error), joined([])
        offsets = pa.array(docs.offsets, pa.int64())
        encoded = pa.table(
            {
                "id": pa.array(docs.ids, pa.string()),
                "tokens": pa.LargeListArray.from_arrays(offsets, pa.array(docs.tokens)),
                "loss": pa.LargeListArray.from_arrays(offsets, pa.array(docs.loss)),
                "error": pa.nulls(len(docs), pa.string()),
            }
        )
        if said is None:
            return encoded
        row = {"id": "", "tokens": [], "loss": [], "error": said}
        return pa.Table.from_pylist([row], schema=encoded.schema)

    with _quiet(), DataContext.current(_context()):
        # The file lies where this process runs: tasks that read it have to run on this node.
        dataset = ray.data.read_parquet(
            str(path.absolute()),
            columns=["id", column],
            override_num_blocks=-(-_bytes(path) // BLOCK_BYTES),
            label_selector={"ray.io/node-id": here},
        )
        encoded = dataset.map_batches(encode, batch_size=ROWS, batch_format="pyarrow")
        tables = encoded.iter_batches(batch_size=ROWS, batch_format="pyarrow")
    expected = _ids(path)
    with _quiet():
        for table in tables:
            for said in table["error"].drop_null().to_pylist():
                raise UserError(said)
            docs = _documents(table)
            for name in docs.ids:
                if name != (due := next(expected, None)):
                    raise RuntimeError(f"{path}: Ray Data gave row {name!r} where {due!r} was due")
            yield docs
    if (due := next(expected, None)) is not None:
        raise RuntimeError(f"{path}: Ray Data ended before row {due!r}")


def _context() -> Any:
    """Ray Data's settings for one dataset; those of the process stay as they are."""
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # The second version of the Parquet reader makes one block of one file, whatever is asked.
    context.use_datasource_v2 = False
    return context


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Only Ray Data's errors in the terminal, which shows progress of its own."""
    logger = logging.getLogger("ray.data")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _ids(path: Path) -> Iterator[str]:
    for batch in pq.ParquetFile(path, memory_map=True).iter_batches(ROWS, columns=["id"]):
        yield from batch["id"].to_pylist()


def _documents(table: pa.Table) -> TokenizedDocuments:
    tokens = table["tokens"].combine_chunks()
    lengths = tokens.value_lengths().to_numpy()
    return TokenizedDocuments(
        ids=tuple(table["id"].to_pylist()),
        tokens=tokens.flatten().to_numpy().astype(np.int32),
        loss=table["loss"].combine_chunks().flatten().to_numpy().astype(np.uint8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )
