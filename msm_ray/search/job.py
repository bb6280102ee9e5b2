"""A search as a job: which settings make a comparison's effect large, and what do they cost?

A trial is a path in the stage tree: its settings name literals, its stages get their ids, and
whatever another trial, arm or run has made is there. What trials that are known beforehand share
is made first, on all of the cluster; then Ray Tune runs the trials, several at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from msm_ray.comparison import Compares, Comparison
from msm_ray.errors import UserError
from msm_ray.identity import canonical, digest
from msm_ray.search.halving import Halving
from msm_ray.search.methods import Method, check_tuple, check_whole
from msm_ray.search.objectives import Constraint, Measure, Objective, check_known
from msm_ray.search.plan import Plan
from msm_ray.search.space import Space, setting_words, with_settings
from msm_ray.search.trial import rungs_of
from msm_ray.search.trials import Journal, Trial
from msm_ray.settings import RunResult
from msm_ray.stage import Stage, topological

FINGERPRINT_DIGITS = 16


@dataclass(frozen=True)
class Confirm:
    """Run the ``top`` best trials again, on seeds that the search has not seen."""

    seeds: tuple[int, ...]
    top: int = 1

    def __post_init__(self) -> None:
        check_tuple("confirm: seeds", self.seeds, int)
        check_whole("confirm", "top", self.top, 1)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"confirm: seeds is {self.seeds}; allowed: at least one, each once")


@dataclass(frozen=True)
class Search:
    """Settings of ``job`` to try: from ``space``, as ``method`` chooses them.

    ``objectives``: what to make large or small, the first one first; ``constraints``: what a trial
    must keep to be the best. ``halving``: trials are measured at several numbers of optimizer
    steps, on one trunk, and only the better ones go on.
    """

    name: str
    title: str
    job: Compares
    space: Space
    method: Method
    objectives: tuple[Objective, ...]
    max_concurrent_trials: int
    constraints: tuple[Constraint, ...] = ()
    halving: Halving | None = None
    confirm: Confirm | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.name.replace("-", "_").isidentifier():
            raise UserError(f"name is {self.name!r}; allowed: letters, digits, '_' and '-'")
        self._check_types()
        if not self.objectives:
            raise UserError("objectives is empty; a search needs at least one")
        self.space.check(self.job)
        self.method.check(self.space, self.job)
        rungs_of(self.job, getattr(self.method, "proxy", {}), self.rungs)
        if self.confirm:
            if self.confirm.top > (most := self.method.count(self.space)):
                raise UserError(f"confirm.top is {self.confirm.top}; allowed: 1 to {most}")
            own = set(getattr(self.job, "seeds", ()))
            if seen := sorted(own & set(self.confirm.seeds)):
                raise UserError(
                    f"confirm.seeds has {', '.join(map(str, seen))}, which the search uses itself;"
                    " allowed: other ones"
                )
            with_settings(self.job, {"seeds": self.confirm.seeds})  # it has seeds, and takes these

    def _check_types(self) -> None:
        """UserError where a part is of another kind; Python would say so later, and worse."""
        check_whole("search", "max_concurrent_trials", self.max_concurrent_trials, 1)
        check_tuple("objectives", self.objectives, Objective)
        check_tuple("constraints", self.constraints, Constraint)
        fits = {
            "job": (hasattr(self.job, "comparison"), "a comparison, such as an Experiment"),
            "space": (isinstance(self.space, Space), "Space(...)"),
            "method": (hasattr(self.method, "suggest"), "a method, such as Random(trials)"),
            "halving": (isinstance(self.halving, Halving | None), "Halving(...) or None"),
            "confirm": (isinstance(self.confirm, Confirm | None), "Confirm(...) or None"),
        }
        for name, (fit, allowed) in fits.items():
            if not fit:
                raise UserError(f"{name} is {getattr(self, name)!r}; allowed: {allowed}")

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What is measured of every trial, each once."""
        wanted: list[Objective | Constraint] = [*self.objectives, *self.constraints]
        return tuple({one.name: one.measure for one in wanted}.values())

    @property
    def varied(self) -> dict[str, str]:
        """The settings that trials give: name -> what says their values."""
        return {
            f"job.{name}": f"a part of space.dimensions.{i}"
            for i, dimension in enumerate(self.space.dimensions)
            for name in dimension.names
        }

    @property
    def rungs(self) -> tuple[int, ...]:
        """Optimizer steps at which a trial is measured; none: only at its end."""
        return self.halving.rungs if self.halving else ()

    def checked(self) -> Comparison:
        """The comparison as the job has it, if its trials can be run and measured.

        Raises:
            UserError: a measure that no trial takes, or settings at an end of the space that the
                job cannot work with: a source that is too small for its share, for instance.
        """
        comparison = self.job.comparison()
        check_known(
            self.objectives,
            self.constraints,
            comparison.compared,
            comparison.evals,
            comparison.arms,
        )
        for where, settings in self.space.corners():
            for rung in rungs_of(self.job, settings, self.rungs):
                try:
                    with_settings(self.job, rung).comparison()
                except UserError as error:
                    rungs = ", with the rungs of halving" if self.rungs else ""
                    raise UserError(f"space, at {where}{rungs}: {error}") from None
        return comparison

    def paths(
        self, settings: Iterable[dict[str, Any]], all_rungs: bool = True
    ) -> list[list[Stage]]:
        """The stages of trials of these settings, those of all their rungs or of the first.

        Raises:
            UserError: settings that the job cannot work with.
        """
        return [self._path(of_trial, all_rungs) for of_trial in settings]

    def _path(self, settings: dict[str, Any], all_rungs: bool) -> list[Stage]:
        last = None if all_rungs else 1
        try:
            rungs = rungs_of(self.job, settings, self.rungs)[:last]
            jobs = [with_settings(self.job, rung) for rung in rungs]
            return topological([stage for job in jobs for stage in job.comparison().stages])
        except UserError as error:
            raise UserError(f"a trial with {setting_words(settings)}: {error}") from None

    def again(self, settings: dict[str, Any]) -> Comparison:
        """The last rung of a trial of these settings on the seeds of the confirmation."""
        assert self.confirm is not None
        last = rungs_of(self.job, settings, self.rungs)[-1]
        return with_settings(self.job, {**last, "seeds": self.confirm.seeds}).comparison()

    def fingerprint(self) -> str:
        """The identity of what is tried and measured; of how many trials where a method's first
        ones depend on that.

        Raises:
            UserError: as :meth:`checked`.
        """
        cells = self.checked().cells
        chooses: Any = self.method
        method = asdict(chooses)
        if self.method.grows:
            method.pop("trials", None)  # a grid has none
        return digest(
            canonical(
                {
                    "cells": sorted([c.arm, c.base, c.seed, c.stage.id] for c in cells),
                    "space": asdict(self.space),
                    "method": [type(self.method).__name__, method],
                    "objectives": [asdict(one) for one in self.objectives],
                    # Bounds may change: what was measured says who is within them.
                    "measures": {o.name: asdict(o.measure) for o in self.objectives}
                    | {c.name: asdict(c.measure) for c in self.constraints},
                    "halving": asdict(self.halving) if self.halving else None,
                    "seed": self.seed,
                },
                "search",
            )
        )[:FINGERPRINT_DIGITS]

    def plan(self, journal: Journal, on_ask: Callable[[Trial], None] | None = None) -> Plan:
        """Its trials, as far as ``journal`` knows them; ``on_ask``: see `Plan`."""
        return Plan(
            self.method,
            self.space,
            self.objectives,
            self.constraints,
            self.seed,
            journal,
            self.halving,
            on_ask,
        )

    def preview(self, store_url: str) -> dict[str, Any]:
        """What the trials that are known beforehand would cost, and what they share."""
        from msm_ray.search.preview import preview

        return preview(self, store_url)

    def run(self, store_url: str, address: str | None = None) -> RunResult:
        """Run the trials that are left, confirm the best, and write the report."""
        from msm_ray.search.run import SearchRun

        return SearchRun(self, store_url).all(address)
