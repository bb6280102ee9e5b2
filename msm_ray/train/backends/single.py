"""One process: plain PyTorch."""

from __future__ import annotations

from typing import Any

import torch

from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.model import decay_groups, freeze
from msm_ray.train.objective import Batch, loss_sum


class SingleBackend:
    """AdamW on one device. FSDP2 inherits the step and changes how the model is laid out."""

    def __init__(self, model: Any, config: TrainConfig, runtime: TrainRuntime) -> None:
        self.rank, self.world_size = 0, 1
        self.config = config
        self.micro_blocks = runtime.micro_blocks
        self.device = torch.device("cuda" if runtime.use_gpu else "cpu")
        freeze(model, config.freeze)
        self.model = self.place(model)
        self.model.train()
        self.forward: Any = torch.compile(loss_sum) if runtime.compile else loss_sum
        self.optimizer = torch.optim.AdamW(
            decay_groups(self.model, config.weight_decay),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            fused=True,
        )

    def place(self, model: Any) -> Any:
        """Bring the model to where it is trained."""
        return model.to(self.device)

    def step(self, batch: Batch, learning_rate: float, targets: int) -> tuple[float, float]:
        """See :class:`msm_ray.train.backends.base.Backend`."""
        nats = torch.zeros((), device=self.device)
        bf16 = self.config.precision == "bf16"
        for part in batch.to(self.device).split(self.micro_blocks):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                loss = self.forward(self.model, part)
            # Ranks average their gradients: times world_size makes that average the sum.
            (loss * (self.world_size / targets)).backward()
            nats += loss.detach()
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
        return {name: value.detach().cpu() for name, value in self.model.state_dict().items()}
