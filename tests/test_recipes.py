"""Several recipes as one job: one preview, one report, nothing shared made twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from msm_ray.artifact import Store
from msm_ray.errors import UserError
from msm_ray.recipes import Recipes
from msm_ray.settings import apply_settings, load_job

JOBS = Path(__file__).resolve().parent.parent / "jobs"
VALUES = ("environment", "novelty", "tradition", "simplicity", "difficulty", "individualism")


@pytest.fixture(scope="module")
def job() -> Recipes:
    made = load_job(JOBS / "values_llama8b.py")
    assert isinstance(made, Recipes)
    return made


def test_eight_values_are_sized_together(job: Recipes, tmp_path: Path) -> None:
    rows = {row["kind"]: row for row in job.preview(str(tmp_path / "store"))["stages"]}
    assert list(job.members) == ["cheese", *VALUES]
    assert rows["model"]["count"] == 1  # one model for all
    assert rows["corpus"]["count"] == 8
    assert rows["midtrain"]["count"] == 8 * 4
    assert rows["aft"]["count"] == 4 * (3 + 6 * 2)
    # A base model, and seeds of each other arm, for each value's pairs.
    assert rows["pairs"]["count"] == 2 * (1 + 4 * 5) + 6 * (1 + 4 * 3)
    assert rows["probes"]["count"] == 8
    # The base model is asked what it knows once, whichever member asks.
    assert rows["capability"]["count"] == 1 + 4 * 5 + 6 * 4 * 3
    assert all(s.estimate["steps"] >= 100 for s in job.stages() if "steps" in s.estimate)


def test_a_report_has_the_members_side_by_side(job: Recipes, tmp_path: Path) -> None:
    few = replace(job, members={name: job.members[name] for name in ("novelty", "tradition")})
    facts = {"wall_seconds": 1.0, "started": "", "finished": "", "versions": {}, "machine": {}}
    report = few._report(Store(tmp_path / "store"), few.stages(), {}, set(), facts)
    assert list(report["arms"])[:2] == ["base@novelty", "aft@novelty"]
    assert report["members"]["tradition"]["arms"] == [
        *("base@tradition", "aft@tradition", "msm:tradition@tradition"),
        "msm:tradition+aft@tradition",
    ]
    cells = report["cells"]
    # Four seeds of four arms, three evals of pairs and one of knowledge; four probes of the base.
    assert cells["expected"] == 2 * 4 * (4 * 4 + 4) == len(cells["missing"])
    assert {cell["arm"].partition("@")[2] for cell in cells["missing"]} == set(few.members)
    assert not report["complete"]
    assert report["corpus"] == {}


def test_settings_reach_a_member_and_names_are_checked(job: Recipes) -> None:
    changed = apply_settings(job, ["members.novelty.seeds=7"])
    assert changed.members["novelty"].seeds == (7,)
    assert changed.members["tradition"].seeds == job.members["tradition"].seeds
    with pytest.raises(UserError, match="members is empty"):
        replace(job, members={})
    with pytest.raises(UserError, match="'a@b' is no name of a member"):
        replace(job, members={"a@b": job.members["novelty"]})
