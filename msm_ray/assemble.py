"""From committed artifacts to the report's dictionary: every number, its n and its interval."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from msm_ray.artifact import Record, Store
from msm_ray.evaluate.statistics import paired_effect, rate_ci
from msm_ray.experiment import Experiment
from msm_ray.graph import Cell, Graph
from msm_ray.observe import cost_summary
from msm_ray.stage import Stage

Values = dict[str, dict[int, float]]  # base name -> seed -> rate

# Hundreds of small intervals (arm x eval x domain), which are read to two digits.
DOMAIN_RESAMPLES = 2_000

# What is compared with what. Names are the report's; A and B stand for the first two values.
EFFECTS = (
    ("separation", "choice", "msm:{a}+aft", "msm:{b}+aft"),
    ("separation_soft", "choice_soft", "msm:{a}+aft", "msm:{b}+aft"),
    ("separation_text", "choice_text", "msm:{a}+aft", "msm:{b}+aft"),
    ("separation_msm_only", "choice", "msm:{a}", "msm:{b}"),
    ("separation_msm_only_soft", "choice_soft", "msm:{a}", "msm:{b}"),
    ("aft_minus_base", "choice", "aft", "base"),
    ("aft_minus_base_soft", "choice_soft", "aft", "base"),
    ("{a}_minus_aft", "choice", "msm:{a}+aft", "aft"),
    ("{b}_minus_aft", "choice", "msm:{b}+aft", "aft"),
    ("price_facts_{a}", "facts", "msm:{a}+aft", "aft"),
    ("price_facts_{b}", "facts", "msm:{b}+aft", "aft"),
    ("price_heldout_loss_{a}", "heldout_loss", "msm:{a}+aft", "aft"),
    ("price_heldout_loss_{b}", "heldout_loss", "msm:{b}+aft", "aft"),
)


def effect_arms(exp: Experiment) -> dict[str, tuple[str, str, str]]:
    """The effects of an experiment: name -> (evaluation, arm, arm that is subtracted).

    With more than two specs, each further pair has the same effects under ``NAME:A-B``.
    """
    names = [spec.name for spec in exp.specs]
    pairs = list(combinations(names, 2)) or [(name, "") for name in names]
    found: dict[str, tuple[str, str, str]] = {}
    for a, b in pairs:
        for name, metric, first, second in EFFECTS:
            if metric not in exp.evaluation.evals:
                continue
            if not b and "{b}" in name + first + second:
                continue
            arms = first.format(a=a, b=b), second.format(a=a, b=b)
            full = name.format(a=a, b=b)
            if (a, b) != pairs[0] and full == name and "{" in first + second:
                full = f"{name}:{a}-{b}"
            found.setdefault(full, (metric, *arms))
    return found


def assemble(
    exp: Experiment,
    graph: Graph,
    store: Store,
    records: Mapping[str, Record],
    fresh: set[str],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """The report of a run, complete or not.

    Args:
        records: committed records by artifact id; a cell whose record is not there is missing.
        fresh: ids that this run made (the others were found in the store).
        run: ``{"wall_seconds", "started", "finished", "versions", "machine"}`` of this run.
    """
    missing = [
        {"arm": c.arm, "base": c.base, "seed": c.seed, "eval": e}
        for c in graph.cells
        for e in exp.evaluation.evals
        if not _has(records, c, e)
    ]
    expected = len(graph.cells) * len(exp.evaluation.evals)
    used = {s.id: s for s in graph.stages if s.id in records}
    return {
        "name": exp.name,
        "title": exp.title,
        "fingerprint": fingerprint(graph),
        "wall_seconds": round(run["wall_seconds"], 2),
        "complete": not missing,
        "cells": {"expected": expected, "present": expected - len(missing), "missing": missing},
        "arms": {arm: _arm(exp, graph, records, arm) for arm in exp.arms},
        "effects": _effects(exp, graph, records),
        "corpus": _corpus(exp, graph, store, records),
        "cost": cost_summary([(records[i], i not in fresh) for i in used]),
        "provenance": {
            "versions": run["versions"],
            "machine": run["machine"],
            "settings": dataclasses.asdict(exp),
            "specs": _specs(graph, records),
            "artifacts": [
                {"id": i, "kind": s.kind, "label": s.label, "cached": i not in fresh}
                for i, s in used.items()
            ],
            "started": run["started"],
            "finished": run["finished"],
        },
    }


def fingerprint(graph: Graph) -> str:
    """The identity of the whole comparison: the hash of its cells and their artifacts' ids."""
    cells = sorted((c.arm, c.base, c.seed, c.stage.id) for c in graph.cells)
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def _has(records: Mapping[str, Record], cell: Cell, name: str) -> bool:
    record = records.get(cell.stage.id)
    return record is not None and name in record.facts["evals"]


