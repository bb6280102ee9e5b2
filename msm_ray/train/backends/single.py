"""One process: plain PyTorch."""

from __future__ import annotations

import warnings
from concurrent.futures import Future
from pathlib import Path
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
        self.state_format = "dcp"
        self.target_nats_BT: torch.Tensor | None = None
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
        by_target = []
        bf16 = self.config.precision == "bf16"
        for part in batch.to(self.device).split(self.micro_blocks):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                losses = self.objective(self.model, part)
            # Ranks average their gradients: times world_size makes that average the sum.
            (losses.total * (self.world_size / targets)).backward()
            nats += losses.nats_BT.sum()
            by_target.append(losses.nats_BT)
        self.target_nats_BT = torch.cat(by_target)
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

    def checkpoint_group(self) -> Any:
        """The process group in which checkpoints are written; None where there is one process."""
        return None

    def _state(self) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(ignore_frozen_params=True, flatten_optimizer_state_dict=True)
        model, optimizer = get_state_dict(self.model, self.optimizer, options=options)
        return {"model": model, "optimizer": optimizer}

    def save_state(self, folder: Path) -> Future[Any]:
        """See :class:`msm_ray.train.backends.base.Backend`."""
        from torch.distributed.checkpoint.state_dict_saver import async_save

        # True of one process and meant; it is told at every checkpoint, from another thread.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        written: Any = async_save(
            self._state(),
            checkpoint_id=folder,
            process_group=self.checkpoint_group(),
            no_dist=self.checkpoint_group() is None,
        )
        return written  # type: ignore[no-any-return]

    def load_state(self, folder: Path) -> None:
        """See :class:`msm_ray.train.backends.base.Backend`."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict
        from torch.distributed.checkpoint.state_dict_loader import load

        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        state = self._state()
        load(
            state,
            checkpoint_id=folder,
            process_group=self.checkpoint_group(),
            no_dist=self.checkpoint_group() is None,
        )
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            # not strict: frozen weights are not in it, and are those of the start
            options=StateDictOptions(
                ignore_frozen_params=True, flatten_optimizer_state_dict=True, strict=False
            ),
        )
