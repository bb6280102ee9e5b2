"""Several ranks: FSDP2 (``fully_shard``), on gloo without GPUs and on NCCL with them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from msm_ray.train.backends.single import SingleBackend
from msm_ray.train.config import TrainConfig, TrainRuntime


class Fsdp2Backend(SingleBackend):
    """Each rank holds a slice of every parameter, gradient and optimizer state."""

    def __init__(self, model: Any, config: TrainConfig, runtime: TrainRuntime) -> None:
        super().__init__(model, config, runtime)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        # A checkpoint is written while steps go on: its messages must not meet theirs. And it is
        # written from the CPU's memory, which NCCL cannot send.
        self._checkpoint_group = dist.new_group(backend="gloo")

    def place(self, model: Any) -> Any:
        """Shard layer by layer; what is outside the layers (embeddings, final norm) goes last.

        Tied embeddings lie in one group this way, and so stay tied.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (dist.get_world_size(),))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    def total(self, nats: torch.Tensor) -> float:
        """Sum over the ranks."""
        dist.all_reduce(nats)
        return float(nats)

    def norm_value(self, norm: torch.Tensor) -> float:
        """The norm over all ranks' slices."""
        from torch.distributed.tensor import DTensor

        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def full_state(self) -> dict[str, torch.Tensor] | None:
        """See :class:`msm_ray.train.backends.base.Backend`."""
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            get_model_state_dict,
        )

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: Any = get_model_state_dict(self.model, options=options)
        return state if self.rank == 0 else None

    def checkpoint_group(self) -> Any:
        """A gloo group of all ranks."""
        return self._checkpoint_group
