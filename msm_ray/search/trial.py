"""One trial: the missing stages of its path are made, its rungs measured one after the other.

A trial holds no CPU: what the store lacks is launched as Ray tasks. Two trials that need the same
stage at the same time meet at its claim in the store: one makes it, the other waits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from msm_ray.artifact import Record, Store
from msm_ray.comparison import TRAININGS, Compares, Comparison
from msm_ray.errors import UserError
from msm_ray.graph import BLOCK_TOKENS
from msm_ray.observe import Observer
from msm_ray.search.objectives import Effect, Measure, Rate
from msm_ray.search.space import with_settings
from msm_ray.search.trials import mean_shares
from msm_ray.stage import Launcher, Stage, run_dag, scan

RUNG_SETTINGS = ("midtrain.tokens", "midtrain.budgets")
Launch = Callable[[], Launcher]  # called where a stage has to run outside of this process


class Incomplete(RuntimeError):
    """A trial whose stages are all there, and which still has not found a number to go by."""


@dataclass(frozen=True)
class Measurement:
    """What a trial found at one rung.

    ``values``: by measure, ``{value, ci95}``; ``steps`` and ``tokens`` of its longest midtraining;
    ``path``: (id, kind, tokens that the stage trained) of each stage; ``made``: ids that this
    trial made; ``realised``: what its mixture came to.
    """

    values: dict[str, dict[str, Any]]
    steps: int
    tokens: int
    path: list[list[Any]]
    made: list[str]
    realised: dict[str, float]
    seconds: float


def rungs_of(
    job: Compares, settings: Mapping[str, Any], steps: Sequence[int]
) -> list[dict[str, Any]]:
    """The settings of each rung: midtrainings of so many optimizer steps, from one trunk."""
    if not steps:
        return [dict(settings)]
    if twice := [name for name in RUNG_SETTINGS if name in settings]:
        raise UserError(
            f"{job.name}: {twice[0]} is {settings[twice[0]]}, and the rungs of halving say it as"
            " well; allowed: one of the two"
        )
    midtrain: Any = getattr(with_settings(job, settings), "midtrain", None)
    if midtrain is None:
        raise UserError(f"{job.name}: rungs are steps of a midtraining, and it has none")
    tokens = midtrain.train.batch_blocks * getattr(midtrain, "block_tokens", BLOCK_TOKENS)
    budgets = tuple(rung * tokens for rung in steps)
    return [
        {**settings, "midtrain.budgets": budgets, "midtrain.tokens": budget} for budget in budgets
    ]


def measure_rungs(
    job: Compares,
    settings: Mapping[str, Any],
    steps: Sequence[int],
    measures: Sequence[Measure],
    store: Store,
    launch: Launch,
    cpus: int,
    spent: Spent | None = None,
) -> Iterator[Measurement]:
    """Make and measure one rung after the other; whoever does not ask for the next stops there.

    What a measurement says of stages is of all rungs so far, and so is what ``spent`` has.

    Raises:
        StageFailed, UserError: a stage failed, or the settings give no job.
        Incomplete: an evaluation of the trial is not there, or found no finite number.
    """
    done = spent if spent is not None else Spent()
    for rung in rungs_of(job, settings, steps):
        found = measure(with_settings(job, rung), measures, store, launch, cpus, done)
        yield replace(found, path=list(done.path.values()), made=list(done.made))


@dataclass
class Spent:
    """What a trial has of its stages so far, also when it fails: see `Measurement`."""

    path: dict[str, list[Any]] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)

    def add(self, stages: Sequence[Stage], records: Mapping[str, Record], made: set[str]) -> None:
        """Note the stages that are there, and which of them this trial made."""
        there = [s for s in stages if s.id in records]
        self.path |= {s.id: [s.id, s.kind, _trained(records[s.id])] for s in there}
        self.made += [s.id for s in there if s.id in made]


def measure(
    job: Compares,
    measures: Sequence[Measure],
    store: Store,
    launch: Launch,
    cpus: int,
    spent: Spent | None = None,
) -> Measurement:
    """Make what is missing of ``job`` and take its measures; ``spent`` is told what that took."""
    started = time.monotonic()
    comparison = job.comparison()
    observer = Observer(sinks=[])
    found = scan(comparison.stages, store)
    away = [s for s in found.missing(comparison.stages) if s.runtime.get("where") != "driver"]
    launcher = launch() if away else None
    spent = spent if spent is not None else Spent()
    try:
        records = run_dag(comparison.stages, store, launcher, observer, cpus=cpus, found=found)
    except Exception:
        there = {s.id: r for s in comparison.stages if (r := store.get(s.id)) is not None}
        spent.add(comparison.stages, there, observer.state.made_ids)
        raise
    spent.add(comparison.stages, records, observer.state.made_ids)
    made = [s.id for s in comparison.stages if s.id in observer.state.made_ids]
    seconds = time.monotonic() - started
    return taken(comparison, records, measures, store, made=made, seconds=seconds)


def taken(
    comparison: Comparison,
    records: Mapping[str, Record],
    measures: Sequence[Measure],
    store: Store,
    made: Sequence[str] = (),
    seconds: float = 0.0,
) -> Measurement:
    """The measures of a comparison all of whose stages are there."""
    part = comparison.part(
        store,
        records,
        [one.effect for one in measures if isinstance(one, Effect)],
        [a for one in measures if isinstance(one, Rate) for a in one.arms_of(comparison.arms)],
    )
    if part["missing"]:
        lacking = part["missing"][0]
        why = part["problems"][0] if part["problems"] else "it is not in its evaluation's result"
        raise Incomplete(
            f"{len(part['missing'])} evaluations are missing, first {lacking['eval']} of"
            f" {lacking['arm']}, seed {lacking['seed']}: {why}"
        )
    path = [[s.id, s.kind, _trained(records[s.id])] for s in comparison.stages]
    part["cost"] = {
        "tokens": sum(tokens for _, _, tokens in path),
        "device_seconds": sum(records[s.id].seconds for s in comparison.stages),
    }
    values = {one.name: one.of(part) for one in measures}
    for name, value in values.items():
        if not math.isfinite(value["value"]):
            raise Incomplete(f"{name} is {value['value']}, which is no result")
    midtrained = [s for *_, kind, s in comparison.trainings if kind == "midtrain"]
    facts = [records[s.id].facts for s in midtrained]
    mixes = [
        realised(records[s.id].facts, records[s.inputs["blocks"].id].facts)
        for s in midtrained
        if "blocks" in s.inputs
    ]
    shares = [mix for mix in mixes if mix]
    return Measurement(
        values=values,
        steps=max((int(f["steps"]) for f in facts), default=0),
        tokens=max((int(f["tokens"]) for f in facts), default=0),
        path=path,
        made=list(made),
        realised=mean_shares(shares) if shares else {},
        seconds=round(seconds, 3),
    )


def realised(training: Mapping[str, Any], blocks: Mapping[str, Any]) -> Mapping[str, float]:
    """What a mixture came to, by the facts of its blocks and of a training.

    A branch has read the beginning of its blocks only, and says what was in that.
    """
    read: Mapping[str, int] = training.get("read", {})
    if total := sum(read.values()):
        return {name: tokens / total for name, tokens in read.items()}
    shares: Mapping[str, float] = blocks.get("shares", {})
    return shares


def _trained(record: Record) -> int:
    """Tokens that the stage itself trained."""
    if record.kind not in TRAININGS:
        return 0
    return int(record.facts.get("tokens_new", record.facts["tokens"]))
