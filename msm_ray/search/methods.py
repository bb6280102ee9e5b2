"""How points of a space are chosen, and the methods that look at no result. Pure values.

A method is a frozen dataclass. Trial ``number`` of a search is what ``suggest`` says, given the
trials so far: the same number, trials and seed give the same suggestion, so that a search that was
killed goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np

from msm_ray.errors import UserError
from msm_ray.search.mixture import AnyMix
from msm_ray.search.simplex import Vector, latin, sobol
from msm_ray.search.space import Point, Space, grid

State = Literal["running", "done", "stopped", "failed"]


@dataclass(frozen=True)
class Suggestion:
    """A trial to run: a point, and settings besides it (a smaller budget, for instance).

    ``memory``: what the method wants to find again in :class:`Seen`, as plain JSON values.
    """

    point: Point
    phase: str = "search"
    extra: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """A trial so far.

    ``values``: one for each objective, oriented so that larger is better; None unless it is done
    (or stopped). ``rungs``: (optimizer steps, value of the first objective) of each rung it
    reached. ``violations``: by how much each constraint is missed, at most 0 where it holds.
    """

    number: int
    point: Point
    state: State
    values: tuple[float, ...] | None = None
    rungs: tuple[tuple[int, float], ...] = ()
    phase: str = "search"
    memory: Mapping[str, Any] = field(default_factory=dict)
    violations: tuple[float, ...] = ()

    @property
    def finite(self) -> bool:
        """Whether it is done and every value a number."""
        done = self.state == "done" and self.values is not None
        return done and all(math.isfinite(v) for v in self.values or ())


class Method(Protocol):
    """What chooses the points of a search."""

    @property
    def name(self) -> str:
        """What a report calls it."""

    def count(self, space: Space) -> int:
        """How many trials there are in all."""

    def check(self, space: Space, job: Any) -> None:
        """UserError, in one line, when it cannot search this space of this job."""

    @property
    def grows(self) -> bool:
        """Whether more ``trials`` leave the first ones as they are."""

    def independent(self, number: int) -> bool:
        """Whether trial ``number`` is the same whatever the others find."""

    def suggest(
        self, space: Space, number: int, seen: Sequence[Seen], seed: int
    ) -> Suggestion | None:
        """Trial ``number``; None: wait until more of ``seen`` have ended."""


class Blind:
    """A method that looks at no result."""

    @property
    def grows(self) -> bool:
        """The number of trials decides nothing else, as a rule."""
        return True

    def independent(self, number: int) -> bool:
        """Every trial is known beforehand."""
        return True


@dataclass(frozen=True)
class Grid(Blind):
    """Every combination of listed values (`Among`, `Mixtures`), the first dimension slowest."""

    @property
    def name(self) -> str:
        return "grid"

    def count(self, space: Space) -> int:
        return len(grid(space))

    def check(self, space: Space, job: Any) -> None:
        self.count(space)

    def suggest(self, space: Space, number: int, seen: Sequence[Seen], seed: int) -> Suggestion:
        return Suggestion(grid(space)[number])


@dataclass(frozen=True)
class Random(Blind):
    """``trials`` independent points, uniform in every coordinate (of a mixture: its Dirichlet)."""

    trials: int

    def __post_init__(self) -> None:
        check_whole("random", "trials", self.trials, 1)

    @property
    def name(self) -> str:
        return "random"

    def count(self, space: Space) -> int:
        return self.trials

    def check(self, space: Space, job: Any) -> None:
        pass

    def suggest(self, space: Space, number: int, seen: Sequence[Seen], seed: int) -> Suggestion:
        u = np.random.default_rng([seed, number]).random(len(space.coordinates))
        return Suggestion(_point(space.coordinates, u))


@dataclass(frozen=True)
class Stratified(Blind):
    """``trials`` points spread evenly: of n trials, one in each n-th of each coordinate.

    With ``per_early`` k the trials come in groups of k that have the coordinates of ``early``
    settings in common, so that they are paths which share their corpora and midtrainings; within a
    group the others are spread evenly. ``early`` empty: every mixture and every setting whose name
    does not start with "aft.".

    ``design``: "latin" (a Latin hypercube of exactly ``trials`` points) or "sobol" (a scrambled
    Sobol sequence: more trials later leave the first ones as they are).
    """

    trials: int
    per_early: int = 1
    early: tuple[str, ...] = ()
    design: Literal["latin", "sobol"] = "latin"

    def __post_init__(self) -> None:
        check_whole("stratified", "trials", self.trials, 1)
        check_whole("stratified", "per_early", self.per_early, 1)
        if self.design not in ("latin", "sobol"):
            raise UserError(f"stratified: design is {self.design!r}; allowed: 'latin', 'sobol'")

    @property
    def name(self) -> str:
        return "stratified"

    @property
    def grows(self) -> bool:
        return self.design == "sobol"

    def count(self, space: Space) -> int:
        return self.trials

    def check(self, space: Space, job: Any) -> None:
        check_early(self.name, space, self.per_early, self.early, self.trials)

    def suggest(self, space: Space, number: int, seen: Sequence[Seen], seed: int) -> Suggestion:
        k, names = self.per_early, space.coordinates
        if k == 1:
            return Suggestion(_point(names, self._row(len(names), self.trials, number, seed, 0)))
        early = early_coordinates(space, self.early)
        late = [c for c in names if c not in early]
        group, within = divmod(number, k)
        groups = math.ceil(self.trials / k)
        point = _point(early, self._row(len(early), groups, group, seed, 0))
        if self.design == "sobol":
            point |= _point(late, self._row(len(late), self.trials, number, seed, 1))
        else:
            point |= _point(late, self._row(len(late), k, within, seed, 1 + group))
        return Suggestion({c: point[c] for c in names})

    def _row(self, dimensions: int, n: int, row: int, seed: int, stream: int) -> Vector:
        if not dimensions:
            return np.zeros(0)
        return np.asarray(_design(self.design, dimensions, n, seed, stream)[row])


@lru_cache(maxsize=64)
def _design(kind: str, dimensions: int, n: int, seed: int, stream: int) -> Vector:
    rng = np.random.default_rng([seed, stream])
    return latin(rng, n, dimensions) if kind == "latin" else sobol(rng, n, dimensions)


def early_coordinates(space: Space, early: Sequence[str] = ()) -> tuple[str, ...]:
    """The coordinates that decide corpora and midtraining.

    Those of the settings in ``early`` (of a mixture any one of its settings); without it every
    mixture and every setting that does not start with "aft.".
    """
    found: list[str] = []
    for d in space.dimensions:
        if early:
            is_early = bool(set(d.names) & set(early))
        else:
            is_early = isinstance(d, AnyMix) or not d.setting.startswith("aft.")
        found += d.coordinates if is_early else ()
    return tuple(found)


def check_early(
    where: str, space: Space, per_early: int, early: Sequence[str], trials: int
) -> None:
    """UserError where trials cannot be grouped by their early settings as asked."""
    if unknown := [name for name in early if name not in space.names]:
        raise UserError(f"{where}: early is {unknown[0]!r}; allowed: {', '.join(space.names)}")
    if per_early > trials:
        raise UserError(
            f"{where}: per_early is {per_early} and there are {trials} trials, which would have all"
            f" early settings in common; allowed: 1 to {trials}"
        )
    shared = set(early_coordinates(space, early))
    if per_early > 1 and shared == set(space.coordinates):
        raise UserError(
            f"{where}: per_early is {per_early} and every setting is an early one, so that the "
            "trials of a group would be the same; allowed: 1"
        )


def check_tuple(what: str, values: Any, kind: type) -> None:
    """UserError unless ``values`` are a tuple (or list) of ``kind``; (one) is none, (one,) is."""
    if not isinstance(values, tuple | list) or not all(isinstance(v, kind) for v in values):
        raise UserError(
            f"{what} is {values!r}; allowed: a tuple of {kind.__name__}, a single one as (it,)"
        )


def check_whole(where: str, name: str, value: Any, least: int) -> None:
    """UserError unless ``value`` is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{where}: {name} is {value!r}; allowed: a whole number from {least}")


def _point(names: Sequence[str], values: Vector) -> Point:
    return {n: float(u) for n, u in zip(names, values, strict=True)}
