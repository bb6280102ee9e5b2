"""Several ranks: DeepSpeed ZeRO-3. On a CPU its ops are built by g++ and ninja at first use."""

from __future__ import annotations

import logging
import os
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.model import decay_groups, freeze
from msm_ray.train.objective import Batch, target_nats


class DeepSpeedBackend:
    """The same AdamW, loss and clipping, with DeepSpeed's partitioned parameters and gradients."""

    def __init__(self, model: Any, config: TrainConfig, runtime: TrainRuntime) -> None:
        # DeepSpeed builds ops with ninja, which it looks for on the PATH; ours is beside Python.
        os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        import deepspeed
        from deepspeed.utils import logger

        logger.setLevel(logging.WARNING)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.state_format = "deepspeed"
        self.target_nats_BT: torch.Tensor | None = None
        self.device = torch.device("cuda" if runtime.use_gpu else "cpu")
        share = config.batch_blocks // self.world_size
        self.micro_blocks = runtime.micro_blocks or share
        self.micro_steps = -(-share // self.micro_blocks)
        freeze(model, config.freeze)
        optimizer = torch.optim.AdamW(
            decay_groups(model, config.weight_decay),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
        )
        settings: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": self.micro_blocks,
            "gradient_accumulation_steps": self.micro_steps,
            "gradient_clipping": config.max_grad_norm,
            "zero_optimization": {"stage": 3},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 2**31,  # never
        }
        if config.precision == "bf16":
            settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        self.engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
        self.engine.train()
        self.forward: Any = torch.compile(target_nats) if runtime.compile else target_nats

    def step(self, batch: Batch, learning_rate: float, targets: int) -> tuple[float, float]:
        """See :class:`msm_ray.train.backends.base.Backend`."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        nats = torch.zeros((), device=self.device)
        by_target = []
        for part in batch.to(self.device).split(self.micro_blocks):
            nats_BT = self.forward(self.engine, part)
            loss = nats_BT.sum()
            # DeepSpeed averages over ranks and over micro-batches: this makes of it the sum.
            self.engine.backward(loss * (self.world_size * self.micro_steps / targets))
            self.engine.step()  # acts at the last micro-batch only
            nats += loss.detach()
            by_target.append(nats_BT.detach())
        self.target_nats_BT = torch.cat(by_target)
        dist.all_reduce(nats)
        return float(nats), float(self.engine.get_global_grad_norm())

    def full_state(self) -> dict[str, torch.Tensor] | None:
        """See :class:`msm_ray.train.backends.base.Backend`."""
        import deepspeed

        module = self.engine.module
        state: dict[str, torch.Tensor] = {}
        for name, parameter in module.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                if self.rank == 0:
                    state[name] = parameter.detach().cpu().clone()
        if self.rank != 0:
            return None
        tied = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        for name, value in module.state_dict().items():
            if name not in tied:  # buffers that are saved with the weights
                state[name] = value.detach().cpu().clone()
        return state

    def save_state(self, folder: Path) -> Future[Any]:
        """See :class:`msm_ray.train.backends.base.Backend`. Not meanwhile: steps wait for it."""
        self.engine.save_checkpoint(str(folder), tag="deepspeed", save_latest=False)
        dist.barrier()
        written: Future[Any] = Future()
        written.set_result(None)
        return written

    def load_state(self, folder: Path) -> None:
        """See :class:`msm_ray.train.backends.base.Backend`. By as many ranks as wrote it."""
        path, _ = self.engine.load_checkpoint(str(folder), tag="deepspeed")
        assert path is not None, f"DeepSpeed found nothing in {folder}"
