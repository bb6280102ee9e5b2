"""What a search found, as its report has it, and what it would cost, before it runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from msm_ray.errors import UserError
from msm_ray.identity import digest
from msm_ray.search.law import MixtureLaw, rank_correlation
from msm_ray.search.objectives import feasible, front, oriented
from msm_ray.search.source import job_source
from msm_ray.search.space import setting_words
from msm_ray.search.trials import DONE, FAILED, Trial

if TYPE_CHECKING:
    from msm_ray.search.job import Search


def ranked(search: Search, trials: Mapping[int, Trial]) -> list[Trial]:
    """Trials that may be chosen, the best first: by the first objective, ties to the earlier.

    Only those that ran to their end and meet the constraints; a value that is no number never
    wins. Proxies (a swarm's small runs) are not compared with whole ones.
    """
    first = search.objectives[0]

    def score(trial: Trial) -> float:
        return first.oriented(trial.values[first.name]["value"])

    chosen = [
        t
        for t in trials.values()
        if t.state == DONE
        and t.phase != "swarm"
        and math.isfinite(score(t))
        and feasible(t.values, search.constraints)
    ]
    return sorted(chosen, key=lambda t: (-score(t), t.number))


def search_part(
    search: Search,
    trials: Mapping[int, Trial],
    made: set[str],
    confirmed: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The report's part ``search``.

    Args:
        trials: by number, as they ended.
        made: ids of the stages that runs of this search made.
        confirmed: of trials that were run again: ``{number, seeds, claimed, values, missed}``,
            the last the constraints that ``values`` do not hold.
    """
    best = ranked(search, trials)
    chosen = _confirmed_best(search, best, confirmed)
    able = [
        t
        for t in trials.values()
        if t.state == DONE and t.phase != "swarm" and feasible(t.values, search.constraints)
    ]
    on_front = front([oriented(t.values, search.objectives) for t in able])
    chooses: Any = search.method
    method = {k: v for k, v in asdict(chooses).items() if isinstance(v, (int, float, str))}
    return {
        "method": search.method.name,
        "method_settings": method,
        "seed": search.seed,
        "job": search.job.name,
        "objectives": [{"name": o.name, "goal": o.goal} for o in search.objectives],
        "constraints": [
            {"name": c.name, "at_least": c.at_least, "at_most": c.at_most}
            for c in search.constraints
        ],
        "space": search.space.described(),
        "trials": [
            _row(search, trials.get(n), n) for n in range(search.method.count(search.space))
        ],
        "front": [able[i].number for i in on_front],
        "best": chosen,
        "sharing": _sharing(list(trials.values()), made),
        "confirmed": [dict(one) for one in confirmed],
        "law": _law(search, trials),
        "proxies": _proxies(search, list(trials.values())),
    }


def _law(search: Search, trials: Mapping[int, Trial]) -> dict[str, Any] | None:
    """What the swarm says, where there was one and enough of it was measured."""
    if not isinstance(search.method, MixtureLaw):
        return None
    seen = [trial.seen(search.objectives, search.constraints) for trial in trials.values()]
    try:
        return search.method.described(search.space, seen, search.seed, search.objectives[0].goal)
    except UserError:  # too few: the swarm's failed trials say why
        return None


def _proxies(search: Search, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Whether what is cheap orders trials as what is not: rungs, and a swarm's small runs."""
    first = search.objectives[0].name
    whole = [t for t in trials if t.rungs and len(t.rungs) == len(search.rungs)]
    pairs = {
        (f"{steps} steps", f"{search.rungs[-1]} steps"): [
            (t.rungs[i]["value"], t.rungs[-1]["value"]) for t in whole
        ]
        for i, steps in enumerate(search.rungs[:-1])
    }
    small = {digest(t.point): t for t in trials if t.phase == "swarm" and t.state == DONE}
    both = [
        (small[digest(t.point)], t)
        for t in trials
        if t.phase == "check" and t.state == DONE and digest(t.point) in small
    ]
    if both and isinstance(search.method, MixtureLaw):
        proxy = ", ".join(f"{k}={v}" for k, v in search.method.proxy.items()) or "the swarm"
        pairs[proxy, "whole runs"] = [
            (a.values[first]["value"], b.values[first]["value"]) for a, b in both
        ]
    found = []
    for (a, b), values in pairs.items():
        if values:
            left, right = zip(*values, strict=True)
            found.append({"small": a, "large": b, **rank_correlation(left, right, search.seed)})
    return found


def _confirmed_best(
    search: Search, best: Sequence[Trial], confirmed: Sequence[Mapping[str, Any]]
) -> int | None:
    """The number of the trial to recommend: of those run again, the best on fresh seeds."""
    if not best:
        return None
    first = search.objectives[0]
    again: dict[int, float] = {
        c["number"]: first.oriented(c["values"][first.name]["value"]) for c in confirmed
    }
    met: set[int] = {c["number"] for c in confirmed if not c["missed"]}
    if met:
        return max(sorted(met), key=lambda n: again[n])
    return best[0].number


def _row(search: Search, trial: Trial | None, number: int) -> dict[str, Any]:
    if trial is None:
        return {"number": number, "state": "missing", "settings": {}, "values": {}, "rungs": []}
    ended = trial.state != FAILED and bool(trial.values)
    new = set(trial.made)
    return {
        "number": number,
        "phase": trial.phase,
        "state": trial.state,
        "settings": trial.settings,
        "mix": search.space.mix(trial.settings),
        "realised": trial.realised,
        "values": trial.values,
        "feasible": feasible(trial.values, search.constraints) if ended else None,
        "rungs": trial.rungs,
        "seconds": trial.seconds,
        "tokens": trial.tokens,
        "tokens_new": sum(n for id, _, n in trial.path if id in new),
        "stages": len(trial.path),
        "stages_new": len(new),
        "error": trial.error,
    }


def _sharing(trials: Sequence[Trial], made: set[str]) -> dict[str, Any]:
    """Stages and tokens: the different ones, those this search made, those of trials apart."""
    different: dict[str, tuple[str, int]] = {}
    alone: Counter[str] = Counter()
    tokens_alone = 0
    for trial in trials:
        for id, kind, tokens in trial.path:
            different[id] = (kind, tokens)
            alone[kind] += 1
            tokens_alone += tokens
    kinds = dict.fromkeys(kind for kind, _ in different.values())
    return {
        "by_kind": {
            kind: {
                "needed": sum(k == kind for k, _ in different.values()),
                "made": sum(k == kind and i in made for i, (k, _) in different.items()),
                "alone": alone[kind],
            }
            for kind in kinds
        },
        "tokens": {
            "needed": sum(tokens for _, tokens in different.values()),
            "made": sum(tokens for i, (_, tokens) in different.items() if i in made),
            "alone": tokens_alone,
        },
    }


def recommended(search: Search, job: Any, part: Mapping[str, Any]) -> tuple[str, str]:
    """A job file of the best trial's comparison: its name, and its text.

    Args:
        part: the report's part ``search``, which says whether the trial was confirmed.
    """
    again = next((c for c in part["confirmed"] if c["number"] == part["best"]), None)
    how = ", not confirmed on fresh seeds" if again is None else ""
    if again and again["missed"]:
        how = f", which on fresh seeds missed {', '.join(again['missed'])}"
    title = f"{search.title.rstrip('?.!')}: the best trial of {search.name}{how}."
    return "recommended.py", job_source(replace(job, name=f"{search.name}_best"), title)


def search_lines(part: Mapping[str, Any]) -> list[str]:
    """A search's report for a terminal: how its trials ended, the best, what was confirmed."""
    states = Counter(trial["state"] for trial in part["trials"])
    lines = [f"trials       {', '.join(f'{n} {state}' for state, n in states.items())}"]
    if part["best"] is not None:
        best = part["trials"][part["best"]]
        lines.append(f"best         trial {best['number']}: {setting_words(best['settings'])}")
        lines.append(f"  the search measured {value_words(best['values'])}")
        for one in part["confirmed"]:
            lines.append(f"  {again_words(one)}")
        lines.append(f"  as a job: {part['recommended']['file']} beside the report")
    return lines


def again_words(one: Mapping[str, Any]) -> str:
    """What a trial measured on fresh seeds, on a line, and which constraints it misses there."""
    seeds = ", ".join(map(str, one["seeds"]))
    missed = f"; there it misses {', '.join(one['missed'])}" if one.get("missed") else ""
    return f"trial {one['number']} on seeds {seeds}: {value_words(one['values'])}{missed}"


def law_words(law: Mapping[str, Any] | None) -> str:
    """What to know of a mixture law before its best is believed; "" if nothing speaks against it.

    A law whose cross-validated R2 is not above 0 names mixtures no better than random ones:
    benchmarks/search/README.md has it on real runs.
    """
    if law is None:
        return ""
    r2 = law["cv"][law["surrogate"]]["r2"]
    if r2 is None or r2 > 0:
        return ""
    return (
        f"the law ({law['surrogate']}) predicts trials it has not seen no better than their mean"
        f" (R2 {r2:.2f}): take its mixtures as random ones"
    )


def value_words(values: Mapping[str, Mapping[str, Any]]) -> str:
    """What was measured, on a line."""
    return ", ".join(f"{name} {found['value']:.3f}" for name, found in values.items())
