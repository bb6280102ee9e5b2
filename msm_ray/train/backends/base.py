"""What the loop needs of a backend."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import torch

from msm_ray.train.objective import Batch


class Backend(Protocol):
    """A model with its optimizer, on one rank of ``world_size``."""

    rank: int
    world_size: int
    state_format: str  # of what save_state writes: "dcp" | "deepspeed"
    target_nats_BT: torch.Tensor | None  # of this rank's part of the last step, if it is known

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

    def save_state(self, folder: Path) -> Future[Any]:
        """Write trained weights and optimizer into ``folder``, as they are now.

        Every rank calls it. Steps may follow at once; on rank 0 the future is done when the files
        of all ranks are written.
        """
        ...

    def load_state(self, folder: Path) -> None:
        """Take weights and optimizer from what ``save_state`` wrote. Every rank calls it."""
        ...


def plain_name(name: str) -> str:
    """A parameter's name in the causal language model, from that in the ``LossModel`` around it."""
    return name.removeprefix("causal.")
