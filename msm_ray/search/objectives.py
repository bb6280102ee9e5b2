"""What a search wants: measures of a trial's report, objectives, constraints, and the choice. Pure.

Every measure reads ``{"effects", "arms", "cost"}`` of one trial's report and gives its value with
an interval of 95 %, so that whoever chooses sees what is noise.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from msm_ray.errors import UserError

SHARES = ("choice", "choice_soft", "choice_text", "facts", "capability")
QUANTITIES = ("tokens", "device_seconds")
Measured = dict[str, Any]  # {"value": float, "ci95": [low, high] or None}


class Measure(Protocol):
    """A number of a trial's report."""

    @property
    def name(self) -> str:
        """What the report calls it."""

    def known(
        self, effects: Collection[str], evals: Collection[str], arms: Collection[str]
    ) -> None:
        """UserError, in one line with what is allowed, where a trial would not measure it."""

    def of(self, report: Mapping[str, Any]) -> Measured:
        """Value and interval; UserError where it was not measured."""


@dataclass(frozen=True)
class Effect:
    """An effect between arms, by its name in the report."""

    effect: str

    @property
    def name(self) -> str:
        return self.effect

    def known(
        self, effects: Collection[str], evals: Collection[str], arms: Collection[str]
    ) -> None:
        _among("search: effect", [self.effect], effects)

    def of(self, report: Mapping[str, Any]) -> Measured:
        found = report["effects"].get(self.effect)
        if found is None:
            raise UserError(_not_measured(self.name, f"effects are {_listed(report['effects'])}"))
        return {"value": float(found["value"]), "ci95": _interval(found.get("ci95"))}


@dataclass(frozen=True)
class Rate:
    """An evaluation's rate, as the mean over ``arms``; without any, over every ``msm:VALUE+aft``.

    The mean's interval takes the arms' as independent: half widths add up in squares, each side
    for itself. Arms share items and seeds, so that is too wide for what they have in common and
    right for what they do not.
    """

    evaluation: str
    arms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "arms", tuple(self.arms))
        if len(set(self.arms)) != len(self.arms):
            raise UserError(f"search: rate {self.evaluation!r} lists an arm twice: {self.arms}")

    @property
    def name(self) -> str:
        return f"{self.evaluation} ({', '.join(self.arms)})" if self.arms else self.evaluation

    def known(
        self, effects: Collection[str], evals: Collection[str], arms: Collection[str]
    ) -> None:
        _among("search: rate", [self.evaluation], evals)
        _among(f"search: rate {self.evaluation!r} of arm", self.arms_of(arms), arms)

    def of(self, report: Mapping[str, Any]) -> Measured:
        rates = []
        for arm in self.arms_of(report["arms"]):
            rate = report["arms"].get(arm, {}).get("evals", {}).get(self.evaluation)
            if rate is None:
                raise UserError(_not_measured(self.name, f"arm {arm} has none"))
            rates.append((float(rate["rate"]), _interval(rate.get("ci95"))))
        value = sum(rate for rate, _ in rates) / len(rates)
        halves = [(r - ci[0], ci[1] - r) for r, ci in rates if ci is not None]
        if len(halves) < len(rates):
            return {"value": value, "ci95": None}
        below, above = (math.hypot(*side) / len(rates) for side in zip(*halves, strict=True))
        return {"value": value, "ci95": [value - below, value + above]}

    def arms_of(self, arms: Collection[str]) -> tuple[str, ...]:
        """The arms that it is the mean of, among ``arms``."""
        named = self.arms or tuple(a for a in arms if a.startswith("msm:") and "+aft" in a)
        if not named:
            raise UserError(
                f"search: rate {self.evaluation!r} has no arm msm:VALUE+aft to be the mean of; "
                f"allowed arms: {_listed(arms)}"
            )
        return named


@dataclass(frozen=True)
class Cost:
    """What a trial costs: ``tokens`` trained on its whole path, exactly, or ``device_seconds``.

    Those are the seconds that its stages took when they were made, by whichever trial and beside
    whatever else ran: another run of the same trial has others.
    """

    quantity: str

    def __post_init__(self) -> None:
        _among("search: cost", [self.quantity], QUANTITIES)

    @property
    def name(self) -> str:
        return self.quantity

    def known(
        self, effects: Collection[str], evals: Collection[str], arms: Collection[str]
    ) -> None:
        pass  # every trial has it

    def of(self, report: Mapping[str, Any]) -> Measured:
        found = report["cost"].get(self.quantity)
        if found is None:
            raise UserError(_not_measured(self.name, f"costs are {_listed(report['cost'])}"))
        exact = [float(found), float(found)] if self.quantity == "tokens" else None
        return {"value": float(found), "ci95": exact}


@dataclass(frozen=True)
class Objective:
    """A measure to make as large ("max") or as small ("min") as can be."""

    measure: Effect | Rate | Cost
    goal: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        _check_measure("objective", self.measure)
        if self.goal not in ("max", "min"):
            raise UserError(f"objective {self.name}: goal is {self.goal!r}; allowed: 'max', 'min'")

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.measure.name

    def oriented(self, value: float) -> float:
        """The value so that larger is better."""
        return value if self.goal == "max" else -value


