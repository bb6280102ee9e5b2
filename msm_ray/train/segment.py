"""Parts of a training: a trunk at the full rate, and branches from it in which the rate decays.

    trunk      0 ---------> s1 ----------> s2 --------> s3        at the full rate
                             \\              \\             \\
    branches                  decay          decay        decay    one model for each budget

Under "wsd" the rate is the same for every budget until its decay begins (Haegele et al. 2024, arXiv
2405.18392, section 4). So a longer budget continues a shorter one: n budgets cost the longest of
them and their decays. A branch is, step by step, the run of its budget from nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from msm_ray.errors import UserError
from msm_ray.train.config import DECAY_FRACTION, TrainConfig
from msm_ray.train.schedule import decay_steps, warmup_steps


@dataclass(frozen=True)
class Segment:
    """The steps of a run from ``start`` until it has read ``blocks`` blocks, ``start``'s included.

    ``warmup``: steps of the warm-up, counted from the first step of all.
    """

    start: int
    blocks: int
    warmup: int

    @classmethod
    def whole(cls, blocks: int, config: TrainConfig) -> Segment:
        """A run of its own over ``blocks`` blocks."""
        return cls(0, blocks, warmup_steps(math.ceil(blocks / config.batch_blocks), config))

    def steps(self, batch_blocks: int) -> int:
        """The step at which it ends, which is that of a whole run as well."""
        return math.ceil(self.blocks / batch_blocks)


@dataclass(frozen=True)
class Budget:
    """A budget's branch, and the part of the trunk that leads from the last branch to its own."""

    tokens: int
    trunk: Segment
    branch: Segment


def plan_budgets(
    budgets: Sequence[int], block_tokens: int, config: TrainConfig
) -> tuple[Budget, ...]:
    """Trunk and branches for budgets of tokens in ascending order.

    A budget is ``ceil(tokens / block_tokens)`` blocks. Warm-up is ``warmup_fraction`` of the steps
    of the smallest budget, so that it is the same for all of them; each decays over the last
    ``decay_fraction`` of its own steps.

    Raises:
        UserError: two budgets so close that the second one's decay begins no later than the
            first's, or a smallest one that decays before it is warm.
    """
    batch = config.batch_blocks
    blocks = [math.ceil(tokens / block_tokens) for tokens in budgets]
    steps = [math.ceil(count / batch) for count in blocks]
    starts = [n - decay_steps(n, config) for n in steps]
    warmup = warmup_steps(steps[0], config)
    if starts[0] < max(1, warmup):
        raise UserError(
            f"midtrain.budgets: {budgets[0]} tokens are {steps[0]} steps, of which {warmup} warm up"
            f" and {steps[0] - starts[0]} decay; the decay has to begin after the first step and"
            " the warm-up: give more tokens, or a smaller warmup_fraction or decay_fraction"
        )
    for (small, large), (before, after) in zip(pairwise(budgets), pairwise(starts), strict=True):
        if after <= before:
            raise UserError(
                f"midtrain.budgets: {small} and {large} tokens are too close: the second would"
                f" begin to decay at step {after}, the first does at step {before}; give them"
                " further apart, or a smaller decay_fraction or batch_blocks"
            )
    return tuple(
        Budget(tokens, Segment(begin, end * batch, warmup), Segment(end, count, warmup))
        for tokens, begin, end, count in zip(
            budgets, [0, *starts[:-1]], starts, blocks, strict=True
        )
    )


def check_budgets(
    tokens: int, budgets: Sequence[int], config: TrainConfig, where: str = ""
) -> None:
    """``UserError`` unless ``tokens`` is one of ascending ``budgets`` of a trunk; () is no trunk.

    ``where``: what the error puts before a field's name, "midtrain.".
    """
    if not budgets:
        return
    numbers = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in budgets)
    if not numbers or any(small >= large for small, large in pairwise(budgets)):
        raise UserError(
            f"{where}budgets is {list(budgets)}; allowed: numbers of tokens, each larger than the "
            "one before"
        )
    if tokens not in budgets:
        raise UserError(
            f"{where}tokens is {tokens}; allowed: one of {where}budgets: "
            f"{', '.join(map(str, budgets))}"
        )
    if config.schedule != "wsd":
        raise UserError(
            f"{where}train.schedule is {config.schedule!r}; with {where}budgets it has to be "
            "'wsd': only there does the rate not depend on the budget until it decays"
        )
    if config.epochs != 1:
        raise UserError(
            f"{where}train.epochs is {config.epochs:g}; with {where}budgets it has to be 1: a "
            "budget says how much of the mixture is read"
        )


def trunk_config(config: TrainConfig) -> TrainConfig:
    """The run of a trunk: how its branches decay is not part of it."""
    return replace(
        config, schedule="constant", final_lr_fraction=1.0, decay_fraction=DECAY_FRACTION
    )


DECAY_FIELDS = ("schedule", "final_lr_fraction", "decay_fraction")  # what `trunk_config` drops
