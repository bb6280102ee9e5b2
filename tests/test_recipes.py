"""Several recipes as one job: one preview, one report, nothing shared made twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from msm_ray.artifact import Record, Store
from msm_ray.errors import UserError
from msm_ray.recipes import Recipes
from msm_ray.settings import apply_settings, load_job
from msm_ray.tasks.asking import row, write_rows

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


def test_items_and_answers_of_all_members_are_shown(job: Recipes, tmp_path: Path) -> None:
    names = ("novelty", "tradition")
    members = {n: replace(job.members[n], seeds=(0,), probes=()) for n in names}
    few, store = replace(job, members=members), Store(tmp_path / "store")
    records = {}
    for name, member in members.items():
        for cell in member.evaluations():
            if cell.stage.kind != "pairs" or cell.arm not in ("base", f"msm:{name}+aft"):
                continue
            eval, value = f"pairs:{name}", float(cell.arm != "base")
            item = {"id": f"a {name}", "domain": "books"}
            out = tmp_path / cell.stage.id
            out.mkdir()
            said = {"prompt": f"{name}?", "answer": cell.arm}
            write_rows(out, [row(item, eval, value, order=order, **said) for order in (0, 1)])
            facts = {"evals": {eval: {"rate": value, "n": 2, "by_domain": {}}}}
            made = Record(cell.stage.id, "pairs", "", "1", {}, {}, facts, {}, 1.0)
            records[cell.stage.id] = store.commit(made, out)
    facts = {"wall_seconds": 1.0, "started": "", "finished": "", "versions": {}, "machine": {}}
    report = few._report(store, few.stages(), records, set(), facts)
    rates = {f"pairs:{n}": {f"base@{n}": 0.0, f"msm:{n}+aft@{n}": 1.0} for n in names}
    assert {n: items[0]["rates"] for n, items in report["items"].items()} == rates
    assert {n: set(of) for n, of in rates.items()} == {
        sample["eval"]: set(sample["answers"]) for sample in report["samples"]
    }
    assert set(report["item_sets"]) == set(rates)


def test_settings_reach_a_member_and_names_are_checked(job: Recipes) -> None:
    changed = apply_settings(job, ["members.novelty.seeds=7"])
    assert changed.members["novelty"].seeds == (7,)
    assert changed.members["tradition"].seeds == job.members["tradition"].seeds
    with pytest.raises(UserError, match="members is empty"):
        replace(job, members={})
    with pytest.raises(UserError, match="'a@b' is no name of a member"):
        replace(job, members={"a@b": job.members["novelty"]})
