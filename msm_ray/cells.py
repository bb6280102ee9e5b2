"""What the cells of a comparison found: rates by arm, and effects between arms, with intervals.

A cell is one checkpoint's evaluations: an arm on a base model with a seed. Nothing here knows how a
checkpoint came about, so every kind of comparison is reported in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from msm_ray.artifact import Record
from msm_ray.evaluate.statistics import paired_effect, rate_ci
from msm_ray.stage import Stage

Values = dict[str, dict[int, float]]  # base name -> seed -> rate
Training = tuple[str, int, str, Stage]  # base name, seed, "midtrain" | "aft", stage

# Hundreds of small intervals (arm x eval x domain), which are read to two digits.
DOMAIN_RESAMPLES = 2_000


@dataclass(frozen=True)
class Cell:
    """A checkpoint's evaluations by one stage: an arm on a base with a seed, and their names."""

    arm: str
    base: str
    seed: int
    stage: Stage
    evals: tuple[str, ...]

    def has(self, records: Mapping[str, Record], name: str) -> bool:
        """Whether the evaluation ``name`` is there."""
        record = records.get(self.stage.id)
        return name in self.evals and record is not None and name in record.facts["evals"]


def missing(cells: Sequence[Cell], records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """Every evaluation of every cell that is not there."""
    return [
        {"arm": c.arm, "base": c.base, "seed": c.seed, "eval": e}
        for c in cells
        for e in c.evals
        if not c.has(records, e)
    ]


def expected(cells: Sequence[Cell]) -> int:
    """How many evaluations the cells declare."""
    return sum(len(c.evals) for c in cells)


def problems(cells: Sequence[Cell], records: Mapping[str, Record]) -> list[str]:
    """What evaluations say went wrong (``problems`` in a stage's facts), a line for each."""
    return [
        f"{c.arm}, {c.base}, seed {c.seed}: {problem}"
        for c in cells
        if c.stage.id in records
        for problem in records[c.stage.id].facts.get("problems", ())
    ]


def values(
    cells: Sequence[Cell],
    records: Mapping[str, Record],
    arm: str,
    name: str,
    domain: str | None = None,
) -> Values:
    """An arm's rates by base and seed, only of cells that are there."""
    found: Values = {}
    for cell in cells:
        if cell.arm != arm or not cell.has(records, name):
            continue
        result = records[cell.stage.id].facts["evals"][name]
        if domain is not None:
            result = result["by_domain"].get(domain)
            if result is None:
                continue
        found.setdefault(cell.base, {})[cell.seed] = result["rate"]
    return found


def arm_facts(
    cells: Sequence[Cell],
    records: Mapping[str, Record],
    arm: str,
    trainings: Iterable[Training],
) -> dict[str, Any]:
    """An arm's part of the report: its seeds, evaluations with intervals, and trainings."""
    own = [c for c in cells if c.arm == arm]
    evals = {}
    for name in dict.fromkeys(e for c in own for e in c.evals):
        present = [c for c in own if c.has(records, name)]
        if present:
            evals[name] = _eval(present, records, arm, name)
    runs = list(dict.fromkeys((c.base, c.seed) for c in own))
    return {
        "seeds": [{"base": base, "seed": seed} for base, seed in runs],
        # Those that were evaluated; a base model has no seed, so it is one for all of them.
        "checkpoints": len({_checkpoint(c.stage).id for c in own if c.stage.id in records}),
        "evals": evals,
        "train": training_facts(trainings, records),
    }


def _checkpoint(stage: Stage) -> Stage:
    """Whom an evaluation asked; a judge's verdicts are about the answers that it gave."""
    while "answers" in stage.inputs:
        stage = stage.inputs["answers"]
    return stage.inputs.get("model", stage)


def _eval(
    present: Sequence[Cell], records: Mapping[str, Record], arm: str, name: str
) -> dict[str, Any]:
    results = [records[c.stage.id].facts["evals"][name] for c in present]
    # Seeds may share a checkpoint (a base model has no seed): its items count once.
    once = [records[i].facts["evals"][name] for i in sorted({c.stage.id for c in present})]
    interval = rate_ci(values(present, records, arm, name))
    domains = list(dict.fromkeys(d for r in results for d in r["by_domain"]))
    counted = [k for k in ("refused", "failed") if any(k in r for r in once)]
    return {
        "rate": interval.value,
        "ci95": [interval.low, interval.high],
        "n": sum(r["n"] for r in once),
        "unparsed": sum(r.get("unparsed", 0) for r in once),
        **{k: sum(r.get(k, 0) for r in once) for k in counted},
        **_choices(once),
        "per_seed": [
            {"base": c.base, "seed": c.seed, "rate": r["rate"], "n": r["n"]}
            for c, r in zip(present, results, strict=True)
        ],
        "by_domain": {d: _domain(present, records, arm, name, d, once) for d in domains},
    }


def _choices(once: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What evaluations of choices say besides: their bias of position, what was undecided."""
    found: dict[str, Any] = {}
    for key in ("decided", "first_listed"):
        own = [r[key] for r in once if r.get(key, {}).get("n")]
        if own:
            n = sum(part["n"] for part in own)
            found[key] = {"rate": sum(part["rate"] * part["n"] for part in own) / n, "n": n}
    undecided: dict[str, int] = {}
    for result in once:
        for why, n in result.get("undecided", {}).items():
            undecided[why] = undecided.get(why, 0) + n
    units = {"unit": once[0]["unit"]} if "unit" in once[0] else {}
    return {**found, **({"undecided": undecided} if undecided else {}), **units}


def _domain(
    cells: Sequence[Cell],
    records: Mapping[str, Record],
    arm: str,
    name: str,
    domain: str,
    results: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    found = values(cells, records, arm, name, domain)
    interval = rate_ci(found, resamples=DOMAIN_RESAMPLES)
    return {
        "rate": interval.value,
        "ci95": [interval.low, interval.high],
        "n": sum(r["by_domain"][domain]["n"] for r in results if domain in r["by_domain"]),
    }


def training_facts(trainings: Iterable[Training], records: Mapping[str, Record]) -> dict[str, Any]:
    """What an arm was trained on, by stage: of its trainings (base, seed, name, stage)."""
    by_stage: dict[str, Any] = {}
    for base, seed, name, stage in trainings:
        record = records.get(stage.id)
        if record is None:
            continue
        entry = by_stage.setdefault(name, {"tokens": 0, "steps": 0, "seconds": 0.0, "curves": []})
        entry["tokens"] += record.facts["tokens"]
        entry["steps"] += record.facts["steps"]
        entry["seconds"] += record.facts["tokens"] / record.facts["tokens_per_second"]
        entry["curves"].append({"base": base, "seed": seed, "points": record.facts["curve"]})
    for entry in by_stage.values():
        runs = len(entry["curves"])
        # Per run: what one model was trained on. Tokens per second over all runs together.
        entry["tokens_per_second"] = round(entry["tokens"] / max(entry.pop("seconds"), 1e-9), 1)
        entry["tokens"] //= runs
        entry["steps"] //= runs
        entry["runs"] = runs
    return by_stage


# ---------------------------------------------------------------------------------------- effects


def effects(
    cells: Sequence[Cell],
    records: Mapping[str, Record],
    compared: Mapping[str, tuple[str, str, str]],
) -> dict[str, Any]:
    """The report's effects, over the seeds that both arms have.

    Args:
        compared: name -> (evaluation, arm, arm that is subtracted).
    """
    found: dict[str, Any] = {}
    for name, (metric, arm_a, arm_b) in compared.items():
        a = values(cells, records, arm_a, metric)
        b = values(cells, records, arm_b, metric)
        pairs = [(x, s) for x in a for s in a[x] if s in b.get(x, {})]
        if not pairs:
            continue
        a, b = _only(a, pairs), _only(b, pairs)
        interval = paired_effect(a, b)
        found[name] = {
            "value": interval.value,
            "ci95": [interval.low, interval.high],
            "label": f"{arm_a} - {arm_b}, {metric}",
            "per_seed": [{"base": x, "seed": s, "value": a[x][s] - b[x][s]} for x, s in pairs],
        }
    return found


def _only(found: Values, pairs: Sequence[tuple[str, int]]) -> Values:
    kept: Values = {}
    for base, seed in pairs:
        kept.setdefault(base, {})[seed] = found[base][seed]
    return kept


def compared_arms(
    names: Sequence[str], kinds: Sequence[tuple[str, str, str, str]]
) -> dict[str, tuple[str, str, str]]:
    """The effects of ``names`` (values): name -> (evaluation, arm, arm that is subtracted).

    With more than two values, each further pair has the same effects under ``NAME:A-B``.

    Args:
        kinds: (name, evaluation, arm, arm that is subtracted), with {a} and {b} for two values.
    """
    pairs = list(combinations(names, 2)) or [(name, "") for name in names]
    found: dict[str, tuple[str, str, str]] = {}
    for a, b in pairs:
        for name, metric, first, second in kinds:
            if not b and "{b}" in name + first + second:
                continue
            arms = first.format(a=a, b=b), second.format(a=a, b=b)
            full = name.format(a=a, b=b)
            if (a, b) != pairs[0] and full == name and "{" in first + second:
                full = f"{name}:{a}-{b}"
            found.setdefault(full, (metric, *arms))
    return found
