"""Sampling that stops: how many more rollouts until a rate is known well enough. Pure.

A cell is one question that is asked again and again at a temperature (a scenario, say), and its
rollouts are independent tries with one unknown rate. Each cell goes on until the half-width of its
Wilson interval is at most ``rule.target`` (*narrow enough*) or ``rule.cap`` rollouts were started
(*cap*). The driver's loop::

    while more := plan_next(tallies, rule):
        run(more)  # {cell: how many}; then count what came back into tallies
    outcomes = {cell: decide(tally, rule) for cell, tally in tallies.items()}

The decision is a function of the counts alone, so a loop that was killed goes on where it was.

Stopping looks at the data, and a cell whose rate looks extreme by chance stops early. That could
cost coverage; Wilson's interval, whose width is never near zero, and ``rule.minimum`` keep it. How
far is computed, not guessed: :func:`expect` goes through every way the counts can run, and
``benchmarks/evaluation/adaptive.json`` has what comes out: 93 to 98 %, as for a fixed number.
Source of fixed-width stopping: Frey, Fixed-width sequential confidence intervals for a proportion,
The American Statistician 64 (2010), 242-249.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from msm_ray.errors import UserError
from msm_ray.evaluate.intervals import normal_quantile, wilson

Key = TypeVar("Key", bound=Hashable)
Status = Literal["sampling", "narrow enough", "cap"]


@dataclass(frozen=True)
class Rule:
    """When a cell has enough rollouts.

    Args:
        target: half-width of the interval to reach, as a rate (0.05: five points either way).
        cap: most rollouts started for a cell, those included that could not be scored.
        batch: rollouts are asked for in multiples of this.
        minimum: fewest scored rollouts before a cell may stop as narrow enough.
        level: nominal coverage of the interval.
    """

    target: float
    cap: int = 300
    batch: int = 20
    minimum: int = 60
    level: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.target < 0.5:
            raise UserError(f"target: {self.target}; allowed: a half-width between 0 and 0.5")
        if self.batch < 1:
            raise UserError(f"batch: {self.batch}; allowed: 1 or more")
        if not 1 <= self.minimum <= self.cap:
            raise UserError(f"minimum: {self.minimum}; allowed: 1 to the cap of {self.cap}")
        if not 0 < self.level < 1:
            raise UserError(f"level: {self.level}; allowed: between 0 and 1, as 0.95")


class Tally(NamedTuple):
    """What is known of a cell. A plain ``(successes, n)`` or ``(successes, n, tried)`` will do.

    ``n`` counts scored rollouts, ``tried`` those that were started and have ended, scored or not
    (``None``: all were scored). None of them may still be under way.
    """

    successes: int
    n: int
    tried: int | None = None


@dataclass(frozen=True)
class Decision:
    """Where a cell stands: its rate (``nan`` without a rollout), interval, and what is to be done.

    ``more`` rollouts are to be started; it is 0 exactly when ``status`` is not ``sampling``.
    """

    status: Status
    more: int
    rate: float
    low: float
    high: float
    n: int
    tried: int

    @property
    def half_width(self) -> float:
        """Half the width of the interval, as a rate."""
        return (self.high - self.low) / 2


AnyTally = Tally | tuple[int, int] | tuple[int, int, int]


def plan_next(cells: Mapping[Key, AnyTally], rule: Rule) -> dict[Key, int]:
    """How many rollouts to start now, for every cell that goes on; empty when all have stopped.

    Raises:
        ValueError: counts that cannot be (see :func:`decide`).
    """
    decided = {key: decide(tally, rule) for key, tally in cells.items()}
    return {key: decision.more for key, decision in decided.items() if decision.more}


def decide(tally: AnyTally, rule: Rule) -> Decision:
    """Whether a cell goes on, and with how many rollouts.

    Half of what it is expected to need still, in whole batches and one at least: few rounds, in
    which many rollouts run together, and little overshoot.

    Raises:
        ValueError: not ``0 <= successes <= n <= tried``.
    """
    successes, n, tried = Tally(*tally)
    tried = n if tried is None else tried
    if not 0 <= successes <= n <= tried:
        raise ValueError(f"{successes} successes of {n} scored of {tried} tried cannot be")
    rate = successes / n if n else math.nan
    low, high = wilson(successes, n, level=rule.level) if n else (0.0, 1.0)
    status: Status = "sampling"
    more = 0
    if n >= rule.minimum and (high - low) / 2 <= rule.target:
        status = "narrow enough"
    elif tried >= rule.cap:
        status = "cap"
    else:
        more = min(_more(successes, n, rule), rule.cap - tried)
    return Decision(status, more, rate, low, high, n, tried)


def _more(successes: int, n: int, rule: Rule) -> int:
    if n < rule.minimum:
        return rule.minimum - n
    # The rate is taken a little nearer to 1/2 than it was seen (Agresti and Coull's two successes
    # and two failures): a cell that has seen none would otherwise be expected to need no more.
    needed = _needed((successes + 2) / (n + 4), rule)
    batches = math.ceil((needed - n) / 2 / rule.batch)
    return max(1, batches) * rule.batch


def _needed(rate: float, rule: Rule) -> int:
    """The rollouts at which the interval around ``rate`` has the target's width."""
    # Wilson's half-width z sqrt(n p q + z^2/4) / (n + z^2) = d, solved for n.
    z2, d2, pq = normal_quantile((1 + rule.level) / 2) ** 2, rule.target**2, rate * (1 - rate)
    half = z2 * (pq - 2 * d2) / (2 * d2)
    root = half**2 + z2**2 * (1 / 4 - d2) / d2
    return math.ceil(half + math.sqrt(root))


