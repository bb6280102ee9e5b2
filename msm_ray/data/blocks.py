"""Packed blocks on disk: immutable shards and a manifest, read by global index.

manifest.json       written last: blocks, tokens, and the size and sha256 of every shard
shard-00000.arrow   blocks 0, 1, ... of one packing window, uncompressed Arrow IPC
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from msm_ray.data.packing import WINDOW_BLOCKS, BlockArrays
from msm_ray.errors import UserError

MANIFEST_FILE = "manifest.json"
FORMAT = 2
# A window's last document may be long: a shard holds at most this many blocks, mostly half of it.
SHARD_BLOCKS = 2 * WINDOW_BLOCKS
OPEN_SHARDS = 64  # kept mapped by a reader; the system limits open files
_COLUMNS = ("input_ids", "position_ids", "loss_mask")
_SOURCE = pa.struct([("component", pa.string()), ("document", pa.string())])


def write_durably(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` so that a crash leaves the old content or the new."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # names reach the disk in the order in which they were given
    finally:
        os.close(descriptor)


def as_json(value: Mapping[str, Any]) -> bytes:
    """The bytes of a JSON file of ours."""
    return (json.dumps(dict(value), indent=1, sort_keys=True) + "\n").encode()


class BlockWriter:
    """Writes windows of blocks as shards into an existing directory, and at last the manifest.

    ``shards`` and ``window``: what is there already, for a writer that continues.
    """

    def __init__(
        self,
        directory: Path,
        block_tokens: int,
        shards: Iterable[Mapping[str, Any]] = (),
        window: int = 0,
    ) -> None:
        self.directory = directory
        self.block_tokens = block_tokens
        self.shards = [dict(shard) for shard in shards]
        self.window = window

    def add(self, blocks: BlockArrays) -> list[dict[str, Any]]:
        """Write one window; the records of its shards as they will stand in the manifest."""
        assert blocks.input_ids.shape[1] == self.block_tokens, "blocks of another length"
        added = []
        for start in range(0, len(blocks.tokens), SHARD_BLOCKS):
            part = blocks.rows(start, start + SHARD_BLOCKS)
            name = f"shard-{len(self.shards):05d}.arrow"
            data = _arrow(part)
            write_durably(self.directory / name, data)
            record = {
                "file": name,
                "size": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "window": self.window,
                "blocks": len(part.tokens),
                "tokens": int(part.tokens.sum()),
                "loss_tokens": int(part.loss_tokens.sum()),
            }
            self.shards.append(record)
            added.append(record)
        self.window += 1
        return added

    def total(self, name: str) -> int:
        """Of all shards: "blocks", "tokens" or "loss_tokens"."""
        return sum(int(shard[name]) for shard in self.shards)

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write ``manifest.json``: ``facts``, the totals, the shards. The blocks are then done."""
        totals = {name: self.total(name) for name in ("blocks", "tokens", "loss_tokens")}
        manifest = {
            **facts,
            **totals,
            "format": FORMAT,
            "block_tokens": self.block_tokens,
            "windows": self.window,
            "shards": self.shards,
        }
        write_durably(self.directory / MANIFEST_FILE, as_json(manifest))


def write_blocks(directory: Path, blocks: BlockArrays, facts: Mapping[str, Any]) -> None:
    """Write blocks that are in memory, and their manifest, into an existing directory."""
    writer = BlockWriter(directory, blocks.input_ids.shape[1])
    for start in range(0, len(blocks.tokens), WINDOW_BLOCKS):
        writer.add(blocks.rows(start, start + WINDOW_BLOCKS))
    writer.finish(facts)


def _arrow(blocks: BlockArrays) -> pa.Buffer:
    """One record batch; uncompressed, so that reading block i touches its own pages only."""
    block_tokens = blocks.input_ids.shape[1]
    pairs = [pair for row in blocks.sources for pair in row]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in blocks.sources])])
    names = [pa.array([pair[i] for pair in pairs], pa.string()) for i in (0, 1)]
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(
            pa.array(np.ascontiguousarray(getattr(blocks, name)).reshape(-1)), block_tokens
        )
        for name in _COLUMNS
    } | {
        "tokens": pa.array(blocks.tokens, pa.int32()),
        "loss_tokens": pa.array(blocks.loss_tokens, pa.int32()),
        "sources": pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(names, fields=list(_SOURCE))
        ),
    }
    batch = pa.RecordBatch.from_pydict(arrays)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as out:
        out.write_batch(batch)
    return sink.getvalue()


