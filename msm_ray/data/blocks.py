"""Packed blocks on disk: an Arrow file that every rank maps into memory and reads by index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from msm_ray.data.packing import BlockArrays
from msm_ray.errors import UserError

BLOCKS_FILE = "blocks.arrow"
MANIFEST_FILE = "manifest.json"
_ROWS_PER_BATCH = 65536
_SOURCE = pa.struct([("component", pa.string()), ("document", pa.string())])


def write_blocks(directory: Path, blocks: BlockArrays, manifest: Mapping[str, Any]) -> None:
    """Write ``blocks.arrow`` and ``manifest.json`` into an existing directory.

    The columns lie uncompressed, so that reading block i touches its own pages only.
    """
    n, block_tokens = blocks.input_ids.shape
    schema = pa.schema(
        [
            ("input_ids", pa.list_(pa.int32(), block_tokens)),
            ("position_ids", pa.list_(pa.int32(), block_tokens)),
            ("loss_mask", pa.list_(pa.uint8(), block_tokens)),
            ("tokens", pa.int32()),
            ("loss_tokens", pa.int32()),
            ("sources", pa.list_(_SOURCE)),
        ]
    )
    loss_tokens = blocks.loss_tokens
    with (
        pa.OSFile(str(directory / BLOCKS_FILE), "wb") as sink,
        pa.ipc.new_file(sink, schema) as out,
    ):
        for start in range(0, n, _ROWS_PER_BATCH):
            rows = slice(start, start + _ROWS_PER_BATCH)
            columns = [
                pa.FixedSizeListArray.from_arrays(pa.array(array[rows].reshape(-1)), block_tokens)
                for array in (blocks.input_ids, blocks.position_ids, blocks.loss_mask)
            ]
            sources = [
                [{"component": c, "document": d} for c, d in row] for row in blocks.sources[rows]
            ]
            columns += [
                pa.array(blocks.tokens[rows]),
                pa.array(loss_tokens[rows]),
                pa.array(sources, type=pa.list_(_SOURCE)),
            ]
            out.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    text = json.dumps(dict(manifest), indent=1, sort_keys=True)
    (directory / MANIFEST_FILE).write_text(text + "\n")


class BlockReader:
    """Random access to the blocks of a directory written by :func:`write_blocks`.

    ``block_tokens``: T. ``tokens``, ``loss_tokens``: [N] counts of each block. ``manifest``: the
    JSON beside the blocks.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / BLOCKS_FILE
        if not path.is_file():
            raise UserError(f"{directory}: no packed blocks there ({BLOCKS_FILE} is missing)")
        self.manifest: dict[str, Any] = json.loads((directory / MANIFEST_FILE).read_text())
        self._file = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = [self._file.get_batch(i) for i in range(self._file.num_record_batches)]
        self._rows = sum(int(batch.num_rows) for batch in batches)
        if self._rows == 0:
            raise UserError(f"{directory}: the blocks are empty")
        self.block_tokens = int(self._file.schema.field("input_ids").type.list_size)
        self._columns = {
            name: [
                batch.column(name).flatten().to_numpy().reshape(-1, self.block_tokens)
                for batch in batches
            ]
            for name in ("input_ids", "position_ids", "loss_mask")
        }
        self.tokens: NDArray[np.int32] = _concatenate(batches, "tokens")
        self.loss_tokens: NDArray[np.int32] = _concatenate(batches, "loss_tokens")

    def __len__(self) -> int:
        return self._rows

    def rows(self, name: str, indices: NDArray[np.int64]) -> NDArray[Any]:
        """[len(indices), T] of one column: ``input_ids``, ``position_ids`` or ``loss_mask``."""
        batches = self._columns[name]
        out = np.empty((len(indices), self.block_tokens), dtype=batches[0].dtype)
        for row, index in enumerate(indices.tolist()):
            batch, at = divmod(index, _ROWS_PER_BATCH)
            out[row] = batches[batch][at]
        return out

    def sources(self, index: int) -> list[tuple[str, str]]:
        """The ``(component, document id)`` pairs of one block."""
        batch, at = divmod(index, _ROWS_PER_BATCH)
        value = self._file.get_batch(batch).column("sources")[at].as_py()
        return [(entry["component"], entry["document"]) for entry in value]

    def component_index(self) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
        """Which component each piece of a document is of, over all blocks, without their ids.

        Returns the components' names, sorted; [pieces] indices into them, in block order; and [N]
        the first piece of each block.
        """
        columns = [
            self._file.get_batch(i).column("sources") for i in range(self._file.num_record_batches)
        ]
        pieces = pa.chunked_array([column.flatten().field("component") for column in columns])
        encoded = pieces.combine_chunks().dictionary_encode()
        found = encoded.dictionary.to_pylist()
        names = sorted(found)
        place = np.array([names.index(name) for name in found], dtype=np.int64)
        counts = np.concatenate([column.value_lengths().to_numpy() for column in columns])
        first = np.cumsum(counts, dtype=np.int64) - counts
        return names, place[encoded.indices.to_numpy()], first


def _concatenate(batches: list[pa.RecordBatch], name: str) -> NDArray[np.int32]:
    return np.concatenate([batch.column(name).to_numpy() for batch in batches])