# ------------------------------------------------------------------------------ what it will bring


@dataclass(frozen=True)
class Expected:
    """What a rule does to a cell of a known rate, over all that can happen.

    ``coverage`` is how often the interval after stopping holds the rate; ``narrow`` how often the
    cell ends narrow enough; ``rollouts`` and ``half_width`` are means.
    """

    coverage: float
    rollouts: float
    half_width: float
    narrow: float


def expect(rate: float, rule: Rule) -> Expected:
    """The exact operating characteristics of ``rule`` at ``rate``, every rollout being scored.

    All counts that can be reached are gone through with their probabilities; nothing is drawn.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: {rate}; allowed: 0 to 1")
    # rollouts -> probability of each number of successes
    reached: dict[int, npt.NDArray[np.float64]] = {0: np.ones(1)}
    coverage = rollouts = half_width = narrow = 0.0
    while reached:
        n = min(reached)
        probability = reached.pop(n)
        onward: dict[int, npt.NDArray[np.float64]] = {}
        for successes in np.flatnonzero(probability > 1e-15):  # what is less is lost, and no matter
            weight = float(probability[successes])
            decision = decide((int(successes), n), rule)
            if decision.more:
                share = onward.setdefault(decision.more, np.zeros(n + 1))
                share[successes] = weight
                continue
            coverage += weight * (decision.low <= rate <= decision.high)
            rollouts += weight * n
            half_width += weight * decision.half_width
            narrow += weight * (decision.status == "narrow enough")
        for more, share in onward.items():
            spread = np.convolve(share, _binomial(more, rate))
            reached[n + more] = reached.get(n + more, np.zeros(n + more + 1)) + spread
    return Expected(coverage, rollouts, half_width, narrow)


@lru_cache(maxsize=256)
def _binomial(n: int, rate: float) -> npt.NDArray[np.float64]:
    """The probabilities of 0 to ``n`` successes."""
    row: npt.NDArray[np.float64] = np.ones(1)
    for _ in range(n):
        row = np.append(row * (1 - rate), 0.0) + np.append(0.0, row * rate)
    return row
