"""Packing: documents into blocks of one length, window by window, as few of them cut as possible.

A block holds documents one after another; ``position_ids`` start again at 0 with each, which is
what keeps attention inside a document (see ``msm_ray.train.objective``).

Documents are packed in windows of consecutive ones, so that neither memory nor the distance that a
document moves grows with the corpus. Best fit decreasing (Ding et al. 2024, "Fewer Truncations
Improve Language Modeling"), which cuts only what is longer than a block, fills a window of long
documents whose lengths differ widely. Short ones of similar lengths it does not; there the longest
piece opens a block and the pair that fills its rest best closes it (minimum bin slack, Gupta and Ho
1999). Where whole documents cannot fill a window, as where most are a little longer than half a
block, a few more are cut: see ``FILL``.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from msm_ray.data.tokens import TokenizedDocuments
from msm_ray.errors import UserError

WINDOW_BLOCKS = 512  # a window closes with the document that brings it to so many blocks' tokens
# A window that whole documents fill less than this has documents cut to fill holes: the largest
# holes first, smaller ones only as long as the window is not full enough.
FILL = 0.9925
LEAST_HOLE = 32  # tokens; a smaller hole is never worth a cut

Pair = tuple[str, str]


@dataclass(frozen=True)
class Placement:
    """Where each piece of a document lies; one entry a piece, in block order.

    ``item``: index into the lengths given; ``start``, ``length``: which of its tokens; ``block``,
    ``offset``: where they go. ``cut``: how many documents were cut that fit in a block.
    """

    item: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    block: NDArray[np.int64]
    offset: NDArray[np.int64]
    blocks: int
    cut: int


def windows(
    lengths: NDArray[np.int64], block_tokens: int, window_blocks: int = WINDOW_BLOCKS
) -> Iterator[tuple[int, int]]:
    """Ranges ``start, stop`` of consecutive documents that are packed together."""
    ends = np.cumsum(lengths)
    start, before = 0, 0
    while start < len(ends):
        full = np.searchsorted(ends, before + window_blocks * block_tokens)
        stop = min(int(full) + 1, len(ends))
        yield start, stop
        start, before = stop, int(ends[stop - 1])


def place(
    lengths: Sequence[int] | NDArray[np.int64],
    block_tokens: int,
    whole: Sequence[bool] | NDArray[np.bool_] | None = None,
) -> Placement:
    """Assign the documents of one window to blocks.

    A document longer than a block is cut into whole blocks and a rest. Another is cut only if the
    window cannot be filled otherwise (``FILL``), and never where ``whole`` is true. The cost is
    O(log n) a piece, or one look at a histogram of ``block_tokens`` lengths a block.
    """
    if block_tokens < 2:
        raise UserError(f"packing: block_tokens is {block_tokens}, allowed is 2 or more")
    sizes = [int(length) for length in lengths]
    keep = [False] * len(sizes) if whole is None else [bool(w) for w in whole]
    enough = math.ceil(sum(sizes) / (FILL * block_tokens))
    best: _Filling | None = None
    for filling in _ways(sizes, keep, block_tokens):
        if best is None or len(filling.blocks) < len(best.blocks):
            best = filling
        if len(best.blocks) <= enough:
            break
    assert best is not None, "there is always a way"
    return best.placement()


def _ways(sizes: list[int], keep: list[bool], block_tokens: int) -> Iterator[_Filling]:
    """Ways to fill a window, those that cut less first."""
    yield _Filling(sizes, keep, block_tokens).decreasing()
    yield _Filling(sizes, keep, block_tokens).by_pairs(block_tokens)  # no hole is as large
    hole = block_tokens // 4
    while hole >= LEAST_HOLE and not all(keep):
        yield _Filling(sizes, keep, block_tokens).by_pairs(hole)
        hole //= 2


class _Filling:
    """One way to fill a window; pieces are numbered, ``left[n]`` of them have n tokens."""

    def __init__(self, sizes: list[int], keep: list[bool], block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.blocks: list[list[int]] = []
        self.item: list[int] = []
        self.start: list[int] = []
        self.length: list[int] = []
        self.used: list[bool] = []
        self.keep = keep
        self.by_length: dict[int, list[int]] = {}
        self.left = np.zeros(block_tokens + 1, dtype=np.int64)
        self.next = 0  # the first piece that may be unused
        self.cut: set[int] = set()
        for item, size in enumerate(sizes):
            for start in range(0, size, block_tokens):
                piece = self._add(item, start, min(block_tokens, size - start))
                if self.length[piece] == block_tokens:
                    self._take(piece)
                    self.blocks.append([piece])
        for pieces in self.by_length.values():
            pieces.reverse()  # so that the first in the order given is taken first

    def _add(self, item: int, start: int, length: int) -> int:
        piece = len(self.item)
        self.item.append(item)
        self.start.append(start)
        self.length.append(length)
        self.used.append(False)
        self.by_length.setdefault(length, []).append(piece)
        self.left[length] += 1
        return piece

    def _take(self, piece: int) -> int:
        self.used[piece] = True
        self.left[self.length[piece]] -= 1
        return piece

    def _of_length(self, length: int) -> int:
        pieces = self.by_length[length]
        while self.used[pieces[-1]]:
            pieces.pop()
        return self._take(pieces.pop())

    def _next(self) -> int:
        while self.used[self.next]:
            self.next += 1
        return self._take(self.next)

    def decreasing(self) -> _Filling:
        """Best fit decreasing: the longest piece first, into the fullest block that takes it."""
        open_blocks: list[tuple[int, int]] = []  # (free tokens, block), fullest first
        left = [piece for piece, used in enumerate(self.used) if not used]
        for piece in sorted(left, key=lambda p: -self.length[p]):
            length = self.length[piece]
            at = bisect_left(open_blocks, (length, -1))
            if at < len(open_blocks):
                free, block = open_blocks.pop(at)
                self.blocks[block].append(piece)
            else:
                free, block = self.block_tokens, len(self.blocks)
                self.blocks.append([piece])
            if free > length:
                insort(open_blocks, (free - length, block))
        return self

    def by_pairs(self, least_hole: int) -> _Filling:
        """Minimum bin slack with pairs; a hole above ``least_hole`` is worth a cut."""
        longest = self.block_tokens
        while True:
            while longest and not self.left[longest]:
                longest -= 1
            if not longest:
                return self
            block = [self._of_length(longest)]
            free = self.block_tokens - longest
            while free:
                while longest and not self.left[longest]:
                    longest -= 1
                if not longest:
                    break
                if free > 2 * longest:  # any will do: the last two decide how full it gets
                    block.append(self._next())
                    free -= self.length[block[-1]]
                elif fitting := self._best_pair(free):
                    block += [self._of_length(length) for length in fitting]
                    free -= sum(fitting)
                else:
                    if free > least_hole and (piece := self._cut(free)) is not None:
                        block.append(piece)
                    break
            self.blocks.append(block)

    def _best_pair(self, free: int) -> list[int]:
        """The one or two lengths left that come closest to ``free`` tokens; [] if none fits.

        Of several such pairs the middle one: the extremes would use up the shortest pieces.
        """
        there = np.flatnonzero(self.left[: free + 1])
        if not len(there):
            return []
        other = np.searchsorted(there, free - there, "right") - 1
        other -= (other == np.arange(len(there))) & (self.left[there] == 1)
        total = np.where(other >= 0, there + there[other], there)
        best = np.flatnonzero(total == total.max())
        at = int(best[len(best) // 2])
        pair = [int(there[at])]
        return [*pair, int(there[other[at]])] if other[at] >= 0 else pair

    def _cut(self, free: int) -> int | None:
        """Cut the first ``free`` tokens off the longest piece that may be; None if there is none.

        What is left of it, at least ``LEAST_HOLE`` tokens, is a piece again.
        """
        least = free + LEAST_HOLE
        longer = np.flatnonzero(self.left[least:]) + least
        for length in longer[::-1].tolist():
            pieces = [p for p in self.by_length[length] if not self.used[p]]
            pieces = [p for p in pieces if not self.keep[self.item[p]]]
            if pieces:
                piece = self._take(pieces[-1])
                item, start = self.item[piece], self.start[piece]
                self.cut.add(item)
                self._add(item, start + free, length - free)
                self.length[piece] = free
                return piece
        return None

    def placement(self) -> Placement:
        """Blocks in the order of the documents that opened them, each in document order."""
        rows: list[tuple[int, int, int, int, int]] = []
        order = sorted(self.blocks, key=lambda block: (self.item[block[0]], self.start[block[0]]))
        for number, pieces in enumerate(order):
            at = 0
            for piece in sorted(pieces, key=lambda p: (self.item[p], self.start[p])):
                rows.append((self.item[piece], self.start[piece], self.length[piece], number, at))
                at += self.length[piece]
        item, start, length, block, offset = np.array(rows, dtype=np.int64).reshape(-1, 5).T
        return Placement(item, start, length, block, offset, len(order), len(self.cut))


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
    sources: list[list[Pair]]

    @property
    def loss_tokens(self) -> NDArray[np.int32]:
        """[N] targets in each block."""
        return np.asarray(self.loss_mask.sum(axis=1), dtype=np.int32)

    def rows(self, start: int, stop: int | None) -> BlockArrays:
        """Blocks ``start..stop-1``; to the end if ``stop`` is None."""
        at = slice(start, stop)
        return BlockArrays(
            self.input_ids[at],
            self.position_ids[at],
            self.loss_mask[at],
            self.tokens[at],
            self.sources[at],
        )


@dataclass(frozen=True)
class Window:
    """One window's ``blocks``, from so many ``documents``; ``cut`` of them fit in a block.

    ``refused``: tokens, by component, of blocks without any target, which are left out: nothing
    would be learned from them. They come from cut conversations.
    """

    blocks: BlockArrays
    documents: int
    cut: int
    refused: dict[str, int] = field(default_factory=dict)


def pack_windows(
    sources: Sequence[tuple[str, TokenizedDocuments]],
    component: NDArray[np.int64],
    document: NDArray[np.int64],
    block_tokens: int,
    pad_id: int,
    *,
    whole: Sequence[bool] | None = None,
    window_blocks: int = WINDOW_BLOCKS,
) -> Iterator[Window]:
    """Pack the documents ``sources[component[i]][document[i]]`` in that order, a window at a time.

    Padding has token ``pad_id``, position 0 (each pad token is a document of its own, so that none
    attends to another) and no loss. The first token of a piece is never a target: nothing that
    stands before it may predict it. ``whole[c]``: documents of that component are cut only where
    they are longer than a block.
    """
    lengths = np.empty(len(component), dtype=np.int64)
    for c, (_, docs) in enumerate(sources):
        of_c = component == c
        lengths[of_c] = docs.offsets[document[of_c] + 1] - docs.offsets[document[of_c]]
    keep = np.array([False] * len(sources) if whole is None else whole, dtype=np.bool_)
    for start, stop in windows(lengths, block_tokens, window_blocks):
        at = slice(start, stop)
        placement = place(lengths[at], block_tokens, keep[component[at]])
        yield _fill(sources, component[at], document[at], placement, block_tokens, pad_id)


def _fill(
    sources: Sequence[tuple[str, TokenizedDocuments]],
    component: NDArray[np.int64],
    document: NDArray[np.int64],
    placement: Placement,
    block_tokens: int,
    pad_id: int,
) -> Window:
    shape = (placement.blocks, block_tokens)
    input_ids = np.full(shape, pad_id, dtype=np.int32)
    position_ids = np.zeros(shape, dtype=np.int32)
    loss_mask = np.zeros(shape, dtype=np.uint8)
    names: list[list[Pair]] = [[] for _ in range(placement.blocks)]
    held: list[dict[str, int]] = [{} for _ in range(placement.blocks)]
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
        held[block][name] = held[block].get(name, 0) + length
    tokens = np.array([sum(of.values()) for of in held], dtype=np.int32)
    learns = loss_mask.any(axis=1)
    refused: dict[str, int] = {}
    for block in np.flatnonzero(~learns).tolist():
        for name, count in held[block].items():
            refused[name] = refused.get(name, 0) + count
    blocks = BlockArrays(input_ids, position_ids, loss_mask, tokens, names)
    if refused:
        kept = np.flatnonzero(learns)
        blocks = BlockArrays(
            input_ids[kept],
            position_ids[kept],
            loss_mask[kept],
            tokens[kept],
            [names[block] for block in kept.tolist()],
        )
    return Window(blocks, len(component), placement.cut, refused)


def pack(
    sources: Sequence[tuple[str, TokenizedDocuments]],
    component: NDArray[np.int64],
    document: NDArray[np.int64],
    block_tokens: int,
    pad_id: int,
) -> BlockArrays:
    """All windows of :func:`pack_windows` in memory, for what is small."""
    parts = [
        window.blocks for window in pack_windows(sources, component, document, block_tokens, pad_id)
    ]
    empty = (0, block_tokens)
    return BlockArrays(
        np.concatenate([np.zeros(empty, np.int32), *(p.input_ids for p in parts)]),
        np.concatenate([np.zeros(empty, np.int32), *(p.position_ids for p in parts)]),
        np.concatenate([np.zeros(empty, np.uint8), *(p.loss_mask for p in parts)]),
        np.concatenate([np.zeros(0, np.int32), *(p.tokens for p in parts)]),
        [row for p in parts for row in p.sources],
    )
