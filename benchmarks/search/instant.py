"""A comparison whose stages take no time: what is left of a search is what it costs itself.

Four stages a trial, of which two are shared between trials: a source, a midtraining, a
fine-tuning and an evaluation that read nothing and write a line.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.artifact import Record, Store
from msm_ray.cells import Cell
from msm_ray.comparison import Comparison
from msm_ray.stage import Stage, StageContext, topological


@dataclass(frozen=True)
class Instant:
    """``share`` is the midtraining's, ``rate`` the fine-tuning's; above ``fails`` that fails.

    ``pause``: seconds that each stage waits, where somebody wants to see it running.
    """

    name: str = "instant"
    title: str = "A comparison that takes no time"
    share: float = 0.5
    rate: float = 0.5
    fails: float = 1.0
    pause: float = 0.0
    seeds: tuple[int, ...] = (0,)

    def comparison(self) -> Comparison:
        """One arm beside its control."""
        cells, trainings = [], []
        for seed in self.seeds:
            start = self._stage("source", {"seed": seed}, {}, "touch")
            mid = self._stage("midtrain", {"share": self.share}, {"model": start}, "train")
            both = self._stage("aft", {"rate": self.rate}, {"model": mid}, "train")
            for arm, model in (("aft", start), ("msm:x+aft", both)):
                asked = self._stage("evaluate", {}, {"model": model}, "evaluate")
                cells.append(Cell(arm, "base", seed, asked, ("choice",)))
            trainings.append(("msm:x+aft", "base", seed, "midtrain", mid))
        stages = topological([cell.stage for cell in cells])
        return Comparison(stages, cells, trainings, {"gain": ("choice", "msm:x+aft", "aft")})

    def report(
        self, store: Store, records: dict[str, Record], made: set[str], facts: dict[str, Any]
    ) -> dict[str, Any]:
        """As little as a report may have."""
        return {
            "wall_seconds": facts["wall_seconds"],
            "complete": True,
            "problems": [],
            "cells": {"expected": 1, "present": 1, "missing": []},
            "arms": {},
            "effects": {},
            "corpus": {},
            "cost": {},
            "provenance": {"versions": facts["versions"], "machine": facts["machine"]},
        }

    def _stage(
        self, kind: str, config: dict[str, Any], inputs: dict[str, Stage], run: str
    ) -> Stage:
        return Stage(
            kind=kind,
            version="1",
            config=config,
            inputs=inputs,
            run=f"{__name__}:{run}",
            runtime={"where": "driver", "cpus": 0, "pause": self.pause, "fails": self.fails},
            estimate={"seconds": 0.01, "tokens": 100 if kind in ("midtrain", "aft") else 0},
        )


def touch(ctx: StageContext) -> dict[str, Any]:
    """Write something."""
    (ctx.out / "file").write_text("x")
    return {}


def train(ctx: StageContext) -> dict[str, Any]:
    """Pass on what it was given."""
    time.sleep(ctx.runtime["pause"])
    if ctx.config.get("rate", 0.0) > ctx.runtime["fails"]:
        raise ValueError(f"a rate of {ctx.config['rate']} is too much")
    known = ctx.inputs["model"] / "file"
    (ctx.out / "file").write_text(f"{known.read_text()} {ctx.config}")
    facts = {"tokens": 100, "steps": 1, "tokens_per_second": 1.0, "curve": [], **ctx.config}
    return {**facts, "process": os.getpid()}


def evaluate(ctx: StageContext) -> dict[str, Any]:
    """A rate that follows from what the model was given."""
    rate = (hash_of((ctx.inputs["model"] / "file").read_text()) % 100) / 100
    rows = pa.table(
        {"id": ["i"], "eval": ["choice"], "domain": ["d"], "pair": ["i"], "value": [rate]}
        | {"weight": [1.0]}
    )
    pq.write_table(rows, ctx.out / "rows.parquet")
    return {"evals": {"choice": {"rate": rate, "n": 1, "by_domain": {}}}}


def hash_of(text: str) -> int:
    """The same number for the same text on every machine."""
    return sum(ord(c) * (i + 1) for i, c in enumerate(text))
