"""Permutations that are the same on every machine and in every version of every library."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def permutation(n: int, *key: int | str) -> NDArray[np.int64]:
    """A shuffle of ``0..n-1`` that depends on ``n`` and ``key`` alone.

    Elements are sorted by SplitMix64 of their index (Steele et al. 2014), started at a hash of the
    key. NumPy and torch do not promise that their own shuffles stay the same between versions.
    """
    digest = hashlib.sha256("\x1f".join(f"{type(k).__name__}:{k}" for k in key).encode()).digest()
    with np.errstate(over="ignore"):
        start = np.uint64(int.from_bytes(digest[:8], "little"))
        z = start + (np.arange(n, dtype=np.uint64) + np.uint64(1)) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return np.argsort(z, kind="stable").astype(np.int64)


class EpochOrder:
    """The endless sequence of block indices that a training run reads.

    Position ``s`` of the sequence lies in epoch ``s // n`` and is entry ``s % n`` of that epoch's
    shuffle. Every rank computes the same sequence, so a global batch is the same set of blocks
    whatever the number of ranks is.
    """

    def __init__(self, n: int, seed: int, shuffle: bool = True) -> None:
        if n < 1:
            raise ValueError("an order needs at least one block")
        self.n = n
        self.seed = seed
        self.shuffle = shuffle
        self._epoch = -1
        self._perm: NDArray[np.int64] = np.arange(n, dtype=np.int64)

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        if self.shuffle and epoch != self._epoch:
            self._perm = permutation(self.n, "epoch", self.seed, epoch)
            self._epoch = epoch
        return self._perm

    def take(self, start: int, stop: int) -> NDArray[np.int64]:
        """Block indices at positions ``start..stop-1`` of the sequence."""
        parts = []
        while start < stop:
            epoch, at = divmod(start, self.n)
            end = min(self.n, at + stop - start)
            parts.append(self._epoch_order(epoch)[at:end])
            start += end - at
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


class Windowed(Protocol):
    """What an order by windows reads: a ``BlockReader``, or a ``StreamReader`` that grows."""

    windows: list[int]  # blocks of each packing window that is there
    is_final: bool  # no more will come


class WindowedOrder:
    """The endless sequence of block indices for blocks that may still be being written.

    Windows follow one another, each shuffled in itself, so an epoch's beginning is known before its
    end is written: where a position's window is there, the block at it is a function of the seed,
    the epoch and the window's number and size alone. The sequence is the same while the corpus is
    written and afterwards, on any number of ranks. Windows are committed whole, so
    position ``s`` of the first epoch can be read once more than ``s`` blocks are committed.
    """

    def __init__(self, blocks: Windowed, seed: int, shuffle: bool = True) -> None:
        self.blocks = blocks
        self.seed = seed
        self.shuffle = shuffle
        self._shuffled: tuple[tuple[int, int, int], NDArray[np.int64]] | None = None

    def take(self, start: int, stop: int) -> NDArray[np.int64]:
        """Block indices at positions ``start..stop-1`` of the sequence.

        Raises:
            LookupError: a position lies in a window that is not written yet.
        """
        first = np.concatenate([[0], np.cumsum(self.blocks.windows, dtype=np.int64)])
        n = int(first[-1])
        if stop > n and not self.blocks.is_final:
            raise LookupError(f"position {stop - 1} is asked for, {n} blocks are committed")
        if n == 0 and stop > start:
            raise ValueError("an order needs at least one block")
        parts = []
        while start < stop:
            epoch, at = divmod(start, n)
            window = int(np.searchsorted(first, at, "right")) - 1
            begin, end = int(first[window]), int(first[window + 1])
            until = min(end, at + stop - start)
            order = self._window_order(epoch, window, end - begin)
            parts.append(begin + order[at - begin : until - begin])
            start += until - at
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def _window_order(self, epoch: int, window: int, n: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(n, dtype=np.int64)
        key = (epoch, window, n)
        if self._shuffled is None or self._shuffled[0] != key:
            self._shuffled = key, permutation(n, "window", self.seed, epoch, window)
        return self._shuffled[1]
