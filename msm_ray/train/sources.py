"""Loss and tokens by source: which component of the mixture a target, or a token, belongs to."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from msm_ray.data.blocks import BlockReader
from msm_ray.train.cross_entropy import IGNORED
from msm_ray.train.objective import Batch
from msm_ray.train.ranks import Ranks

ROWS = 1024  # blocks that are looked at together


class SourceLoss:
    """Sums nats and targets by component over a few steps; exact, nothing is estimated.

    A block may mix components: a target belongs to the document it lies in, which is found from
    where position ids start again. Every rank adds its own blocks, and :meth:`take` sums over them.
    """

    def __init__(self, reader: BlockReader, ranks: Ranks) -> None:
        self._reader, self._ranks = reader, ranks
        names, self._component, self._offset = reader.component_index()
        # Of blocks that are still being written, ranks may see different numbers.
        self.names = reader.components or names
        self._component = _renamed(self._component, names, self.names)
        self._shards = reader.shards
        self._sums = np.zeros((2, len(self.names)))

    def _grow(self) -> None:
        """Take in the blocks that have come since the last look."""
        names, component, offset = self._reader.component_index(self._shards)
        self._shards = self._reader.shards
        self._offset = np.concatenate([self._offset, offset + len(self._component)])
        self._component = np.concatenate([self._component, _renamed(component, names, self.names)])

    def add(self, indices: NDArray[np.int64], batch: Batch, target_nats_BT: torch.Tensor) -> None:
        """Add a step of this rank: its blocks ``indices`` are the first rows of ``batch``."""
        rows = len(indices)
        if self._reader.shards > self._shards:
            self._grow()
        component_BT = components(
            batch.position_ids_BT[:rows].numpy(), self._component, self._offset[indices]
        )
        target_BT = batch.labels_BT[:rows].numpy() != IGNORED
        nats = target_nats_BT[:rows].double().cpu().numpy()[target_BT]
        named = component_BT[target_BT]
        n = len(self.names)
        self._sums += [np.bincount(named, nats, n), np.bincount(named, minlength=n)]

    def take(self) -> dict[str, float]:
        """Nats per target by component since the last call, over all ranks; starts again."""
        nats, targets = self._ranks.sum(self._sums)
        self._sums = np.zeros_like(self._sums)
        return {
            name: float(nats[i] / targets[i]) for i, name in enumerate(self.names) if targets[i]
        }


def tokens_by_component(reader: BlockReader, indices: NDArray[np.int64]) -> dict[str, int]:
    """Tokens of each component in the blocks ``indices``, padding not counted.

    ``reader``: of blocks that are all there. A block that is named twice counts twice.
    """
    names, component, offset = reader.component_index()
    sums = np.zeros(len(names), dtype=np.int64)
    for start in range(0, len(indices), ROWS):
        rows = indices[start : start + ROWS]
        of_BT = components(reader.rows("position_ids", rows), component, offset[rows])
        is_token_BT = np.arange(reader.block_tokens) < reader.tokens[rows][:, None]
        sums += np.bincount(of_BT[is_token_BT], minlength=len(names))
    return {name: int(sums[i]) for i, name in enumerate(names)}


def _renamed(
    component: NDArray[np.int64], names: list[str], others: list[str]
) -> NDArray[np.int64]:
    """Indices into ``names`` as indices into ``others``."""
    return np.array([others.index(name) for name in names], dtype=np.int64)[component]


def components(
    position_ids: NDArray[np.int64], component: NDArray[np.int64], offset: NDArray[np.int64]
) -> NDArray[np.int64]:
    """[B, T] component of each token.

    ``component``: that of each piece of all blocks, in order; ``offset``: [B] the first piece of
    each block here. A block's padding follows its pieces and gets that of some other piece.
    """
    piece_BT = (position_ids == 0).cumsum(axis=1) - 1 + offset[:, None]
    component_BT: NDArray[np.int64] = component[np.minimum(piece_BT, len(component) - 1)]
    return component_BT
