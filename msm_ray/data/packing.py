"""Packing: documents into blocks of one length, none cut that fits.

A block holds whole documents one after another; ``position_ids`` start again at 0 with each, which
is what keeps attention inside a document (see ``msm_ray.train.objective``).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msm_ray.data.tokens import TokenizedDocuments
from msm_ray.errors import UserError

# How many unfinished blocks are kept open: a bound on the search, and on how far a document moves
# from its place in the order. With documents of a sixth of a block 2 to 5 % of a block stays empty,
# however many are open: what is left is shorter than any document.
OPEN_BLOCKS = 32


@dataclass(frozen=True)
class Placement:
    """Where each piece of a document lies; one entry a piece, in block order.

    ``item``: index into the lengths given; ``start``, ``length``: which of its tokens; ``block``,
    ``offset``: where they go. A document that fits in a block is one piece.
    """

    item: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    block: NDArray[np.int64]
    offset: NDArray[np.int64]
    blocks: int


def place(lengths: Sequence[int] | NDArray[np.int64], block_tokens: int) -> Placement:
    """Assign documents of these lengths to blocks: best fit among a few open blocks.

    A document longer than a block is split into whole blocks and a rest; no other is split.
    """
    if block_tokens < 2:
        raise UserError(f"packing: block_tokens is {block_tokens}, allowed is 2 or more")
    pieces: list[tuple[int, int, int, int, int]] = []  # block, offset, item, start, length
    open_blocks: list[tuple[int, int]] = []  # (free tokens, block), fullest first
    blocks = 0
    for item, length in enumerate(lengths):
        for start in range(0, int(length), block_tokens):
            size = min(block_tokens, int(length) - start)
            at = bisect_left(open_blocks, (size, -1))
            if at < len(open_blocks):
                free, block = open_blocks.pop(at)
            else:
                if len(open_blocks) >= OPEN_BLOCKS:
                    open_blocks.pop(0)
                free, block = block_tokens, blocks
                blocks += 1
            pieces.append((block, block_tokens - free, item, start, size))
            if free > size:
                insort(open_blocks, (free - size, block))
    pieces.sort()
    columns = np.array(pieces, dtype=np.int64).reshape(-1, 5).T
    return Placement(columns[2], columns[3], columns[4], columns[0], columns[1], blocks)


@dataclass(frozen=True)
class BlockArrays:
    """Packed blocks, N blocks of T tokens.

    ``input_ids``, ``position_ids``: [N, T] int32. ``loss_mask``: [N, T] uint8, 1 where the token
    is a target. ``tokens``: [N] tokens that are not padding. ``sources``: the ``(component,
    document id)`` pairs in each block, in order.
    """

    input_ids: NDArray[np.int32]
    position_ids: NDArray[np.int32]
    loss_mask: NDArray[np.uint8]
    tokens: NDArray[np.int32]
    sources: list[list[tuple[str, str]]]

    @property
    def loss_tokens(self) -> NDArray[np.int32]:
        """[N] targets in each block."""
        return np.asarray(self.loss_mask.sum(axis=1), dtype=np.int32)


def pack(
    sources: Sequence[tuple[str, TokenizedDocuments]],
    component: NDArray[np.int64],
    document: NDArray[np.int64],
    block_tokens: int,
    pad_id: int,
) -> BlockArrays:
    """Pack the documents ``sources[component[i]][document[i]]``, in that order.

    Padding has token ``pad_id``, position 0 (each pad token is a document of its own, so that none
    attends to another) and no loss. The first token of a piece is never a target: nothing that
    stands before it may predict it.
    """
    offsets = [docs.offsets for _, docs in sources]
    lengths = [
        int(offsets[c][d + 1] - offsets[c][d]) for c, d in zip(component, document, strict=True)
    ]
    placement = place(lengths, block_tokens)
    shape = (placement.blocks, block_tokens)
    input_ids = np.full(shape, pad_id, dtype=np.int32)
    position_ids = np.zeros(shape, dtype=np.int32)
    loss_mask = np.zeros(shape, dtype=np.uint8)
    names: list[list[tuple[str, str]]] = [[] for _ in range(placement.blocks)]
    positions = np.arange(block_tokens, dtype=np.int32)
    for item, start, length, block, offset in zip(
        placement.item.tolist(),
        placement.start.tolist(),
        placement.length.tolist(),
        placement.block.tolist(),
        placement.offset.tolist(),
        strict=True,
    ):
        name, docs = sources[component[item]]
        begin = int(docs.offsets[document[item]]) + start
        to = slice(offset, offset + length)
        input_ids[block, to] = docs.tokens[begin : begin + length]
        loss_mask[block, to] = docs.loss[begin : begin + length]
        loss_mask[block, offset] = 0
        position_ids[block, to] = positions[:length]
        names[block].append((name, docs.ids[document[item]]))
    tokens = np.zeros(placement.blocks, dtype=np.int32)
    np.add.at(tokens, placement.block, placement.length.astype(np.int32))
    return BlockArrays(input_ids, position_ids, loss_mask, tokens, names)
