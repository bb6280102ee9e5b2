"""Several comparisons as one: a dose curve, an ablation, a factorial, the same for every value.

Each member is an `Experiment` of its own. What two of them have in common (base models, controls,
corpora, trainings) is made once, as it is within one experiment, and the report has them side by
side: arms are called ``ARM@MEMBER``, effects ``EFFECT@MEMBER``; an arm that is the same checkpoints
in several members, as controls are, is listed once, under its own name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msm_ray.assemble import (
    closer,
    comparison,
    corpus_facts,
    effect_arms,
    fingerprint,
    specs_facts,
)
from msm_ray.cells import Cell, ItemValues
from msm_ray.errors import UserError
from msm_ray.experiment import Experiment
from msm_ray.graph import Graph, build
from msm_ray.identity import digest
from msm_ray.mixes import ArmTraining
from msm_ray.observe import cost_summary
from msm_ray.provenance import artifacts
from msm_ray.stage import Stage, topological

if TYPE_CHECKING:
    from msm_ray.artifact import Record, Store
    from msm_ray.settings import RunResult


@dataclass(frozen=True)
class Curve:
    """Effects over a quantity that the members differ in; ``x`` has its value for each of them."""

    title: str
    x_title: str
    x: dict[str, float]
    effects: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """Comparisons that belong together, by name; ``curve`` is drawn through their effects."""

    name: str
    title: str
    members: dict[str, Experiment]
    curve: Curve | None = None

    def __post_init__(self) -> None:
        if not self.members:
            raise UserError("members is empty; a suite needs at least one experiment")
        if odd := [m for m in self.members if not m or "@" in m]:
            raise UserError(f"members: {odd[0]!r} is no name of a member; one without '@' is")
        if self.curve and set(self.curve.x) != set(self.members):
            raise UserError(
                f"curve.x has values for {', '.join(self.curve.x)}; it needs one for each member:"
                f" {', '.join(self.members)}"
            )
        for effect in self.curve.effects if self.curve else ():
            for name, member in self.members.items():
                if effect not in (known := effect_arms(member)):
                    raise UserError(
                        f"curve.effects: {effect!r} is no effect of members.{name}; allowed:"
                        f" {', '.join(known)}"
                    )

    def graphs(self) -> dict[str, Graph]:
        """Each member's stages. UserError says which member cannot be built."""
        made = {}
        for name, member in self.members.items():
            try:
                made[name] = build(member)
            except UserError as error:
                raise UserError(f"members.{name}: {error}") from None
        return made

    def preview(self, store_url: str) -> dict[str, Any]:
        """What a run would cost, and what the members share."""
        from msm_ray.preview import preview_graphs

        first = next(iter(self.members.values()))
        graphs = self.graphs()
        return preview_graphs(self.name, list(graphs.values()), first, store_url, list(graphs))

    def run(self, store_url: str, address: str | None = None) -> RunResult:
        """Run what is missing of every member and write one report."""
        from msm_ray.run import run_job

        graphs = self.graphs()
        stages = topological([s for graph in graphs.values() for s in graph.stages])

        def report(store: Store, *of_run: Any) -> dict[str, Any]:
            return self.report(graphs, store, *of_run)

        return run_job(self.name, stages, store_url, address, report)

    def report(
        self,
        graphs: Mapping[str, Graph],
        store: Store,
        records: Mapping[str, Record],
        made: set[str],
        run: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The members' reports as one; arguments as for :func:`msm_ray.assemble.assemble`."""
        items = ItemValues(store)  # members share their controls' items
        parts = {
            name: comparison(self.members[name], graph).found(records, items)
            for name, graph in graphs.items()
        }
        names = _arm_names(graphs)
        arms: dict[str, Any] = {}
        effects: dict[str, Any] = {}
        settings = {m: dataclasses.asdict(exp) for m, exp in self.members.items()}
        members = {}
        declared: dict[tuple[str, str, int, str], bool] = {}  # an evaluation, and if it is there
        for member, part in parts.items():
            for arm, facts in part["arms"].items():
                arms.setdefault(names[member, arm], facts)
            own = {f"{effect}@{member}": facts for effect, facts in part["effects"].items()}
            effects |= own
            for cell in graphs[member].cells:
                for name in cell.evals:
                    key = (names[member, cell.arm], cell.base, cell.seed, name)
                    declared[key] = cell.has(records, name)
            members[member] = {
                "title": self.members[member].title,
                "arms": [names[member, arm] for arm in part["arms"]],
                "effects": list(own),
                "settings": _differing(settings, member),
            }
        stages = topological([s for graph in graphs.values() for s in graph.stages])
        used = [s for s in stages if s.id in records]
        lacking = [key for key, there in declared.items() if not there]
        writer = next(iter(self.members.values())).corpus.writer
        whole = {
            "name": self.name,
            "title": self.title,
            "fingerprint": digest([fingerprint(graph) for graph in graphs.values()])[:16],
            "wall_seconds": round(run["wall_seconds"], 2),
            "complete": not lacking,
            "problems": list(dict.fromkeys(p for part in parts.values() for p in part["problems"])),
            "cells": {
                "expected": len(declared),
                "present": len(declared) - len(lacking),
                "missing": [
                    dict(zip(("arm", "base", "seed", "eval"), key, strict=True)) for key in lacking
                ],
            },
            "members": members,
            "curves": self._curves(parts),
            "arms": arms,
            "effects": effects,
            "corpus": corpus_facts(writer, _corpora(graphs), store, records),
            "cost": cost_summary([(records[s.id], s.id not in made) for s in used]),
            "provenance": {
                **{name: run[name] for name in ("versions", "machine", "started", "finished")},
                "settings": {"members": settings},
                "specs": specs_facts(used, records),
                "artifacts": artifacts(used, made),
            },
        }
        return closer(whole, *_called(graphs, names), store, records)

    def _curves(self, parts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        curve = self.curve
        if curve is None:
            return []
        series = []
        for effect in curve.effects:
            points = []
            for member, x in sorted(curve.x.items(), key=lambda pair: pair[1]):
                found = parts[member]["effects"].get(effect)
                if found is not None:
                    point = {"x": x, "value": found["value"], "ci95": found["ci95"]}
                    points.append({**point, "label": member})
            series.append({"name": effect, "points": points})
        titles = {"title": curve.title, "x_title": curve.x_title, "y_title": "effect"}
        return [{**titles, "series": series}]


def _arm_names(graphs: Mapping[str, Graph]) -> dict[tuple[str, str], str]:
    """(member, arm) -> its name in the report; an arm of the same cells has one name."""
    of_cells: dict[tuple[tuple[str, int, str], ...], str] = {}
    cells: dict[tuple[str, str], tuple[tuple[str, int, str], ...]] = {}
    for member, graph in graphs.items():
        for arm in dict.fromkeys(c.arm for c in graph.cells):
            own: list[Cell] = [c for c in graph.cells if c.arm == arm]
            cells[member, arm] = tuple((c.base, c.seed, c.stage.id) for c in own)
    count = {key: list(cells.values()).count(key) for key in set(cells.values())}
    names = {}
    for (member, arm), key in cells.items():
        # Shared by all members under one arm's name: a control, which belongs to none of them.
        everywhere = count[key] == len(graphs) and len(graphs) > 1
        names[member, arm] = of_cells.setdefault(key, arm if everywhere else f"{arm}@{member}")
    return names


def _called(
    graphs: Mapping[str, Graph], names: Mapping[tuple[str, str], str]
) -> tuple[list[Cell], list[ArmTraining]]:
    """All cells and trainings, with their arms as the report calls them."""
    cells: list[Cell] = []
    trainings: list[ArmTraining] = []
    for member, graph in graphs.items():
        cells += [dataclasses.replace(c, arm=names[member, c.arm]) for c in graph.cells]
        trainings += [(names[member, t[0]], *t[1:]) for t in graph.trainings]
    return cells, trainings


def _corpora(graphs: Mapping[str, Graph]) -> dict[tuple[str, str], Stage]:
    """(value, base) -> corpus; called VALUE@MEMBER where members have different ones."""
    found: dict[tuple[str, str], dict[str, Stage]] = {}
    members: dict[str, str] = {}
    for member, graph in graphs.items():
        for key, stage in graph.corpora.items():
            found.setdefault(key, {})[stage.id] = stage
            members.setdefault(stage.id, member)
    return {
        (value if len(of) == 1 else f"{value}@{members[i]}", base): stage
        for (value, base), of in found.items()
        for i, stage in of.items()
    }


def _differing(settings: Mapping[str, Any], member: str) -> dict[str, Any]:
    """What ``member`` sets otherwise than some other member, by its dotted name."""
    flat = {name: _flat(of) for name, of in settings.items()}
    mine = flat[member]
    return {
        key: value
        for key, value in mine.items()
        if any(other.get(key) != value for other in flat.values())
    }


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, (list, tuple)) and any(isinstance(v, Mapping) for v in value):
        pairs = {str(i): v for i, v in enumerate(value)}.items()
    else:
        return {prefix: list(value) if isinstance(value, tuple) else value}
    found: dict[str, Any] = {}
    for key, item in pairs:
        found |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return found