class BlockReader:
    """Random access to the blocks of a directory that a :class:`BlockWriter` finished.

    ``block_tokens``: T. ``tokens``, ``loss_tokens``: [N] counts of each block. ``windows``: blocks
    of each packing window. ``manifest``: the JSON beside the shards; ``manifest_sha256``: its hash,
    which stands for all the bytes, or that of the header, where they were written as a stream.
    ``planned``: blocks that there are in the end; ``by_window``: whether they are to be read window
    by window; ``components``: names known before all blocks are there, sorted. Blocks stay on disk
    until they are asked for.

    Args:
        directory: where the manifest is.
        verify: hash every shard, not only look at its size.

    Raises:
        UserError: no finished blocks there, or a shard that is not what the manifest says.
    """

    is_final = True
    planned: int | None

    def __init__(self, directory: Path, verify: bool = False) -> None:
        path = directory / MANIFEST_FILE
        if not path.is_file():
            raise UserError(f"{directory}: no packed blocks there ({MANIFEST_FILE} is missing)")
        data = path.read_bytes()
        self.manifest: dict[str, Any] = json.loads(data)
        self.manifest_sha256 = hashlib.sha256(data).hexdigest()
        if self.manifest.get("format") != FORMAT:
            raise UserError(
                f"{path}: packed blocks of format {self.manifest.get('format')}, "
                f"this version reads {FORMAT}"
            )
        if not self.manifest["blocks"]:
            raise UserError(f"{directory}: the blocks are empty")
        self._start(directory, int(self.manifest["block_tokens"]))
        self._extend(int(self.manifest["windows"]), self.manifest["shards"], verify)
        self.planned = len(self)
        header = self.manifest.get("stream")
        self.by_window = header is not None  # as they were read while they were written
        self.components: list[str] = []
        if header is not None:
            self.manifest_sha256 = hashlib.sha256(as_json(header)).hexdigest()
            self.components = header["components"]

    def _start(self, directory: Path, block_tokens: int) -> None:
        self.directory = directory
        self.block_tokens = block_tokens
        self.windows: list[int] = []
        self.tokens: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self.loss_tokens: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._files: list[str] = []
        self._first = np.zeros(1, dtype=np.int64)  # [shards + 1]: a shard's first block
        self._mapped: OrderedDict[int, pa.RecordBatch] = OrderedDict()

    def _extend(self, windows: int, shards: Iterable[Mapping[str, Any]], verify: bool) -> None:
        """Take in the shards of ``windows`` more windows."""
        sizes = [0] * windows
        tokens, loss_tokens, first = [self.tokens], [self.loss_tokens], list(self._first)
        for shard in shards:
            _check(self.directory / shard["file"], shard, verify)
            self._files.append(shard["file"])
            batch = self._shard(len(self._files) - 1)
            tokens.append(batch.column("tokens").to_numpy().copy())
            loss_tokens.append(batch.column("loss_tokens").to_numpy().copy())
            first.append(first[-1] + shard["blocks"])
            sizes[shard["window"] - len(self.windows)] += shard["blocks"]
        self.tokens, self.loss_tokens = np.concatenate(tokens), np.concatenate(loss_tokens)
        self._first = np.array(first, dtype=np.int64)
        self.windows += sizes

    def __len__(self) -> int:
        return int(self._first[-1])

    def rows(self, name: str, indices: NDArray[np.int64]) -> NDArray[Any]:
        """[len(indices), T] of one column: ``input_ids``, ``position_ids`` or ``loss_mask``."""
        dtype = np.uint8 if name == "loss_mask" else np.int32
        out = np.empty((len(indices), self.block_tokens), dtype=dtype)
        for row, index in enumerate(indices.tolist()):
            batch, at = self._find(index)
            out[row] = batch.column(name)[at].values.to_numpy()
        return out

    def sources(self, index: int) -> list[tuple[str, str]]:
        """The ``(component, document id)`` pairs of one block."""
        batch, at = self._find(index)
        return [(s["component"], s["document"]) for s in batch.column("sources")[at].as_py()]

    def _find(self, index: int) -> tuple[pa.RecordBatch, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        shard = int(np.searchsorted(self._first, index, "right")) - 1
        return self._shard(shard), index - int(self._first[shard])

    def _shard(self, number: int) -> pa.RecordBatch:
        """One shard, mapped into memory; the one used longest ago makes room."""
        if number not in self._mapped:
            source = pa.memory_map(str(self.directory / self._files[number]))
            self._mapped[number] = pa.ipc.open_file(source).get_batch(0)
            if len(self._mapped) > OPEN_SHARDS:
                self._mapped.popitem(last=False)
        self._mapped.move_to_end(number)
        return self._mapped[number]

    @property
    def shards(self) -> int:
        """How many files the blocks that are there lie in."""
        return len(self._files)

    def component_index(
        self, shard: int = 0
    ) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
        """Which component each piece of a document is of, without their ids, from a shard on.

        Returns the components' names, sorted; [pieces] indices into them, in block order; and [N]
        the first piece of each block.
        """
        columns = [self._shard(i).column("sources") for i in range(shard, self.shards)]
        pieces = pa.chunked_array([column.flatten().field("component") for column in columns])
        encoded = pieces.combine_chunks().dictionary_encode()
        found = encoded.dictionary.to_pylist()
        names = sorted(found)
        place = np.array([names.index(name) for name in found], dtype=np.int64)
        counts = np.concatenate([column.value_lengths().to_numpy() for column in columns])
        first = np.cumsum(counts, dtype=np.int64) - counts
        return names, place[encoded.indices.to_numpy()], first


def _check(path: Path, shard: Mapping[str, Any], verify: bool) -> None:
    if not path.is_file():
        raise UserError(f"{path}: a shard that the manifest lists is missing")
    size = path.stat().st_size
    if size != shard["size"]:
        raise UserError(f"{path}: damaged, {size} bytes where the manifest says {shard['size']}")
    if verify:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != shard["sha256"]:
            raise UserError(f"{path}: damaged, its sha256 is not that of the manifest")
