"""Several ranks: DeepSpeed ZeRO. On a CPU its ops are built by g++ and ninja at first use."""

from __future__ import annotations

import logging
import os
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from msm_ray.train.backends.base import plain_name
from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.lora import base_name
from msm_ray.train.model import bare_model, decay_groups, freeze
from msm_ray.train.objective import Batch, LossModel, make_objective
from msm_ray.train.weights import Weights


class DeepSpeedBackend:
    """The same AdamW, loss and clipping, with DeepSpeed's partitioned states.

    ``zero_stage`` 2 partitions gradients and optimizer, 3 the parameters as well.
    """

    def __init__(
        self,
        model: Any,
        config: TrainConfig,
        runtime: TrainRuntime,
        weights: Weights | None = None,
    ) -> None:
        deepspeed = _deepspeed()
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.state_format = "deepspeed"
        self.target_nats_BT: torch.Tensor | None = None
        self.device = torch.device("cuda" if runtime.use_gpu else "cpu")
        self.lora = config.lora is not None
        share = config.batch_blocks // self.world_size
        self.micro_blocks = runtime.micro_blocks or share
        self.micro_steps = -(-share // self.micro_blocks)
        freeze(model, config.freeze)
        if weights is not None:
            fill(model, weights)
        if runtime.activation_checkpointing:
            model.gradient_checkpointing_enable()
        optimizer = torch.optim.AdamW(
            decay_groups(model, config.weight_decay),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
        )
        settings = {
            **zero_settings(runtime),
            "train_micro_batch_size_per_gpu": self.micro_blocks,
            "gradient_accumulation_steps": self.micro_steps,
            "gradient_clipping": config.max_grad_norm,
        }
        if config.precision == "bf16":
            settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        module = LossModel(model, runtime.logits_mib)
        self.engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)
        if runtime.zero_stage == 3:
            head = model.get_output_embeddings()
            deepspeed.zero.register_external_parameter(module.head_loss, head.weight)
        self.engine.train()
        objective = make_objective(config)
        self.objective: Any = torch.compile(objective) if runtime.compile else objective

    def step(self, batch: Batch, learning_rate: float, targets: int) -> tuple[float, float]:
        """See :class:`msm_ray.train.backends.base.Backend`."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        nats = torch.zeros((), device=self.device)
        by_target = []
        for part in batch.to(self.device).split(self.micro_blocks):
            losses = self.objective(self.engine, part)
            # DeepSpeed averages over ranks and over micro-batches: this makes of it the sum.
            self.engine.backward(losses.total * (self.world_size * self.micro_steps / targets))
            self.engine.step()  # acts at the last micro-batch only
            nats += losses.nats_BT.sum()
            by_target.append(losses.nats_BT)
        self.target_nats_BT = torch.cat(by_target)
        dist.all_reduce(nats)
        return float(nats), float(self.engine.get_global_grad_norm())

    def full_state(self) -> dict[str, torch.Tensor] | None:
        """See :class:`msm_ray.train.backends.base.Backend`."""
        import deepspeed

        module = self.engine.module
        state: dict[str, torch.Tensor] = {}
        for name, parameter in module.named_parameters():
            if self.lora and not parameter.requires_grad:
                continue
            with deepspeed.zero.GatheredParameters([parameter]):
                if self.rank == 0:
                    state[plain_name(name)] = parameter.detach().cpu().clone()
        if self.rank != 0:
            return None
        if not self.lora:
            tied = {name for name, _ in module.named_parameters(remove_duplicate=False)}
            for name, value in module.state_dict().items():
                if name not in tied:  # buffers that are saved with the weights
                    state[plain_name(name)] = value.detach().cpu().clone()
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


def _deepspeed() -> Any:
    """The package, quiet, and able to build its ops with the ninja that lies beside Python."""
    folder = str(Path(sys.executable).parent)
    if folder not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join((folder, os.environ["PATH"]))
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    return deepspeed


def zero_settings(runtime: TrainRuntime) -> dict[str, Any]:
    """DeepSpeed's settings of what lies where."""
    zero: dict[str, Any] = {"stage": runtime.zero_stage}
    if runtime.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        if runtime.zero_stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,  # taken with zero.Init; the engine's own is its own
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # the same AdamW wherever the states lie
        "steps_per_print": 2**31,  # never
    }


def partitioned_model(folder: Path, runtime: TrainRuntime) -> Any:
    """A folder's model whose parameters are cut into the ranks' parts as they are made, empty."""
    from transformers.initialization import no_init_weights

    init = _deepspeed().zero.Init
    settings = zero_settings(runtime)
    # No dtype: it follows from the settings, fp32. A dtype that is given is dropped for bf16 where
    # the device has no fp16 (0.19.8, precedence in _set_dtype).
    with init(config_dict_or_path=settings), no_init_weights():
        model = bare_model(folder)
    model.tie_weights()  # is part of the initialisation that was left out
    return model


def fill(model: Any, weights: Weights) -> None:
    """Read the parameters of a partitioned model: rank 0 each by itself, the others their parts."""
    deepspeed = _deepspeed()
    # Without an id: an adapter's, which has its values and is cut up later.
    parted = {n: p for n, p in model.named_parameters() if hasattr(p, "ds_id")}
    weights.check(map(base_name, parted))
    with torch.no_grad():
        for name, parameter in parted.items():
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                if dist.get_rank() == 0:
                    parameter.copy_(weights.whole(base_name(name)))
