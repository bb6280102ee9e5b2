"""What a search varies, as settings of an experiment. Pure values, no Ray."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msm_ray.errors import UserError


@dataclass(frozen=True)
class Axis:
    """One setting, named as ``--set`` names it, and the values to try."""

    setting: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise UserError(f"axis {self.setting} has no values; at least one is needed")
        if any(not math.isfinite(v) for v in self.values):
            raise UserError(f"axis {self.setting}: {self.values}; allowed: finite numbers")
        if len(set(self.values)) != len(self.values):
            raise UserError(f"axis {self.setting} lists a value twice: {self.values}")


def grid(axes: Sequence[Axis]) -> list[dict[str, float]]:
    """Every combination, the first axis slowest.

    Trials that agree in the early stages stand beside each other, so that what they share is made
    while both wait for it, and only once.
    """
    names = [a.setting for a in axes]
    return [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(a.values for a in axes))
    ]


def best(rows: Sequence[dict[str, Any]], metric: str) -> dict[str, Any]:
    """The row with the largest metric; ties go to the earlier one.

    Raises:
        ValueError: no row has a finite value: NaN never wins.
    """
    scored = [r for r in rows if math.isfinite(r.get(metric, math.nan))]
    if not scored:
        raise ValueError(f"no trial has a finite {metric}")
    return max(scored, key=lambda r: r[metric])
