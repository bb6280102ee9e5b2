"""What the cells of a comparison found: rates by arm, with intervals.

A cell is one checkpoint's evaluations: an arm on a base model with a seed. Nothing here knows how a
checkpoint came about, so every kind of comparison is reported in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from msm_ray.artifact import Record, Store
from msm_ray.evaluate.crossed import Cells
from msm_ray.evaluate.statistics import Interval, by_item, rate_ci
from msm_ray.stage import Stage

Training = tuple[str, int, str, Stage]  # base name, seed, "midtrain" | "aft", stage


# Of an evaluation's facts: what a report has in its own way.
KNOWN = ("rate", "n", "unparsed", "unparsed_share", "tokens")


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


class ItemValues:
    """The value of every item of evaluations, from their ``rows.parquet``, each read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tables: dict[str, dict[str, list[dict[str, Any]]]] = {}

    def of(self, stage: Stage, name: str) -> list[dict[str, Any]]:
        """The rows of one evaluation; none where it gives one number and no value per item."""
        if stage.id not in self._tables:
            path = self._store.fetch(stage.id) / "rows.parquet"
            columns = ["id", "eval", "domain", "pair", "value", "weight"]
            rows = pq.read_table(path, columns=columns).to_pylist() if path.is_file() else []
            by_eval: dict[str, list[dict[str, Any]]] = {}
            for row in rows:
                by_eval.setdefault(row["eval"], []).append(row)
            self._tables[stage.id] = by_eval
        return self._tables[stage.id].get(name, [])


@dataclass(frozen=True)
class Measured:
    """An arm's results under one evaluation, by base name and seed.

    ``rates``: what each run's checkpoint says. ``items``: the values by item that these are means
    of, where they are, and what each item ``weighs``. ``is_rate``: a share, and no loss or grade.
    """

    rates: dict[str, dict[int, float]]
    items: dict[str, dict[int, dict[str, float]]] | None
    weighs: dict[str, float]
    is_rate: bool

    @property
    def runs(self) -> Cells:
        """The values per item, or the rates where there are none."""
        return self.rates if self.items is None else self.items


def options_of(*sides: Measured) -> dict[str, Any]:
    """For the statistics of one arm, or of two: what both have weighs what it does in the first."""
    weights: dict[str, float] = {}
    for side in reversed(sides):
        weights |= side.weighs if side.items is not None else {}
    equal = all(math.isclose(weight, 1, rel_tol=1e-9) for weight in weights.values())
    is_rate = all(side.is_rate for side in sides)
    return {"scale": "auto" if is_rate else "real", "weights": None if equal else weights}


def measured(
    cells: Sequence[Cell],
    records: Mapping[str, Record],
    items: ItemValues,
    arm: str,
    name: str,
    domain: str | None = None,
) -> Measured:
    """What an arm's cells that are there found.

    Values per item where an evaluation's rate is their mean; an evaluation without them, or whose
    rate is something else (a calibration error), gives one number. Base models have items of their
    own: an item's key names its base. Both orders of a question are one item. A row without a value
    (a verdict that was refused) is counted elsewhere.
    """
    rates: dict[str, dict[int, float]] = {}
    values: dict[str, dict[int, dict[str, float]]] = {}
    weights: dict[str, list[float]] = {}
    is_rate, means = True, True
    for cell in cells:
        if cell.arm != arm or not cell.has(records, name):
            continue
        result = records[cell.stage.id].facts["evals"][name]
        # Tokens weigh a loss, which is no rate however small it is.
        is_rate = is_rate and not {"unit", "tokens"} & result.keys()
        rows = items.of(cell.stage, name)
        if domain is not None:
            if domain not in result["by_domain"]:
                continue
            result = result["by_domain"][domain]
            rows = [row for row in rows if row["domain"] == domain]
        rows = [row for row in rows if row["value"] is not None and math.isfinite(row["value"])]
        total = math.fsum(row["weight"] for row in rows)
        mean = math.fsum(row["value"] * row["weight"] for row in rows) / total if total else None
        means = means and mean is not None and math.isclose(mean, result["rate"], abs_tol=1e-9)
        found, weighs = by_item(
            [f"{cell.base}/{row['pair'] or row['id']}" for row in rows],
            [row["value"] for row in rows],
            [row["weight"] for row in rows],
        )
        for key, weight in weighs.items():
            weights.setdefault(key, []).append(weight)
        rates.setdefault(cell.base, {})[cell.seed] = result["rate"]
        values.setdefault(cell.base, {})[cell.seed] = found
    # Seeds may have made another number of rows of an item: it weighs its mean in all of them.
    weighs = {key: sum(own) / len(own) for key, own in weights.items()}
    return Measured(rates, values if means else None, weighs, is_rate)


