"""What the loop needs of a backend."""

from __future__ import annotations

from typing import Protocol

import torch

from msm_ray.train.objective import Batch


class Backend(Protocol):
    """A model with its optimizer, on one rank of ``world_size``."""

    rank: int
    world_size: int

    def step(self, batch: Batch, learning_rate: float, targets: int) -> tuple[float, float]:
        """One optimizer step on this rank's part of the global batch.

        ``targets``: loss tokens of the global batch, by which the gradient is divided. Returns the
        loss in nats summed over the global batch, and the gradient's norm before clipping.
        """
        ...

    def full_state(self) -> dict[str, torch.Tensor] | None:
        """The weights that the run leaves, on the CPU, by their plain name, on rank 0; None on the
        others. All of them, or with LoRA the adapter's. Every rank calls it."""
        ...


def plain_name(name: str) -> str:
    """A parameter's name in the causal language model, from that in the ``LossModel`` around it."""
    return name.removeprefix("causal.")
