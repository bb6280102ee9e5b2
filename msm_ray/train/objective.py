"""Objectives over packed blocks: what a step minimises, in fp32, summed over the targets.

An objective is a function of a :class:`LossModel` and a batch. The model hands it the nats of every
target, differentiable one by one; next-token training on documents and assistant-only training on
chats sum them up and differ in the labels alone. A preference objective would be one more function
here: it needs the sums of two spans (DPO) or another head (Bradley-Terry), and a batch with pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from msm_ray.train.config import LOGITS_MIB, TrainConfig
from msm_ray.train.cross_entropy import IGNORED, Treatment, chunked_nats, treatment_of


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


class HeadLoss(nn.Module):
    """The chunked loss as a module without weights of its own.

    ZeRO-3 brings a weight to where it is used module by module: the head's is announced for this
    one (see ``train.backends.deepspeed``).
    """

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(
        self,
        hidden_BTH: torch.Tensor,
        weight_VH: torch.Tensor,
        labels_BT: torch.Tensor,
        treatment: Treatment,
        chunk: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Nats and ``log(Z)``, each [B, T], zero where there is no target."""
        labels = labels_BT.flatten()
        targets_N = (labels != IGNORED).nonzero()[:, 0]
        hidden_NH = hidden_BTH.flatten(0, 1)[targets_N]
        values = chunked_nats(hidden_NH, weight_VH, labels[targets_N], treatment, chunk)
        zeros = torch.zeros(labels.shape, dtype=torch.float32, device=labels.device)
        nats, log_z = (zeros.index_put((targets_N,), value) for value in values)
        return nats.view(labels_BT.shape), log_z.view(labels_BT.shape)


class LossModel(nn.Module):
    """A causal language model whose forward pass ends in nats instead of logits.

    Backends shard this module: what the loss does with the output head lies inside the root's
    forward pass, where the head's weight is whole.

    Logits of at most ``logits_mib`` are made at once, by the model itself: the fast way for small
    vocabularies. What would take more goes through ``train.cross_entropy`` in chunks of that size.
    """

    def __init__(self, causal: Any, logits_mib: int = LOGITS_MIB) -> None:
        super().__init__()
        self.causal = causal
        self.head_loss = HeadLoss()
        self.limit = logits_mib * 2**20 // 4  # of elements

    def forward(
        self,
        input_ids_BT: torch.Tensor,
        position_ids_BT: torch.Tensor,
        labels_BT: torch.Tensor,
        with_log_z: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Nats of the targets, and ``log(Z)`` if asked for: [B, T], fp32, zero at no target."""
        vocabulary = self.causal.config.vocab_size
        if input_ids_BT.numel() * vocabulary > self.limit:
            decoder, head = self.causal.get_decoder(), self.causal.get_output_embeddings()
            hidden_BTH = decoder(
                input_ids=input_ids_BT, position_ids=position_ids_BT, use_cache=False
            ).last_hidden_state
            treatment = treatment_of(self.causal.config, head)
            chunk = max(1, self.limit // vocabulary)
            nats_BT, log_z_BT = self.head_loss(hidden_BTH, head.weight, labels_BT, treatment, chunk)
            return nats_BT, log_z_BT if with_log_z else None
        logits_BTV = packed_logits(self.causal, input_ids_BT, position_ids_BT).float()
        nats_BT = F.cross_entropy(
            logits_BTV.flatten(0, 1),
            labels_BT.flatten(),
            ignore_index=IGNORED,
            reduction="none",
        ).view(labels_BT.shape)
        if not with_log_z:
            return nats_BT, None
        return nats_BT, torch.where(labels_BT != IGNORED, logits_BTV.logsumexp(-1), 0.0)


class Losses(NamedTuple):
    """``total``: the sum over the targets that a step minimises; ``nats_BT``: what is reported,
    of each target by itself, without a gradient."""

    total: torch.Tensor
    nats_BT: torch.Tensor


class Objective(Protocol):
    """A sum over the targets of a batch, in fp32, whatever the model computes in.

    The sum, not a mean: the caller divides by the targets of the *global* batch, so that the
    gradient is the same however the batch is cut over ranks and micro-batches.
    """

    def __call__(self, model: Any, batch: Batch) -> Losses:
        """``model`` is a :class:`LossModel`, or what a backend wrapped around one."""
        ...


def next_token(model: Any, batch: Batch, z_loss: float = 0.0) -> Losses:
    """Cross-entropy, and ``z_loss * log(Z)^2`` (Chowdhery et al. 2022, section 5)."""
    nats_BT, log_z_BT = model(
        batch.input_ids_BT, batch.position_ids_BT, batch.labels_BT, z_loss > 0
    )
    total = nats_BT.sum()
    if log_z_BT is not None:
        total = total + z_loss * log_z_BT.square().sum()
    return Losses(total, nats_BT.detach())


def make_objective(config: TrainConfig) -> Objective:
    """The objective that ``config`` names."""
    assert config.objective == "next_token", config.objective
    return partial(next_token, z_loss=config.z_loss)
