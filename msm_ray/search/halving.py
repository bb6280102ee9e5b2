"""Asynchronous successive halving, in optimizer steps: which trials are worth going on. Pure.

Source: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020
(arXiv 1810.05934), in the form that decides when a trial reaches a rung, against what others had
there by then: nobody waits for anybody.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from msm_ray.errors import UserError


@dataclass(frozen=True)
class Halving:
    """At each of ``rungs`` (optimizer steps, ascending) the best ``keep`` of trials go on."""

    rungs: tuple[int, ...]
    keep: float = 1 / 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "rungs", tuple(self.rungs))
        whole = all(isinstance(r, int) and not isinstance(r, bool) and r >= 1 for r in self.rungs)
        if not self.rungs or not whole or sorted(set(self.rungs)) != list(self.rungs):
            raise UserError(
                f"halving: rungs are {self.rungs}; allowed: ascending whole numbers of steps from 1"
            )
        if not 0 < self.keep < 1:  # also refuses NaN
            raise UserError(f"halving: keep is {self.keep}; allowed: between 0 and 1")

    def decide(self, steps: int, value: float, others: Sequence[float]) -> bool:
        """Whether a trial with ``value`` (larger is better) at the rung ``steps`` goes on.

        It does when fewer than floor(keep n) of the n values at that rung, its own among them, are
        larger; so ties go on. Before there are 1 / keep values every finite one does. NaN and
        infinities never do; those of others count as values that are smaller than any.

        Args:
            others: what other trials had at this rung, in any order.
        """
        if steps not in self.rungs:
            raise ValueError(f"{steps} steps is no rung; the rungs are {self.rungs}")
        if not math.isfinite(value):
            return False
        n = len(others) + 1
        if n < math.ceil(1 / self.keep - 1e-9):
            return True
        larger = sum(math.isfinite(other) and other > value for other in others)
        return larger < max(1, math.floor(self.keep * n + 1e-9))
