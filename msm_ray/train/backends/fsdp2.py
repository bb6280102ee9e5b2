"""Several ranks: FSDP2 (``fully_shard``), on gloo without GPUs and on NCCL with them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from msm_ray.train.backends.base import plain_name
from msm_ray.train.backends.single import SingleBackend
from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.lora import base_name
from msm_ray.train.model import decoder_layers
from msm_ray.train.objective import LossModel
from msm_ray.train.weights import Weights


class Fsdp2Backend(SingleBackend):
    """Each rank holds a slice of every parameter, gradient and optimizer state."""

    def __init__(
        self,
        model: Any,
        config: TrainConfig,
        runtime: TrainRuntime,
        weights: Weights | None = None,
    ) -> None:
        super().__init__(model, config, runtime, weights)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        # A checkpoint is written while steps go on: its messages must not meet theirs. And it is
        # written from the CPU's memory, which NCCL cannot send.
        self._checkpoint_group = dist.new_group(backend="gloo")

    def place(self, model: LossModel, weights: Weights | None) -> Any:
        """Shard layer by layer; what is outside the layers (embeddings, final norm) goes last.

        Tied embeddings lie in one group this way, and so stay tied. With bf16 products the layers'
        weights travel as bf16, which autocast would make of them anyway; embeddings, final norm
        and the sums between layers stay fp32, as they are in one process.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import (
            CPUOffloadPolicy,
            MixedPrecisionPolicy,
            OffloadPolicy,
            fully_shard,
        )

        mesh = init_device_mesh(self.device.type, (dist.get_world_size(),))
        offload = self.runtime.offload
        policy = CPUOffloadPolicy(pin_memory=self.runtime.use_gpu) if offload else OffloadPolicy()
        bf16 = self.config.precision == "bf16"
        layer_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if bf16 else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        for layer in decoder_layers(model.causal):
            fully_shard(layer, mesh=mesh, mp_policy=layer_policy, offload_policy=policy)
        fully_shard(model, mesh=mesh, offload_policy=policy)
        if weights is not None:
            fill(model, weights, torch.device("cpu") if offload else self.device)
        if self.device.type != "cpu":  # buffers: fully_shard moves parameters only
            for module in model.modules():
                for name, buffer in module.named_buffers(recurse=False):
                    setattr(module, name, buffer.to(self.device))
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

        options = StateDictOptions(
            full_state_dict=True,
            cpu_offload=True,
            ignore_frozen_params=self.config.lora is not None,
        )
        state: Any = get_model_state_dict(self.model, options=options)
        if self.rank != 0:
            return None
        return {plain_name(name): value for name, value in state.items()}

    def checkpoint_group(self) -> Any:
        """A gloo group of all ranks."""
        return self._checkpoint_group


def fill(model: LossModel, weights: Weights, device: torch.device) -> None:
    """Give memory to a sharded model on the meta device; each rank reads the rows of its slices."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    weights.check(base_name(plain_name(name)) for name, _ in model.named_parameters())
    buffers = dict(model.named_buffers())
    model.to_empty(device=device)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        for name, parameter in model.named_parameters():
            sharded: Any = parameter
            shape, offset = compute_local_shape_and_global_offset(
                sharded.shape, sharded.device_mesh, sharded.placements
            )
            if shape[0]:
                rows = weights.rows(base_name(plain_name(name)), offset[0], offset[0] + shape[0])
                sharded.to_local().copy_(rows)