def _values(
    graph: Graph, records: Mapping[str, Record], arm: str, name: str, domain: str | None = None
) -> Values:
    """An arm's rates by base and seed, only of cells that are there."""
    values: Values = {}
    for cell in graph.cells:
        if cell.arm != arm or not _has(records, cell, name):
            continue
        result = records[cell.stage.id].facts["evals"][name]
        if domain is not None:
            result = result["by_domain"].get(domain)
            if result is None:
                continue
        values.setdefault(cell.base, {})[cell.seed] = result["rate"]
    return values


def _arm(exp: Experiment, graph: Graph, records: Mapping[str, Record], arm: str) -> dict[str, Any]:
    cells = [c for c in graph.cells if c.arm == arm]
    evals = {}
    for name in exp.evaluation.evals:
        present = [c for c in cells if _has(records, c, name)]
        if not present:
            continue
        results = [records[c.stage.id].facts["evals"][name] for c in present]
        # Seeds may share a checkpoint (a base model has no seed): its items count once.
        stages = {c.stage.id for c in present}
        once = [records[i].facts["evals"][name] for i in sorted(stages)]
        interval = rate_ci(_values(graph, records, arm, name))
        domains = list(dict.fromkeys(d for r in results for d in r["by_domain"]))
        evals[name] = {
            "rate": interval.value,
            "ci95": [interval.low, interval.high],
            "n": sum(r["n"] for r in once),
            "unparsed": sum(r.get("unparsed", 0) for r in once),
            "per_seed": [
                {"base": c.base, "seed": c.seed, "rate": r["rate"], "n": r["n"]}
                for c, r in zip(present, results, strict=True)
            ],
            "by_domain": {d: _domain(graph, records, arm, name, d, once) for d in domains},
        }
    return {
        "seeds": [{"base": c.base, "seed": c.seed} for c in cells],
        # Those that were evaluated; a base model has no seed, so it is one for all of them.
        "checkpoints": len({c.stage.inputs["model"].id for c in cells if c.stage.id in records}),
        "evals": evals,
        "train": training_facts((t[1:] for t in graph.trainings if t[0] == arm), records),
    }


def _domain(
    graph: Graph,
    records: Mapping[str, Record],
    arm: str,
    name: str,
    domain: str,
    results: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    values = _values(graph, records, arm, name, domain)
    interval = rate_ci(values, resamples=DOMAIN_RESAMPLES)
    return {
        "rate": interval.value,
        "ci95": [interval.low, interval.high],
        "n": sum(r["by_domain"][domain]["n"] for r in results if domain in r["by_domain"]),
    }


def training_facts(
    trainings: Iterable[tuple[str, int, str, Stage]], records: Mapping[str, Record]
) -> dict[str, Any]:
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


def _effects(exp: Experiment, graph: Graph, records: Mapping[str, Record]) -> dict[str, Any]:
    effects: dict[str, Any] = {}
    for name, (metric, arm_a, arm_b) in effect_arms(exp).items():
        a = _values(graph, records, arm_a, metric)
        b = _values(graph, records, arm_b, metric)
        pairs = [(x, s) for x in a for s in a[x] if s in b.get(x, {})]
        if not pairs:
            continue
        a = _only(a, pairs)
        b = _only(b, pairs)
        interval = paired_effect(a, b)
        effects[name] = {
            "value": interval.value,
            "ci95": [interval.low, interval.high],
            "label": f"{arm_a} - {arm_b}, {metric}",
            "per_seed": [{"base": x, "seed": s, "value": a[x][s] - b[x][s]} for x, s in pairs],
        }
    return effects


def _only(values: Values, pairs: Sequence[tuple[str, int]]) -> Values:
    kept: Values = {}
    for base, seed in pairs:
        kept.setdefault(base, {})[seed] = values[base][seed]
    return kept


def _corpus(
    exp: Experiment, graph: Graph, store: Store, records: Mapping[str, Record]
) -> dict[str, Any]:
    total: dict[str, Any] = {"planned": 0, "kept": 0, "rejected": {}, "failed": 0, "reasons": {}}
    by_corpus: dict[str, Any] = {}
    for (value, base), stage in graph.corpora.items():
        record = records.get(stage.id)
        if record is None:
            continue
        card = json.loads((store.fetch(stage.id) / "card.json").read_text(encoding="utf-8"))
        facts = record.facts
        for name in ("planned", "kept", "failed"):
            total[name] += facts[name]
        for reason, count in facts["rejected"].items():
            total["rejected"][reason] = total["rejected"].get(reason, 0) + count
        total["reasons"].update(card["reasons"])
        by_corpus[f"{value} {base}"] = {
            "value": value,
            "base": base,
            "writer": exp.corpus.writer,
            "planned": facts["planned"],
            "kept": facts["kept"],
            "rejected": facts["rejected"],
            "failed": facts["failed"],
            "tokens": facts["tokens_kept"],
            "samples": card["samples"],
            "rejected_samples": card["rejected_samples"],
        }
    return {**total, "by_corpus": by_corpus}


def _specs(graph: Graph, records: Mapping[str, Record]) -> dict[str, Any]:
    return {
        s.label: {"sha256": records[s.id].facts["sha256"], "title": records[s.id].facts["title"]}
        for s in graph.stages
        if s.kind == "spec" and s.id in records
    }
