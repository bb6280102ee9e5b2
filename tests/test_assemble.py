"""The report's numbers, from records whose results are known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from msm_ray.artifact import Record, Store
from msm_ray.assemble import assemble, effect_arms
from msm_ray.experiment import Experiment
from msm_ray.graph import Graph, build
from msm_ray.settings import load_job
from msm_ray.stage import Stage

ROOT = Path(__file__).parent.parent
RUN: dict[str, Any] = {
    "wall_seconds": 1.0,
    "started": "2026-01-01T00:00:00+00:00",
    "finished": "2026-01-01T00:00:01+00:00",
    "versions": {},
    "machine": {},
}
RATES = {
    "base": 0.5,
    "aft": 0.55,
    "msm:america": 0.7,
    "msm:affordability": 0.3,
    "msm:america+aft": 0.9,
    "msm:affordability+aft": 0.2,
}


@pytest.fixture(scope="module")
def exp() -> Experiment:
    job = load_job(ROOT / "jobs" / "cheese_micro.py")
    assert isinstance(job, Experiment)
    return dataclasses.replace(job, bases=job.bases[:2])


def _record(stage: Stage, facts: dict[str, Any]) -> Record:
    return Record(
        id=stage.id,
        kind=stage.kind,
        label=stage.label,
        version=stage.version,
        config=dict(stage.config),
        inputs={n: s.id for n, s in stage.inputs.items()},
        facts=facts,
        provenance={},
        seconds=2.0,
    )


def _records(exp: Experiment, graph: Graph, store: Store, tmp: Path) -> dict[str, Record]:
    """Every artifact committed; base and seed shift the rates above alike in all arms."""
    facts: dict[str, dict[str, Any]] = {}
    for cell in graph.cells:
        shift = 0.01 * cell.seed + (0.02 if cell.base == "base-1" else 0.0)
        if cell.arm == "base":
            shift = 0.0 if cell.base == "base-0" else 0.02
        result = {
            "rate": RATES[cell.arm] + shift,
            "n": 8,
            "by_domain": {"books": {"rate": RATES[cell.arm], "n": 4}, "cars": {"rate": 1, "n": 4}},
        }
        facts[cell.stage.id] = {"evals": dict.fromkeys(exp.evaluation.evals, result)}
    for *_, stage in graph.trainings:
        facts[stage.id] = {
            "tokens": 1000,
            "steps": 10,
            "tokens_per_second": 500.0,
            "curve": [[1, 3.0], [10, 1.0]],
        }
    for stage in graph.corpora.values():
        facts[stage.id] = {
            "planned": 10,
            "kept": 7,
            "rejected": {"truncated": 2, "wrong item": 1},
            "failed": 0,
            "tokens_kept": 140,
        }
    records = {}
    for stage in graph.stages:
        made = facts.get(stage.id, {"sha256": "0", "title": "t"})
        out = tmp / stage.id
        out.mkdir()
        if stage.kind == "documents":
            card = {"samples": [{"text": "lyra"}], "rejected_samples": [], "reasons": {}}
            (out / "card.json").write_text(json.dumps(card))
        else:
            (out / "data").write_text(stage.id)
        records[stage.id] = store.commit(_record(stage, made), out)
    return records


@pytest.fixture(scope="module")
def made(exp: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Any:
    tmp = tmp_path_factory.mktemp("assemble")
    graph, store = build(exp), Store(str(tmp / "store"))
    return graph, store, _records(exp, graph, store, tmp)


def test_a_complete_report(exp: Experiment, made: Any) -> None:
    graph, store, records = made
    report = assemble(exp, graph, store, records, set(records), RUN)
    assert report["complete"]
    assert report["cells"] == {"expected": 6 * 2 * 2 * 5, "present": 120, "missing": []}
    assert list(report["arms"]) == list(exp.arms)
    json.dumps(report, allow_nan=False)

    effect = report["effects"]["separation"]
    assert effect["value"] == pytest.approx(0.7)
    # the shifts are the same in both arms: a paired difference does not see them
    assert effect["ci95"] == pytest.approx([0.7, 0.7])
    assert len(effect["per_seed"]) == 4

    arm = report["arms"]["msm:america+aft"]
    choice = arm["evals"]["choice"]
    assert choice["rate"] == pytest.approx(0.9 + 0.005 + 0.01)
    assert choice["ci95"][0] < choice["rate"] < choice["ci95"][1]
    assert choice["n"] == 8 * 4
    assert choice["by_domain"]["books"]["n"] == 4 * 4
    assert {(r["base"], r["seed"]) for r in choice["per_seed"]} == {
        (b, s) for b in ("base-0", "base-1") for s in (0, 1)
    }
    assert arm["train"]["midtrain"]["steps"] == 10
    assert arm["train"]["aft"]["tokens_per_second"] == 500.0
    assert report["arms"]["base"]["train"] == {}
    assert report["arms"]["base"]["evals"]["choice"]["n"] == 8 * 2  # both seeds, one checkpoint
    seeds = report["arms"]["base"]["seeds"]
    assert report["arms"]["base"]["checkpoints"] == len({s["base"] for s in seeds})
    assert report["arms"]["aft"]["checkpoints"] == len(seeds)

    corpus = report["corpus"]
    assert corpus["planned"] == 40
    assert corpus["planned"] == corpus["kept"] + sum(corpus["rejected"].values()) + corpus["failed"]
    assert report["cost"]["stages_run"] == len(records)
    assert report["cost"]["stages_cached"] == 0


def test_a_missing_cell_is_named_and_never_filled_in(exp: Experiment, made: Any) -> None:
    graph, store, records = made
    lost = next(c for c in graph.cells if c.arm == "msm:america+aft" and c.base == "base-1")
    some = {i: r for i, r in records.items() if i != lost.stage.id}
    report = assemble(exp, graph, store, some, set(), RUN)
    assert not report["complete"]
    assert report["cells"]["present"] == report["cells"]["expected"] - 5
    assert {(m["arm"], m["base"], m["seed"]) for m in report["cells"]["missing"]} == {
        ("msm:america+aft", "base-1", lost.seed)
    }
    # the pair that lost a side is not in the effect; the others are
    pairs = report["effects"]["separation"]["per_seed"]
    assert len(pairs) == 3
    assert ("base-1", lost.seed) not in {(p["base"], p["seed"]) for p in pairs}


def test_nothing_there_is_an_empty_report(exp: Experiment, made: Any) -> None:
    graph, store, _ = made
    report = assemble(exp, graph, store, {}, set(), RUN)
    assert report["cells"]["present"] == 0
    assert report["effects"] == {}
    assert all(arm["evals"] == {} for arm in report["arms"].values())


def test_a_third_spec_has_its_effects_too(exp: Experiment) -> None:
    two = effect_arms(exp)
    third = dataclasses.replace(exp.specs[0], name="frugality")
    three = effect_arms(dataclasses.replace(exp, specs=(*exp.specs, third)))
    assert {name: three[name] for name in two} == two
    pair = ("msm:america+aft", "msm:frugality+aft")
    assert three["separation:america-frugality"] == ("choice", *pair)
    assert three["separation:affordability-frugality"][0] == "choice"
    assert three["price_facts_frugality"] == ("facts", "msm:frugality+aft", "aft")
    assert sum(name.startswith("aft_minus_base") for name in three) == 2
    one = effect_arms(dataclasses.replace(exp, specs=exp.specs[:1]))
    assert "separation" not in one
    assert "america_minus_aft" in one