@dataclass(frozen=True)
class Constraint:
    """A measure that has to be within bounds, ends included."""

    measure: Effect | Rate | Cost
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        _check_measure("constraint", self.measure)
        where = f"constraint on {self.name}"
        bounds = [b for b in (self.at_least, self.at_most) if b is not None]
        if not bounds:
            raise UserError(f"{where}: no bound is given; allowed: at_least, at_most or both")
        if not all(math.isfinite(b) for b in bounds):
            raise UserError(f"{where}: bounds are {bounds}; allowed: finite numbers")
        if len(bounds) == 2 and bounds[0] > bounds[1]:
            raise UserError(
                f"{where}: at_least {self.at_least} is above at_most {self.at_most}; "
                "no trial could hold it"
            )
        lowest = 0.0 if isinstance(self.measure, Rate | Cost) else -math.inf
        share = isinstance(self.measure, Rate) and is_share(self.measure.evaluation)
        self.check_range(lowest, 1.0 if share else math.inf)

    def check_range(self, lowest: float, highest: float) -> None:
        """UserError where no value from ``lowest`` to ``highest`` is within the bounds."""
        if (self.at_least is not None and self.at_least > highest) or (
            self.at_most is not None and self.at_most < lowest
        ):
            raise UserError(
                f"constraint on {self.name}: at_least {self.at_least}, at_most {self.at_most}, and"
                f" it lies between {lowest:g} and {highest:g}; no trial could hold it"
            )

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.measure.name

    def missed_by(self, value: float) -> float:
        """How far ``value`` is outside; 0 where it holds, infinite for NaN."""
        if math.isnan(value):
            return math.inf
        below = self.at_least - value if self.at_least is not None else 0.0
        above = value - self.at_most if self.at_most is not None else 0.0
        return max(0.0, below, above)

    def holds(self, value: float) -> bool:
        """Whether ``value`` is within the bounds; NaN never is."""
        return self.missed_by(value) == 0


def check_known(
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    effects: Mapping[str, Sequence[str]],
    evals: Collection[str],
    arms: Collection[str],
) -> None:
    """Refuse, before anything starts, what trials would not measure or what has no one name.

    ``effects``: by name (evaluation, arm, ...); see `msm_ray.comparison.Comparison.compared`.
    """
    if not objectives:
        raise UserError("search: no objective is given; at least one is needed")
    sought = {one.name: one.measure for one in objectives}
    for held in constraints:
        if sought.get(held.name, held.measure) != held.measure:
            raise UserError(f"search: {held.name} names two different measures; allowed: one")
    for group in (objectives, constraints):
        names = [one.name for one in group]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            kind = "objectives" if group is objectives else "constraints"
            raise UserError(f"search: {kind} name {twice[0]} twice; allowed: once")
        for one in group:
            one.measure.known(effects, evals, arms)
    for held in constraints:
        if isinstance(held.measure, Effect) and is_share(effects[held.name][0]):
            held.check_range(-1.0, 1.0)  # a difference of two shares


def is_share(evaluation: str) -> bool:
    """Whether its rate is known to lie between 0 and 1; scores and losses do not."""
    return evaluation.partition(":")[0] in SHARES


def _check_measure(what: str, measure: Any) -> None:
    if not isinstance(measure, Effect | Rate | Cost):
        raise UserError(
            f"{what}: measure is {measure!r}; allowed: Effect(name), Rate(evaluation), Cost(what)"
        )


# -------------------------------------------------------------------------------------- choice


def feasible(values: Mapping[str, Measured], constraints: Sequence[Constraint]) -> bool | None:
    """Whether a trial's ``values`` (by name) hold every constraint; None where one is missing."""
    if any(c.name not in values for c in constraints):
        return None
    return not missed(values, constraints)


def missed(values: Mapping[str, Measured], constraints: Sequence[Constraint]) -> list[str]:
    """The names of the constraints that a trial's ``values``, which has them all, do not hold."""
    return [c.name for c in constraints if not c.holds(values[c.name]["value"])]


def oriented(
    values: Mapping[str, Measured], objectives: Sequence[Objective]
) -> tuple[float, ...] | None:
    """A trial's objectives so that larger is better; None where one is missing."""
    if any(o.name not in values for o in objectives):
        return None
    return tuple(o.oriented(values[o.name]["value"]) for o in objectives)


def front(values: Sequence[Sequence[float] | None]) -> list[int]:
    """Positions of the values that no other one dominates, ascending.

    One dominates another that is nowhere larger and somewhere smaller; equal ones stay together.
    None, NaN and infinities are never on the front. O(n log n) for up to two objectives.
    """
    usable = [
        (i, tuple(v)) for i, v in enumerate(values) if v is not None and all(map(math.isfinite, v))
    ]
    if usable and len(usable[0][1]) <= 2:
        return sorted(_sweep([(i, (v[0], v[-1])) for i, v in usable]))
    return [i for i, v in usable if not any(_dominates(w, v) for _, w in usable)]


def _sweep(points: list[tuple[int, tuple[float, float]]]) -> list[int]:
    """From the largest first value down: on the front is what has the largest second one so far."""
    found: list[int] = []
    before = level = -math.inf  # largest second value where the first is larger, and in all
    first = math.inf
    for i, (a, b) in sorted(points, key=lambda p: (-p[1][0], -p[1][1])):
        if a < first:
            first, before = a, level
        if b > before and b >= level:
            found.append(i)
        level = max(level, b)
    return found


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(
        x > y for x, y in zip(a, b, strict=True)
    )


def _interval(ends: Sequence[float | None] | None) -> list[float] | None:
    if ends is None or any(e is None or not math.isfinite(e) for e in ends):
        return None
    return [float(e) for e in ends if e is not None]


def _among(where: str, names: Collection[str], allowed: Collection[str]) -> None:
    if unknown := [n for n in names if n not in allowed]:
        raise UserError(f"{where} {unknown[0]!r} is not measured; allowed: {_listed(allowed)}")


def _listed(names: Collection[str]) -> str:
    return ", ".join(names) or "none"


def _not_measured(name: str, there: str) -> str:
    return f"{name} was not measured; {there}"
