"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from msm_ray.train.config import TrainConfig

# Share of the steps in which "wsd" (warm-up, stable, decay) comes down, linearly. Hu et al. 2024
# (MiniCPM) and Hagele et al. 2024 find 10-20 % enough.
WSD_DECAY_FRACTION = 0.2


def warmup_steps(steps: int, config: TrainConfig) -> int:
    """Steps in which the rate rises linearly; at least one when a warm-up is asked for."""
    return max(1, round(steps * config.warmup_fraction)) if config.warmup_fraction > 0 else 0


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """The rate of step ``step`` of ``steps``, counted from 0.

    It reaches ``learning_rate`` at the last step of the warm-up, and ``learning_rate *
    final_lr_fraction`` at the last step of all ("constant" stays).
    """
    warmup = warmup_steps(steps, config)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    # The peak counts as the start of the decay: step `warmup` is the first below it.
    begin = max(0, warmup - 1)
    if config.schedule == "wsd":
        begin = max(begin, steps - 1 - max(1, round(steps * WSD_DECAY_FRACTION)))
    progress = max(0.0, (step - begin) / max(1, steps - 1 - begin))
    final = config.final_lr_fraction
    if config.schedule == "constant":
        factor = 1.0
    elif config.schedule == "cosine":
        factor = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
    else:
        factor = 1 - (1 - final) * progress
    return config.learning_rate * factor
