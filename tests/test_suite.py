"""Several comparisons as one: what they share, what they are called, and what is missing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from msm_ray.artifact import Record, Store
from msm_ray.errors import UserError
from msm_ray.experiment import Experiment
from msm_ray.report.html import render_html
from msm_ray.settings import load_job
from msm_ray.stage import Stage, topological
from msm_ray.suite import Curve, Suite

JOBS = Path(__file__).parent.parent / "jobs"
DOSES = {"low": 100_000, "high": 200_000}
FACTS = {
    "wall_seconds": 1.0,
    "started": "2026-01-01T00:00:00+00:00",
    "finished": "2026-01-01T00:00:01+00:00",
    "versions": {},
    "machine": {},
}


@pytest.fixture(scope="module")
def suite() -> Suite:
    job = load_job(JOBS / "cheese_micro.py")
    assert isinstance(job, Experiment)
    exp = dataclasses.replace(job, bases=job.bases[:1])
    return Suite(
        name="doses",
        title="Two doses",
        members={
            name: dataclasses.replace(exp, midtrain=dataclasses.replace(exp.midtrain, tokens=n))
            for name, n in DOSES.items()
        },
        curve=Curve("Dose", "tokens", {k: float(v) for k, v in DOSES.items()}, ("separation",)),
    )


def _committed(suite: Suite, store: Store, tmp: Path, lost: str = "") -> dict[str, Record]:
    """Every artifact, with results that depend on the arm and the dose; without those ``lost``."""
    facts: dict[str, dict[str, Any]] = {}
    for member, graph in suite.graphs().items():
        for cell in graph.cells:
            rate = {"msm:america+aft": 0.6, "msm:affordability+aft": 0.4}.get(cell.arm, 0.5)
            rate += (rate - 0.5) * (member == "high") + 0.01 * cell.seed
            result = {"rate": rate, "n": 8, "by_domain": {"books": {"rate": rate, "n": 8}}}
            facts[cell.stage.id] = {"evals": dict.fromkeys(cell.evals, result)}
        for *_, stage in graph.trainings:
            facts[stage.id] = {"tokens": 9, "steps": 3, "tokens_per_second": 5.0, "curve": [[1, 2]]}
        for stage in graph.corpora.values():
            counts = {"planned": 10, "kept": 9, "rejected": {"truncated": 1}, "failed": 0}
            facts[stage.id] = {**counts, "tokens_kept": 140}
    records = {}
    stages = topological([s for graph in suite.graphs().values() for s in graph.stages])
    for stage in stages:
        if stage.label == lost:
            continue
        out = tmp / stage.id
        out.mkdir()
        card: dict[str, Any] = {"samples": [], "rejected_samples": [], "reasons": {}}
        (out / "card.json").write_text(json.dumps(card))
        records[stage.id] = store.commit(_record(stage, facts.get(stage.id)), out)
    return records


def _record(stage: Stage, facts: dict[str, Any] | None) -> Record:
    return Record(
        id=stage.id,
        kind=stage.kind,
        label=stage.label,
        version=stage.version,
        config=dict(stage.config),
        inputs={n: s.id for n, s in stage.inputs.items()},
        facts=facts or {"sha256": "0", "title": "t"},
        provenance={},
        seconds=2.0,
    )


def _report(suite: Suite, store: Store, records: dict[str, Record]) -> dict[str, Any]:
    return suite.report(suite.graphs(), store, records, set(records), FACTS)


def test_members_share_what_does_not_depend_on_what_they_differ_in(suite: Suite) -> None:
    graphs = suite.graphs()
    low, high = ({s.id: s.kind for s in graphs[m].stages} for m in DOSES)
    common = [kind for i, kind in low.items() if i in high]
    assert common.count("documents") == 2  # both corpora
    assert common.count("aft") == 2  # AFT only, of two seeds
    assert "midtrain" not in common


def test_the_report_has_members_side_by_side(suite: Suite, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    report = _report(suite, store, _committed(suite, store, tmp_path))
    assert report["complete"]
    json.dumps(report, allow_nan=False)
    # controls are the same checkpoints in both: listed once, under their own name
    assert list(report["arms"])[:2] == ["base", "aft"]
    assert "msm:america+aft@low" in report["arms"]
    assert len(report["arms"]) == 2 + 2 * 4
    assert report["effects"]["separation@low"]["value"] == pytest.approx(0.2)
    assert report["effects"]["separation@high"]["value"] == pytest.approx(0.4)
    cells = (2 + 2 * 4) * 2 * 5
    assert report["cells"] == {"expected": cells, "present": cells, "missing": []}
    low = report["members"]["low"]
    assert low["settings"] == {"midtrain.tokens": 100_000}
    assert low["arms"][:3] == ["base", "aft", "msm:america@low"]
    (curve,) = report["curves"]
    (line,) = curve["series"]
    assert [p["x"] for p in line["points"]] == [100_000, 200_000]
    assert [p["value"] for p in line["points"]] == pytest.approx([0.2, 0.4])
    corpora = report["corpus"]["by_corpus"]
    assert set(corpora) == {"america base-0", "affordability base-0"}  # once, not once a member
    assert "separation" in render_html(report)


def test_a_missing_cell_is_told_once_by_its_own_name(suite: Suite, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    records = _committed(suite, store, tmp_path, lost="msm:america+aft base-0/1")
    report = _report(suite, store, records)
    assert not report["complete"]
    missing = report["cells"]["missing"]
    assert {(m["arm"], m["seed"]) for m in missing} == {
        ("msm:america+aft@low", 1),
        ("msm:america+aft@high", 1),
    }
    assert len(missing) == 2 * 5
    assert report["cells"]["present"] == report["cells"]["expected"] - 10


def test_one_member_is_named_plainly_and_wrong_ones_are_refused(suite: Suite) -> None:
    with pytest.raises(UserError, match="members is empty"):
        dataclasses.replace(suite, members={}, curve=None)
    with pytest.raises(UserError, match="'a@b' is no name of a member"):
        dataclasses.replace(suite, members={"a@b": suite.members["low"]}, curve=None)
    with pytest.raises(UserError, match=r"curve\.x has values for low; it needs one for each"):
        dataclasses.replace(suite, curve=Curve("t", "x", {"low": 1.0}, ()))
    bad = dataclasses.replace(suite.members["low"].corpus, documents=50)
    members = {"high": dataclasses.replace(suite.members["low"], corpus=bad)}
    with pytest.raises(UserError, match=r"members\.high: corpus\.documents is 50"):
        dataclasses.replace(suite, members=members, curve=None).graphs()


def test_a_curve_through_an_effect_that_is_none_is_refused(suite: Suite) -> None:
    assert suite.curve
    wrong = dataclasses.replace(suite.curve, effects=("separation", "separatoin"))
    with pytest.raises(UserError, match=r"curve\.effects: 'separatoin' is no effect of members"):
        dataclasses.replace(suite, curve=wrong)