def interval_facts(interval: Interval) -> dict[str, Any]:
    """An interval as a report has it: ends, what it generalises to, and how it was made."""
    return {
        "ci95": [interval.low, interval.high],
        "interval": interval.method,
        "over": list(interval.over),
    }


def over_bases(
    statistic: Callable[..., Interval], *runs: Mapping[str, Any], **options: Any
) -> dict[str, Any]:
    """The interval for other base models too, where there are two of them to know it from."""
    if len(runs[0]) < 2:
        return {}
    wide = statistic(*runs, over=("items", "seeds", "bases"), **options)
    return {"ci95_new_bases": [wide.low, wide.high]}


def arm_facts(
    cells: Sequence[Cell],
    records: Mapping[str, Record],
    items: ItemValues,
    arm: str,
    trainings: Iterable[Training],
) -> dict[str, Any]:
    """An arm's part of the report: its seeds, evaluations with intervals, and trainings."""
    own = [c for c in cells if c.arm == arm]
    evals = {}
    for name in dict.fromkeys(e for c in own for e in c.evals):
        present = [c for c in own if c.has(records, name)]
        if present:
            evals[name] = _eval(present, records, items, arm, name)
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
    present: Sequence[Cell],
    records: Mapping[str, Record],
    items: ItemValues,
    arm: str,
    name: str,
) -> dict[str, Any]:
    results = [records[c.stage.id].facts["evals"][name] for c in present]
    # Seeds may share a checkpoint (a base model has no seed): it counts once, and says nothing of
    # other seeds.
    distinct = list({c.stage.id: c for c in reversed(present)}.values())
    once = [records[c.stage.id].facts["evals"][name] for c in distinct]
    found = measured(distinct, records, items, arm, name)
    options = options_of(found)
    interval = rate_ci(found.runs, **options)
    domains = list(dict.fromkeys(d for r in results for d in r["by_domain"]))
    # What an evaluation measures besides (a calibration error): the mean over its runs.
    besides = {
        k: sum(r[k] for r in once) / len(once)
        for k, v in once[0].items()
        if isinstance(v, float) and k not in KNOWN and all(k in r for r in once)
    }
    # What it counts (refused verdicts, broken calls of tools): all its runs'.
    counted = dict.fromkeys(
        k for r in once for k, v in r.items() if type(v) is int and k not in KNOWN
    )
    return {
        "rate": interval.value,
        **interval_facts(interval),
        **over_bases(rate_ci, found.runs, **options),
        "n": sum(r["n"] for r in once),
        "unparsed": sum(r.get("unparsed", 0) for r in once),
        **{k: sum(r.get(k, 0) for r in once) for k in counted},
        **_choices(once),
        **besides,
        "per_seed": [
            {"base": c.base, "seed": c.seed, "rate": r["rate"], "n": r["n"]}
            for c, r in zip(present, results, strict=True)
        ],
        "by_domain": {d: _domain(distinct, records, items, arm, name, d, once) for d in domains},
    }


def _choices(once: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What evaluations of choices say besides: their bias of position, what was undecided."""
    found: dict[str, Any] = {}
    for key in ("decided", "first_listed"):
        own = [r[key] for r in once if r.get(key, {}).get("n")]
        if own:
            found[key] = _pooled(own)
    orders = sorted({order for r in once for order in r.get("by_order", ())})
    if len(orders) > 1:
        every = [r["by_order"] for r in once if "by_order" in r]
        found["by_order"] = {o: _pooled([own[o] for own in every if o in own]) for o in orders}
    undecided: dict[str, int] = {}
    for result in once:
        for why, n in result.get("undecided", {}).items():
            undecided[why] = undecided.get(why, 0) + n
    units = {"unit": once[0]["unit"]} if "unit" in once[0] else {}
    return {**found, **({"undecided": undecided} if undecided else {}), **units}


def _pooled(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rates of several runs as one: every row counts the same."""
    n = sum(part["n"] for part in parts)
    return {"rate": sum(part["rate"] * part["n"] for part in parts) / n, "n": n}


def _domain(
    cells: Sequence[Cell],
    records: Mapping[str, Record],
    items: ItemValues,
    arm: str,
    name: str,
    domain: str,
    results: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    found = measured(cells, records, items, arm, name, domain)
    interval = rate_ci(found.runs, **options_of(found))
    return {
        "rate": interval.value,
        **interval_facts(interval),
        "n": sum(r["by_domain"][domain]["n"] for r in results if domain in r["by_domain"]),
        **_stopped(results, domain),
    }


def _stopped(results: Sequence[Mapping[str, Any]], domain: str) -> dict[str, Any]:
    """Why sampling of a domain ended, where it goes on until enough is known; by checkpoint."""
    own = [r["by_domain"].get(domain, {}).get("stopped") for r in results]
    why = sorted({reason for reason in own if reason})
    return {"stopped": ", ".join(why)} if why else {}


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
