"""What a job compares, in one form for all kinds of comparisons: what a search makes trials of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from msm_ray.artifact import Record, Store
from msm_ray.cells import Cell, ItemValues, Training, arm_facts, expected, missing, problems
from msm_ray.effects import effects
from msm_ray.mixes import ArmTraining
from msm_ray.stage import Stage

if TYPE_CHECKING:
    from msm_ray.settings import RunResult

TRAININGS = ("trunk", "midtrain", "aft")


@dataclass(frozen=True)
class Comparison:
    """The stages of a job, inputs first, its cells and trainings, and the effects between arms.

    ``compared``: effect -> (evaluation, arm, arm that is subtracted).
    """

    stages: Sequence[Stage]
    cells: Sequence[Cell]
    trainings: Sequence[ArmTraining]
    compared: Mapping[str, tuple[str, str, str]]

    @property
    def arms(self) -> tuple[str, ...]:
        """Its arms, controls first: no training, AFT only, MSM only, MSM then AFT."""
        named = dict.fromkeys(cell.arm for cell in self.cells)
        return tuple(sorted(named, key=lambda arm: (arm != "base", arm != "aft", "+" in arm)))

    @property
    def evals(self) -> tuple[str, ...]:
        """Every evaluation that some arm is given."""
        return tuple(dict.fromkeys(name for cell in self.cells for name in cell.evals))

    def found(self, records: Mapping[str, Record], items: ItemValues) -> dict[str, Any]:
        """The report's parts about its cells: which are there, arms and effects with intervals."""
        lacking, wanted = missing(self.cells, records), expected(self.cells)
        trained: dict[str, list[Training]] = {arm: [] for arm in self.arms}
        for arm, base, seed, kind, stage in self.trainings:
            trained.setdefault(arm, []).append((base, seed, kind, stage))
        return {
            "complete": not lacking,
            "problems": list(dict.fromkeys(problems(self.cells, records))),
            "cells": {"expected": wanted, "present": wanted - len(lacking), "missing": lacking},
            "arms": {
                arm: arm_facts(self.cells, records, items, arm, own) for arm, own in trained.items()
            },
            "effects": effects(self.cells, records, items, self.compared),
        }

    def part(
        self,
        store: Store,
        records: Mapping[str, Record],
        wanted_effects: Iterable[str],
        wanted_arms: Iterable[str],
    ) -> dict[str, Any]:
        """Of the job's report, those effects and arms alone; what is missing and went wrong."""
        items = ItemValues(store)
        chosen = {name: self.compared[name] for name in wanted_effects}
        return {
            "effects": effects(self.cells, records, items, chosen),
            "arms": {
                arm: arm_facts(self.cells, records, items, arm, ())
                for arm in dict.fromkeys(wanted_arms)
            },
            "missing": missing(self.cells, records),
            "problems": problems(self.cells, records),
        }


class Compares(Protocol):
    """A job that a search can try settings of: a frozen dataclass with these."""

    @property
    def name(self) -> str:
        """What its run is called."""
        ...

    def comparison(self) -> Comparison:
        """Its stages, cells, trainings and effects."""
        ...

    def report(
        self, store: Store, records: dict[str, Record], made: set[str], facts: dict[str, Any]
    ) -> dict[str, Any]:
        """Its whole report; see :func:`msm_ray.assemble.assemble` for what is given."""
        ...

    def preview(self, store_url: str) -> dict[str, Any]:
        """What a run would cost."""
        ...

    def run(self, store_url: str, address: str | None = None) -> RunResult:
        """Run it by itself."""
        ...
