"""One process: plain PyTorch."""

from __future__ import annotations

from typing import Any

import torch

from msm_ray.train.backends.base import plain_name
from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.model import decay_groups, freeze
from msm_ray.train.objective import Batch, LossModel, make_objective
from msm_ray.train.weights import Weights


class SingleBackend:
    """AdamW on one device. FSDP2 inherits the step and changes how the model is laid out."""

    def __init__(
        self,
        model: Any,
        config: TrainConfig,
        runtime: TrainRuntime,
        weights: Weights | None = None,
    ) -> None:
        self.rank, self.world_size = 0, 1
        self.config = config
        self.runtime = runtime
        self.micro_blocks = runtime.micro_blocks
        self.device = torch.device("cuda" if runtime.use_gpu else "cpu")
        freeze(model, config.freeze)
        if runtime.activation_checkpointing:
            model.gradient_checkpointing_enable()
        self.model = self.place(LossModel(model, runtime.logits_mib), weights)
        self.model.train()
        objective = make_objective(config)
        self.objective: Any = torch.compile(objective) if runtime.compile else objective
        self.optimizer = torch.optim.AdamW(
            decay_groups(self.model, config.weight_decay),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            fused=True,
        )

    def place(self, model: LossModel, weights: Weights | None) -> Any:
        """Bring the model to where it is trained."""
        assert weights is None, "one process loads a model whole"
        return model.to(self.device)

    def step(self, batch: Batch, learning_rate: float, targets: int) -> tuple[float, float]:
        """See :class:`msm_ray.train.backends.base.Backend`."""
        nats = torch.zeros((), device=self.device)
        bf16 = self.config.precision == "bf16"
        for part in batch.to(self.device).split(self.micro_blocks):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                losses = self.objective(self.model, part)
            # Ranks average their gradients: times world_size makes that average the sum.
            (losses.total * (self.world_size / targets)).backward()
            nats += losses.nats_BT.sum()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return self.total(nats), self.norm_value(norm)

    def total(self, nats: torch.Tensor) -> float:
        """Sum over the ranks."""
        return float(nats)

    def norm_value(self, norm: torch.Tensor) -> float:
        """The gradient's norm as a number."""
        return float(norm)

    def full_state(self) -> dict[str, torch.Tensor] | None:
        """See :class:`msm_ray.train.backends.base.Backend`."""
        state = self.model.state_dict()
        if self.config.lora is not None:
            state = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        return {plain_name(name): value.detach().cpu() for name, value in state.items()}
