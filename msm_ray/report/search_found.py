"""A search as the report shows it: trials, best first, and how their numbers are written.

A number of an objective or a constraint has as many digits as the intervals of that measure carry.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from msm_ray.report.text import NOT_MEASURED, count, fixed, items, mapping, word

MOST_DRAWN = 200  # trials in a figure; the table has all of them
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """A value with its 95 % interval, where there is one."""

    value: float
    ci95: Bounds | None


@dataclass(frozen=True)
class Objective:
    """What is sought; ``goal`` is "max" or "min"."""

    name: str
    goal: str

    def gain(self, value: float) -> float:
        """``value`` such that larger is better."""
        return value if self.goal == "max" else -value


@dataclass(frozen=True)
class Constraint:
    """The range that a measure has to keep to; None: no bound on that side."""

    name: str
    at_least: float | None
    at_most: float | None

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies in the range."""
        low_enough = self.at_most is None or value <= self.at_most
        return low_enough and (self.at_least is None or value >= self.at_least)


@dataclass(frozen=True)
class Dimension:
    """One varied setting: a range (``values`` empty), or a list of values."""

    setting: str
    low: float
    high: float
    log: bool
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Mixture:
    """Sources whose shares sum to one, and the settings that some of them have."""

    sources: tuple[str, ...]
    settings: Mapping[str, str]
    floors: Mapping[str, float]
    ceilings: Mapping[str, float]


@dataclass(frozen=True)
class Rung:
    """The first objective after some optimizer steps."""

    steps: float
    value: float


@dataclass(frozen=True)
class Trial:
    """One trial; None is what was not measured or not said."""

    number: int
    phase: str
    state: str
    settings: Mapping[str, Any]
    mix: Mapping[str, float]
    realised: Mapping[str, float]
    values: Mapping[str, Measured]
    feasible: bool | None
    rungs: tuple[Rung, ...]
    seconds: float | None
    tokens: float | None
    tokens_new: float | None
    stages: float | None
    stages_new: float | None
    error: str


@dataclass(frozen=True)
class Confirmed:
    """A trial that was run again on seeds that the search had not seen."""

    number: int
    seeds: tuple[str, ...]
    claimed: Mapping[str, Measured]
    values: Mapping[str, Measured]


@dataclass(frozen=True)
class Found:
    """A whole search. ``trials`` stand best first, those without a value last."""

    part: Mapping[str, Any]
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    mixture: Mixture | None
    mixtures: int
    dimensions: tuple[Dimension, ...]
    trials: tuple[Trial, ...]
    front: tuple[int, ...]
    best: Trial | None
    confirmed: tuple[Confirmed, ...]

    @property
    def first(self) -> Objective | None:
        """The first objective: what the trials are ranked and coloured by."""
        return self.objectives[0] if self.objectives else None

    @property
    def measures(self) -> list[str]:
        """Names of the objectives, then of the constraints."""
        every = [o.name for o in self.objectives] + [c.name for c in self.constraints]
        return list(dict.fromkeys(every))

    @cached_property
    def varied(self) -> list[str]:
        """Settings that no source of a mixture stands for: the varied ones first, then others."""
        of_mixtures = {
            word(setting, "")
            for space in items(self.part.get("space"))
            for setting in mapping(mapping(space).get("settings")).values()
        }
        names = dict.fromkeys(d.setting for d in self.dimensions)
        names |= dict.fromkeys(name for t in self.trials for name in t.settings)
        return [n for n in names if n not in of_mixtures]

    @cached_property
    def measured(self) -> list[Trial]:
        """Trials with a value of the first objective, best first."""
        return [t for t in self.trials if self.first and self.first.name in t.values]

    @cached_property
    def drawn(self) -> list[Trial]:
        """The trials of the figures: all, or the best `MOST_DRAWN`, the front and the chosen."""
        if len(self.trials) <= MOST_DRAWN:
            return list(self.trials)
        kept = {*self.front, *(c.number for c in self.confirmed)}
        kept |= {self.best.number} if self.best else set()
        return [t for i, t in enumerate(self.measured) if i < MOST_DRAWN or t.number in kept]

    @cached_property
    def _digits(self) -> dict[str, int]:
        every = {n: [t.values[n] for t in self.trials if n in t.values] for n in self.measures}
        return {name: _digits(measured) for name, measured in every.items()}

    def of(self, number: int) -> Trial | None:
        """The trial of that number."""
        return next((t for t in self.trials if t.number == number), None)

    def say(self, name: str, value: float | None, sign: bool = False) -> str:
        """A value of that measure as text."""
        digits = self._digits.get(name, 3)
        if value is None:
            return NOT_MEASURED
        return count(value) if digits == 0 and not sign else fixed(value, digits, sign)

    def bounds(self, name: str, ci95: Bounds | None) -> str:
        """An interval of that measure as text; empty for none."""
        return "" if ci95 is None else f"[{self.say(name, ci95[0])}, {self.say(name, ci95[1])}]"

    def both(self, name: str, found: Measured | None) -> str:
        """Value and interval as text."""
        if found is None:
            return NOT_MEASURED
        return f"{self.say(name, found.value)} {self.bounds(name, found.ci95)}".strip()

    def title(self, trial: Trial) -> str:
        """What a mark says when it is pointed at, as plain text of several lines."""
        lines = [f"trial {trial.number}, {trial.state}" + (f": {trial.error}" * bool(trial.error))]
        lines += [
            f"{n}: {self.both(n, trial.values[n])}" for n in self.measures if n in trial.values
        ]
        if trial.feasible is False:
            lines.append("does not meet the constraints")
        if trial.mix:
            lines.append(", ".join(f"{s} {x:.4g}" for s, x in trial.mix.items()))
        lines += [f"{n} = {shown(trial.settings[n])}" for n in self.varied if n in trial.settings]
        return "\n".join(lines)


def _digits(found: Sequence[Measured]) -> int:
    """Digits behind the point: two of an interval's width, at least two; none for large counts."""
    if any(abs(m.value) >= 1000 for m in found):
        return 0
    widths = [m.ci95[1] - m.ci95[0] for m in found if m.ci95 and m.ci95[1] > m.ci95[0]]
    if not widths:
        return 3
    return min(5, max(2, 1 + math.ceil(-math.log10(statistics.median(widths)))))


def shown(value: Any) -> str:
    """A setting's value as `--set` would take it."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def chosen(found: Found, trial: Trial) -> str:
    """What is said beside the mark of a trial: that it is the best, was confirmed, both; or ""."""
    best = bool(found.best) and trial.number == (found.best.number if found.best else None)
    again = any(c.number == trial.number for c in found.confirmed)
    said = ", ".join(w for w, holds in (("best", best), ("confirmed", again)) if holds)
    return f"{trial.number}: {said}" if said else ""
