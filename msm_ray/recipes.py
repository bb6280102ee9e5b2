"""Several recipes as one job: the same comparison for one value after the other.

What they have in common (the pretrained model, instruction data) is made once. The report has them
side by side: arms are called ``ARM@MEMBER``, effects ``EFFECT@MEMBER``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msm_ray.artifact import Record, Store
from msm_ray.assemble import closer
from msm_ray.comparing import joined_corpora
from msm_ray.corpus.running import SpecJob
from msm_ray.errors import UserError
from msm_ray.identity import digest
from msm_ray.llm.model import AnyModel
from msm_ray.observe import cost_summary
from msm_ray.preview import few_steps_of, sharing
from msm_ray.provenance import artifacts
from msm_ray.recipe import Recipe
from msm_ray.stage import Stage, topological


@dataclass(frozen=True)
class Recipes(SpecJob):
    """Recipes that belong together, by name."""

    members: dict[str, Recipe]

    def __post_init__(self) -> None:
        if not self.members:
            raise UserError("members is empty; recipes need at least one")
        if odd := [m for m in self.members if not m or "@" in m]:
            raise UserError(f"members: {odd[0]!r} is no name of a member; one without '@' is")

    def stages(self) -> list[Stage]:
        """All stages of all members, inputs first, each once."""
        return topological([s for member in self.members.values() for s in member.stages()])

    def models(self) -> list[AnyModel]:
        """Whom the members ask."""
        return [model for member in self.members.values() for model in member.models()]

    def sharing(self, stages: Sequence[Stage]) -> dict[str, Any]:
        """What one script for each member, arm and seed would make in addition."""
        cells: list[Stage] = []
        for member in self.members.values():
            asked = [cell.stage for cell in member.evaluations()]
            cells += asked or [stage for _, _, stage in member.checkpoints()]
        return sharing(cells, stages)

    def warnings(self, missing: Sequence[Stage]) -> list[str]:
        """The members' warnings, with their names."""
        unread = [
            f"{name}: {line}"
            for name, member in self.members.items()
            if member.mix
            for line in member.mix.unread()
        ]
        of_members = {name: member.stages() for name, member in self.members.items()}
        return few_steps_of(of_members, missing) + unread

    def result(
        self, store: Store, stages: list[Stage], records: dict[str, Record]
    ) -> dict[str, Any]:
        """The members' corpora, side by side."""
        parts = [m.result(store, m.stages(), records) for m in self.members.values()]
        return joined_corpora(parts)

    def _report(
        self,
        store: Store,
        stages: list[Stage],
        records: dict[str, Record],
        made: set[str],
        facts: dict[str, Any],
    ) -> dict[str, Any]:
        parts = {
            name: member.measured(store, member.stages(), records, made, facts)
            for name, member in self.members.items()
        }
        first = next(iter(parts.values()))
        looked = [of.looked_into(name) for name, of in self.members.items() if of.evaluations()]
        whole = {
            **first,
            "name": self.name,
            "title": self.title,
            "fingerprint": digest([part["fingerprint"] for part in parts.values()])[:16],
            "complete": all(part["complete"] for part in parts.values()),
            "problems": [
                f"{name}: {problem}"
                for name, part in parts.items()
                for problem in part.get("problems", ())
            ],
            "cells": _cells(parts),
            "arms": _side_by_side(parts, "arms"),
            "effects": _side_by_side(parts, "effects"),
            "members": {
                name: {
                    "title": self.members[name].title,
                    "arms": [f"{arm}@{name}" for arm in part["arms"]],
                    "effects": [f"{effect}@{name}" for effect in part["effects"]],
                    "settings": {"corpora": list(self.members[name].corpora)},
                }
                for name, part in parts.items()
            },
            "corpus": joined_corpora([part["corpus"] for part in parts.values()]),
            "cost": cost_summary([(r, r.id not in made) for r in records.values()]),
            "provenance": {
                **first["provenance"],
                "settings": {"members": {n: p["provenance"]["settings"] for n, p in parts.items()}},
                "artifacts": artifacts((s for s in stages if s.id in records), made),
            },
        }
        cells = [cell for of, _ in looked for cell in of]
        trainings = [training for _, of in looked for training in of]
        return closer(whole, cells, trainings, store, records) if looked else whole


def _cells(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "expected": sum(part["cells"]["expected"] for part in parts.values()),
        "present": sum(part["cells"]["present"] for part in parts.values()),
        "missing": [
            {**cell, "arm": f"{cell['arm']}@{name}"}
            for name, part in parts.items()
            for cell in part["cells"]["missing"]
        ],
    }


def _side_by_side(parts: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, Any]:
    return {f"{k}@{name}": v for name, part in parts.items() for k, v in part[key].items()}
