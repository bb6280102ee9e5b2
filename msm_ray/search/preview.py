"""What a search would cost, before it runs: the stages of its known trials, each once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msm_ray.artifact import Store
from msm_ray.comparison import TRAININGS
from msm_ray.preview import (
    count_by_kind,
    disk_space,
    few_steps,
    gpu_time,
    parameters_of,
    rehearsed,
)
from msm_ray.search.plan import Plan
from msm_ray.search.results import ranked
from msm_ray.search.trials import RUNNING, Journal
from msm_ray.stage import Stage, scan

if TYPE_CHECKING:
    from msm_ray.search.job import Search

NUMBERS = ("documents", "calls", "tokens", "steps", "flops", "money")


def preview(search: Search, store_url: str) -> dict[str, Any]:
    """Counts by kind of stage, and what the trials share.

    Counted are the trials that do not hang on what others find, as if none of them was stopped at
    a rung, and the confirmation, as if the best so far, and then the first to come, were the best.
    A method that learns from its trials (``trials.unknown``) takes about as much again for each
    that is not counted, where it shares nothing.

    Returns:
        As :func:`msm_ray.preview.preview_graphs`; besides ``trials``: ``{count, ended, known,
        unknown, confirmed, tokens, tokens_alone}``: how many of each, and the tokens that ``known``
        and ``confirmed`` train with and without sharing.
    """
    store = Store(store_url, create=False)
    journal = Journal(store, search.name, search.fingerprint())
    plan = search.plan(journal)
    known = plan.known()
    again = _confirmed(search, plan, known)
    paths = [*search.paths(known), *again]
    stages = {stage.id: stage for path in paths for stage in path}
    there = set(scan(list(stages.values()), store).records)
    todo = [stage for stage in stages.values() if stage.id not in there]
    folders = [Path(base.path) for base in getattr(search.job, "bases", ())]
    largest = max(map(parameters_of, folders), default=0)
    rows, totals = count_by_kind(stages.values(), there, NUMBERS, largest)
    alone = [stage for path in paths for stage in path]
    seconds = sum(s.estimate.get("seconds", 0.0) for s in alone) - sum(
        s.estimate.get("seconds", 0.0) for s in stages.values()
    )
    ended = sum(trial.state != RUNNING for trial in plan.trials.values())
    return {
        "name": search.name,
        "stages": rows,
        "totals": totals,
        "gpus": _gpus(todo, paths, search.max_concurrent_trials),
        "disk": disk_space(todo),
        "warnings": [*few_steps(todo), *rehearsed(search.job, todo)],
        "sharing": {
            "stages_if_not_shared": len(alone),
            "stages": len(stages),
            "device_seconds_saved": round(seconds, 1),
        },
        "trials": {
            "count": plan.count,
            "ended": ended,
            "known": len(known),
            "unknown": plan.left - len(known),
            "confirmed": len(again),
            "tokens": _tokens(list(stages.values())),
            "tokens_alone": _tokens(alone),
        },
    }


def _confirmed(search: Search, plan: Plan, known: list[dict[str, Any]]) -> list[list[Stage]]:
    """The stages of each trial that is run again, on the fresh seeds."""
    if search.confirm is None:
        return []
    best = [*(trial.settings for trial in ranked(search, plan.trials)), *known]
    return [list(search.again(settings).stages) for settings in best[: search.confirm.top]]


def _gpus(todo: list[Stage], paths: list[list[Stage]], most: int) -> dict[str, Any]:
    """As `gpu_time`; of stages that one trial alone needs, those of ``most`` trials run at once."""
    found = gpu_time(todo)
    if found:
        needed = Counter(stage.id for path in paths for stage in path)
        shared = [stage for stage in todo if needed[stage.id] > 1]
        ids = {stage.id for stage in todo}
        single = [[s for s in path if s.id in ids and needed[s.id] == 1] for path in paths]
        own = max((gpu_time(path).get("at_once", 0) for path in single), default=0)
        at_once = min(found["at_once"], most * own)
        found["at_once"] = max(gpu_time(shared).get("at_once", 0), at_once)
    return found


def _tokens(stages: list[Stage]) -> int:
    return int(sum(s.estimate.get("tokens", 0) for s in stages if s.kind in TRAININGS))
