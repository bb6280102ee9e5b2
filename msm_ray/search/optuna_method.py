"""Points chosen by Optuna from the trials so far: TPE, a Gaussian process, NSGA-II.

Optuna sees a study in memory that holds what :class:`Seen` says and nothing else, and a sampler
that is made anew for each suggestion, seeded by the search's seed and the trial's number. So a
suggestion is a function of (seed, number, seen): after a crash the study is built again from the
recorded trials and goes on as it would have.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from msm_ray.errors import UserError
from msm_ray.search.dimensions import slice_of
from msm_ray.search.methods import (
    Seen,
    Stratified,
    Suggestion,
    check_early,
    check_whole,
    early_coordinates,
)
from msm_ray.search.space import Point, Space

SAMPLERS = ("tpe", "gp", "nsga2")
_GENERATION = "NSGAIISampler:generation"  # where Optuna keeps it in a trial's system attributes
_PARENTS = "NSGAIISampler:parent:"


@dataclass(frozen=True)
class Optuna:
    """``trials`` by one of Optuna's samplers, the first ``startup`` of them stratified.

    ``sampler``: "tpe" (tree-structured Parzen estimators, all coordinates together; running trials
    count as poor ones nearby), "gp" (Gaussian process, expected improvement) or "nsga2" (a genetic
    algorithm for several objectives, ``population`` trials a generation). All take several
    objectives and constraints. Coordinates are uniform floats; lists (`Among`, `Mixtures`) are
    categories, for that two values stand side by side in a list says nothing about them.

    Trials that were stopped early are told as pruned, with their rungs: TPE ranks them below what
    was completed, by how far they came; the others learn nothing from them. With several
    objectives Optuna knows no pruning and they are left out, as failed trials always are.

    With ``per_early`` k the trials come in groups of k whose ``early`` coordinates are those of
    their first one; see :class:`msm_ray.search.methods.Stratified`.
    """

    trials: int
    sampler: Literal["tpe", "gp", "nsga2"] = "tpe"
    startup: int = 8
    population: int = 16
    per_early: int = 1
    early: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UserError(
                f"optuna: sampler is {self.sampler!r}; allowed: {', '.join(map(repr, SAMPLERS))}"
            )
        least = {"trials": 2, "startup": 1, "population": 2, "per_early": 1}
        for name, value in least.items():
            check_whole("optuna", name, getattr(self, name), value)
        if self.trials <= self.startup:
            raise UserError(
                f"optuna: trials is {self.trials} and the first {self.startup} (startup) learn from"
                f" none; allowed: more trials, or startup from 1 to {self.trials - 1}"
            )

    @property
    def name(self) -> str:
        return self.sampler

    def count(self, space: Space) -> int:
        return self.trials

    def check(self, space: Space, job: Any) -> None:
        check_early("optuna", space, self.per_early, self.early, self.startup)

    @property
    def grows(self) -> bool:
        """The first ones are ``startup``, however many follow."""
        return True

    def independent(self, number: int) -> bool:
        """The first trials are."""
        return number < self.startup

    def suggest(self, space: Space, number: int, seen: Sequence[Seen], seed: int) -> Suggestion:
        if number < self.startup:
            first = Stratified(self.startup, self.per_early, self.early)
            return first.suggest(space, number, seen, seed)
        told = sorted((s for s in seen if s.number != number), key=lambda s: s.number)
        fixed: Point = {}
        head = number - number % self.per_early
        for other in told:
            if other.number == head:
                early = early_coordinates(space, self.early)
                fixed = {c: other.point[c] for c in early}
        sizes = [
            max((len(getattr(s, name) or ()) for s in told), default=0)
            for name in ("values", "violations")
        ]
        history = _history(repr(space), self.sampler, sizes[0] or 1, sizes[1])
        history.tell(space, told)
        entropy = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        return history.ask(space, number, self._sampler(entropy), fixed)

    def _sampler(self, seed: int) -> Any:
        from optuna import samplers

        if self.sampler == "tpe":
            return samplers.TPESampler(
                n_startup_trials=self.startup, seed=seed, multivariate=True, constant_liar=True
            )
        if self.sampler == "gp":
            return samplers.GPSampler(
                n_startup_trials=self.startup, seed=seed, warn_independent_sampling=False
            )
        return samplers.NSGAIISampler(population_size=self.population, seed=seed)


@lru_cache(maxsize=2)
def _history(space: str, sampler: str, objectives: int, constraints: int) -> History:
    """The study of the search that runs now: kept between suggestions, for speed only."""
    return History(objectives, constraints)


class History:
    """A study of Optuna that holds given trials, changed by what changed since the last time."""

    def __init__(self, objectives: int, constraints: int) -> None:
        """``objectives`` values, larger is better, and ``constraints`` violations a trial."""
        self._objectives, self._constraints = objectives, constraints
        self._begin()

    def _begin(self) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)  # what runs is ours to tell of
        self._storage = optuna.storages.InMemoryStorage()
        self._study = optuna.create_study(
            storage=self._storage, directions=["maximize"] * self._objectives
        )
        self._id = self._storage.get_study_id_from_name(self._study.study_name)
        self._told: list[Seen] = []  # by the trial's number in the study
        self._asked: tuple[int, Point] | None = None  # stands in the study after those

    def tell(self, space: Space, seen: Sequence[Seen]) -> None:
        """Make the study hold ``seen``, which is in the order of numbers."""
        if not self._continues(seen):
            self._begin()
        if self._asked is not None and len(seen) > len(self._told):
            new = seen[len(self._told)]
            self._told.append(Seen(new.number, new.point, "running"))
            self._asked = None
        for i, trial in enumerate(seen):
            if i == len(self._told):
                self._study.add_trial(self._frozen(space, trial))
                self._told.append(trial)
            elif self._told[i].state == "running" and trial.state != "running":
                self._finish(i, trial)
                self._told[i] = trial

    def _continues(self, seen: Sequence[Seen]) -> bool:
        """Whether ``seen`` follows from what the study holds: trials added at the end, or ended."""
        if self._asked is not None:
            place = len(self._told)
            if len(seen) <= place or (seen[place].number, seen[place].point) != self._asked:
                return False
        return len(seen) >= len(self._told) and all(
            old is new
            or (old.number == new.number and old.point == new.point and _follows(old, new))
            for old, new in zip(self._told, seen, strict=False)
        )

    def ask(self, space: Space, number: int, sampler: Any, fixed: Point) -> Suggestion:
        """The point of trial ``number`` by ``sampler``, with ``fixed`` coordinates as they are."""
        import optuna

        dists = _distributions(space)
        open = {c: d for c, d in dists.items() if not d.single()}
        # Samplers infer from all trials what is varied: with 1,000 of them half of their time.
        sampler.infer_relative_search_space = lambda study, trial: dict(open)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if fixed:
                params = {c: p for c, p in _params(space, fixed).items() if c in fixed}
                sampler = optuna.samplers.PartialFixedSampler(params, sampler)
            self._study.sampler = sampler
            trial = self._study.ask(dists)
        # The parents that NSGA-II chose would stay chosen; a study that is built again after they
        # were, from more trials, would choose others. So they are chosen again each time.
        for key in self._storage.get_study_system_attrs(self._id):
            if key.startswith(_PARENTS):
                self._storage.set_study_system_attr(self._id, key, None)
        choices = _choices(space)
        point = {
            c: (v + 0.5) / choices[c] if choices[c] else float(v) for c, v in trial.params.items()
        }
        point |= fixed
        self._asked = (number, point)
        kept = self._storage.get_trial(self._trial_id(trial.number)).system_attrs
        generation = kept.get(_GENERATION)
        memory = {} if generation is None else {"generation": generation}
        return Suggestion({c: point[c] for c in space.coordinates}, memory=memory)

    def _trial_id(self, place: int) -> int:
        id: int = self._storage.get_trial_id_from_study_id_trial_number(self._id, place)
        return id

    def _state(self, trial: Seen) -> Any:
        from optuna.trial import TrialState

        if trial.state == "running":
            return TrialState.RUNNING
        complete = len(trial.violations) == self._constraints and all(
            map(math.isfinite, trial.violations)
        )
        if trial.finite and complete and len(trial.values or ()) == self._objectives:
            return TrialState.COMPLETE
        if trial.state == "stopped" and self._objectives == 1:
            return TrialState.PRUNED
        return TrialState.FAIL

    def _frozen(self, space: Space, trial: Seen) -> Any:
        import optuna

        state = self._state(trial)
        complete = state == optuna.trial.TrialState.COMPLETE
        return optuna.trial.create_trial(
            state=state,
            values=list(trial.values or ()) if complete else None,
            params=_params(space, trial.point),
            distributions=_distributions(space),
            intermediate_values=dict(trial.rungs) if self._objectives == 1 else None,
            # What another method chose stands at the beginning of the evolution.
            system_attrs={_GENERATION: trial.memory.get("generation", 0)},
            constraints=_constraints(trial) if complete else None,
        )

    def _finish(self, place: int, trial: Seen) -> None:
        import optuna

        state = self._state(trial)
        complete = state == optuna.trial.TrialState.COMPLETE
        live = optuna.trial.Trial(self._study, self._trial_id(place))
        if self._objectives == 1:
            for steps, value in trial.rungs:
                live.report(value, steps)
        for key, value in (_constraints(trial) if complete else {}).items():
            live.set_constraint(key, value)
        self._study.tell(place, list(trial.values or ()) if complete else None, state)


def _follows(old: Seen, new: Seen) -> bool:
    if old.state == "running":
        return True
    return (old.state, old.values, old.rungs) == (new.state, new.values, new.rungs)


def _constraints(trial: Seen) -> dict[str, float]:
    return {f"c{i}": float(v) for i, v in enumerate(trial.violations)}


def _choices(space: Space) -> dict[str, int]:
    """By coordinate: how many values it chooses among; 0 where it is a number."""
    return {c: d.choices for d in space.dimensions for c in d.coordinates}


def _distributions(space: Space) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        c: CategoricalDistribution(range(n)) if n else FloatDistribution(0.0, 1.0)
        for c, n in _choices(space).items()
    }


def _params(space: Space, point: Point) -> dict[str, Any]:
    """A point, or a part of one, as Optuna has it."""
    choices = _choices(space)
    return {c: slice_of(u, choices[c]) if choices[c] else u for c, u in point.items()}
