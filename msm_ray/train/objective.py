"""The objective: next-token loss over packed blocks, in fp32, summed over the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """Blocks as the model takes them, all [B, T] int64.

    ``labels_BT[b, t]`` is the token that stands at ``t + 1``, or ``IGNORED`` where that one is no
    target or belongs to another document.
    """

    input_ids_BT: torch.Tensor
    position_ids_BT: torch.Tensor
    labels_BT: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        return Batch(
            self.input_ids_BT.to(device, non_blocking=True),
            self.position_ids_BT.to(device, non_blocking=True),
            self.labels_BT.to(device, non_blocking=True),
        )

    def split(self, blocks: int) -> list[Batch]:
        """Micro-batches of at most ``blocks`` blocks; 0 keeps the batch whole."""
        if blocks <= 0 or blocks >= len(self.input_ids_BT):
            return [self]
        columns = (self.input_ids_BT, self.position_ids_BT, self.labels_BT)
        parts = (torch.split(column, blocks) for column in columns)
        return [Batch(*part) for part in zip(*parts, strict=True)]


def make_batch(
    input_ids: NDArray[Any], position_ids: NDArray[Any], loss_mask: NDArray[Any]
) -> Batch:
    """Arrays of blocks, each [B, T], to a :class:`Batch`."""
    ids = torch.from_numpy(input_ids).long()
    positions = torch.from_numpy(position_ids).long()
    target = torch.from_numpy(loss_mask).bool()[:, 1:] & (positions[:, 1:] > 0)
    labels = torch.full_like(ids, IGNORED)
    labels[:, :-1] = torch.where(target, ids[:, 1:], IGNORED)
    return Batch(ids, positions, labels)


def packed_logits(model: Any, input_ids_BT: torch.Tensor, position_ids_BT: torch.Tensor) -> Any:
    """Logits [B, T, V] in which no token sees another document of its block.

    transformers builds the block-diagonal mask from ``position_ids`` only when it gets no
    attention mask and keeps no cache; with either, documents leak into each other, silently.
    """
    return model(input_ids=input_ids_BT, position_ids=position_ids_BT, use_cache=False).logits


def target_nats(model: Any, batch: Batch) -> torch.Tensor:
    """[B, T] nats of each target in fp32, whatever the model computes in; 0 where there is none."""
    logits_BTV = packed_logits(model, batch.input_ids_BT, batch.position_ids_BT)
    nats = F.cross_entropy(
        logits_BTV.float().flatten(0, 1),
        batch.labels_BT.flatten(),
        ignore_index=IGNORED,
        reduction="none",
    )
    return nats.view_as(batch.labels_BT)


def loss_sum(model: Any, batch: Batch) -> torch.Tensor:
    """Nats summed over the batch's targets: a scalar.

    The sum, not a mean: the caller divides by the targets of the *global* batch, so that the
    gradient is the same however the batch is cut over ranks and micro-batches.
    """
    return target_nats(model, batch).sum()
