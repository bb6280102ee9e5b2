"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from msm_ray.train.config import TrainConfig


def warmup_steps(steps: int, config: TrainConfig) -> int:
    """Steps in which the rate rises linearly; at least one when a warm-up is asked for."""
    return max(1, round(steps * config.warmup_fraction)) if config.warmup_fraction > 0 else 0


def decay_steps(steps: int, config: TrainConfig) -> int:
    """Steps in which "wsd" comes down: the last ones of ``steps``, at least one."""
    return max(1, round(steps * config.decay_fraction))


def learning_rate(step: int, steps: int, config: TrainConfig, warmup: int | None = None) -> float:
    """The rate of step ``step`` of ``steps``, counted from 0.

    ``warmup``: steps of the warm-up; None: as many as ``steps`` have (`warmup_steps`).
    It reaches ``learning_rate`` at the last step of the warm-up, and ``learning_rate *
    final_lr_fraction`` at the last step of all ("constant" stays).
    """
    if warmup is None:
        warmup = warmup_steps(steps, config)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    # The peak counts as the start of the decay: step `warmup` is the first below it.
    begin = max(0, warmup - 1)
    if config.schedule == "wsd":
        begin = max(begin, steps - 1 - decay_steps(steps, config))
    progress = max(0.0, (step - begin) / max(1, steps - 1 - begin))
    final = config.final_lr_fraction
    if config.schedule == "constant":
        factor = 1.0
    elif config.schedule == "cosine":
        factor = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
    else:
        factor = 1 - (1 - final) * progress
    return config.learning_rate * factor
