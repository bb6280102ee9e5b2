"""How a step is computed: in one process, sharded by FSDP2, or by DeepSpeed ZeRO."""

from __future__ import annotations

from typing import Any

from msm_ray.train.backends.base import Backend
from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.weights import Weights


def make_backend(
    model: Any, config: TrainConfig, runtime: TrainRuntime, weights: Weights | None = None
) -> Backend:
    """The backend that ``runtime`` asks for, holding the causal language model ``model``.

    ``weights``: where its parameters are read from, when it comes without (``meta_init``).
    """
    if runtime.backend == "single":
        from msm_ray.train.backends.single import SingleBackend

        return SingleBackend(model, config, runtime, weights)
    if runtime.backend == "fsdp2":
        from msm_ray.train.backends.fsdp2 import Fsdp2Backend

        return Fsdp2Backend(model, config, runtime, weights)
    from msm_ray.train.backends.deepspeed import DeepSpeedBackend

    return DeepSpeedBackend(model, config, runtime, weights)
