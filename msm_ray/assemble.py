"""From committed artifacts to the report's dictionary: every number, its n and its interval."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msm_ray.artifact import Record, Store
from msm_ray.cells import Cell, ItemValues
from msm_ray.comparison import Comparison
from msm_ray.effects import compared_arms
from msm_ray.experiment import Experiment
from msm_ray.graph import Graph
from msm_ray.items import gather
from msm_ray.mixes import ArmTraining, mixtures
from msm_ray.observe import cost_summary
from msm_ray.provenance import artifacts
from msm_ray.stage import Stage

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
    ("{a}_minus_aft_soft", "choice_soft", "msm:{a}+aft", "aft"),
    ("{b}_minus_aft_soft", "choice_soft", "msm:{b}+aft", "aft"),
    ("{a}_minus_msm", "choice", "msm:{a}+aft", "msm:{a}"),
    ("{b}_minus_msm", "choice", "msm:{b}+aft", "msm:{b}"),
    ("{a}_minus_msm_soft", "choice_soft", "msm:{a}+aft", "msm:{a}"),
    ("{b}_minus_msm_soft", "choice_soft", "msm:{b}+aft", "msm:{b}"),
    ("price_facts_{a}", "facts", "msm:{a}+aft", "aft"),
    ("price_facts_{b}", "facts", "msm:{b}+aft", "aft"),
    ("price_heldout_loss_{a}", "heldout_loss", "msm:{a}+aft", "aft"),
    ("price_heldout_loss_{b}", "heldout_loss", "msm:{b}+aft", "aft"),
)


def effect_arms(exp: Experiment) -> dict[str, tuple[str, str, str]]:
    """The effects of an experiment: name -> (evaluation, arm, arm that is subtracted)."""
    kinds = [kind for kind in EFFECTS if kind[1] in exp.evaluation.evals]
    return compared_arms([spec.name for spec in exp.specs], kinds)


def comparison(exp: Experiment, graph: Graph) -> Comparison:
    """What an experiment compares, whatever of it is there."""
    return Comparison(graph.stages, graph.cells, graph.trainings, effect_arms(exp))


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
    used = {s.id: s for s in graph.stages if s.id in records}
    return {
        "name": exp.name,
        "title": exp.title,
        "fingerprint": fingerprint(graph),
        "wall_seconds": round(run["wall_seconds"], 2),
        **comparison(exp, graph).found(records, ItemValues(store)),
        "corpus": corpus_facts(exp.corpus.writer, graph.corpora, store, records),
        "cost": cost_summary([(records[i], i not in fresh) for i in used]),
        "provenance": {
            "versions": run["versions"],
            "machine": run["machine"],
            "settings": dataclasses.asdict(exp),
            "specs": specs_facts(graph.stages, records),
            "artifacts": artifacts(used.values(), fresh),
            "started": run["started"],
            "finished": run["finished"],
        },
    }


def closer(
    report: dict[str, Any],
    cells: Sequence[Cell],
    trainings: Iterable[ArmTraining],
    store: Store,
    records: Mapping[str, Record],
) -> dict[str, Any]:
    """``report`` with what takes a look into the artifacts: single items, answers, mixtures."""
    return {**report, **gather(cells, records, store), "mixtures": mixtures(trainings, records)}


def fingerprint(graph: Graph) -> str:
    """The identity of the whole comparison: the hash of its cells and their artifacts' ids."""
    cells = sorted((c.arm, c.base, c.seed, c.stage.id) for c in graph.cells)
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def corpus_facts(
    writer: str,
    corpora: Mapping[tuple[str, str], Stage],
    store: Store,
    records: Mapping[str, Record],
) -> dict[str, Any]:
    """What became of every planned document, in all and by corpus, with samples."""
    total: dict[str, Any] = {"planned": 0, "kept": 0, "rejected": {}, "failed": 0, "reasons": {}}
    by_corpus: dict[str, Any] = {}
    for (value, base), stage in corpora.items():
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
            "writer": writer,
            "planned": facts["planned"],
            "kept": facts["kept"],
            "rejected": facts["rejected"],
            "failed": facts["failed"],
            "tokens": facts["tokens_kept"],
            "samples": card["samples"],
            "rejected_samples": card["rejected_samples"],
        }
    return {**total, "by_corpus": by_corpus}


def specs_facts(stages: Iterable[Stage], records: Mapping[str, Record]) -> dict[str, Any]:
    """The hash and title of each spec among ``stages``."""
    return {
        s.label: {"sha256": records[s.id].facts["sha256"], "title": records[s.id].facts["title"]}
        for s in stages
        if s.kind == "spec" and s.id in records
    }
