"""Budgets that share a trunk, as experiments and recipes ask for them: stages, costs, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.artifact import Record
from msm_ray.errors import UserError
from msm_ray.experiment import Experiment
from msm_ray.graph import build
from msm_ray.observe import cost_summary
from msm_ray.preview import few_steps, preview_graphs
from msm_ray.recipe import Recipe
from msm_ray.settings import apply_settings, load_job
from msm_ray.stage import Stage, topological
from msm_ray.suite import Suite

JOBS = Path(__file__).parent.parent / "jobs"
WSD = ("midtrain.train.schedule=wsd", "midtrain.train.decay_fraction=0.1")


@pytest.fixture(scope="module")
def exp() -> Experiment:
    job = load_job(JOBS / "cheese_micro.py")
    assert isinstance(job, Experiment)
    return dataclasses.replace(job, bases=job.bases[:1], seeds=(0,), specs=job.specs[:1])


@pytest.fixture(scope="module")
def suite() -> Suite:
    job = load_job(JOBS / "dose_trunk_micro.py")
    assert isinstance(job, Suite)
    return job


def midtraining(exp: Experiment) -> Stage:
    return next(stage for *_, name, stage in build(exp).trainings if name == "midtrain")


def chain(stage: Stage) -> list[Stage]:
    """A branch and the trunks below it."""
    found = [stage]
    while "trunk" in found[-1].inputs:
        found.append(found[-1].inputs["trunk"])
    return found


def test_budgets_share_their_blocks_and_the_trunk(suite: Suite) -> None:
    graphs = suite.graphs()
    stages = {s.id: s for graph in graphs.values() for s in graph.stages}.values()
    count = {kind: sum(s.kind == kind for s in stages) for kind in ("trunk", "midtrain", "replay")}
    lines = 2 * 4  # specs, seeds
    assert count == {"trunk": 6 * lines, "midtrain": 6 * lines, "replay": 4}
    longest = midtraining(suite.members["96k"])
    assert [s.kind for s in chain(longest)] == ["midtrain", *["trunk"] * 6]
    shortest = midtraining(suite.members["16k"])
    assert [s.kind for s in chain(shortest)] == ["midtrain", "trunk"]
    assert chain(shortest)[1].id == chain(longest)[-1].id
    assert shortest.inputs["blocks"].id == longest.inputs["blocks"].id
    assert longest.inputs["blocks"].config["tokens"] == 96_000
    assert longest.config["segment"]["warmup"] == 2  # a tenth of the 16 steps of the smallest
    assert longest.run.endswith(":train")
    assert chain(longest)[1].run.endswith(":train_trunk")


def test_a_job_of_budgets_costs_its_increments(suite: Suite, tmp_path: Path) -> None:
    exp = suite.members["16k"]
    counted = preview_graphs("doses", list(suite.graphs().values()), exp, str(tmp_path / "store"))
    rows = {row["kind"]: row for row in counted["stages"]}
    new = rows["trunk"]["tokens"] + rows["midtrain"]["tokens"]
    assert new / (8 * 336_000) == pytest.approx(7.5 / 21, abs=0.01)
    assert rows["trunk"]["flops"] / rows["trunk"]["tokens"] == pytest.approx(
        rows["aft"]["flops"] / rows["aft"]["tokens"]
    )
    # By the steps that a model has seen, and not by those of its last part.
    told = [w for w in counted["warnings"] if w.startswith("midtrain")]
    assert [w.split(": about ")[1].split(" ")[0] for w in told] == [
        "16",
        "32",
        "47",
        "63",
        "79",
        "94",
    ]
    assert not [w for w in counted["warnings"] if w.startswith("trunk")]


def test_few_steps_are_those_of_the_whole_path(exp: Experiment) -> None:
    settings = [*WSD, "midtrain.budgets=150000,200000"]
    stages = chain(midtraining(apply_settings(exp, settings)))
    assert [s.estimate["steps"] for s in stages] == [20, 44, 132]
    assert few_steps(stages) == []


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True))
def test_what_was_trained_is_counted_once(sizes: list[int]) -> None:
    """Records as the stages leave them: tokens of the whole path, and those of their own."""
    records, path = [], 0
    for number, size in enumerate(sizes):
        path += size
        records.append(record(f"t{number}", tokens=path, tokens_new=size, steps=path))
        decay = number + 1
        records.append(record(f"m{number}", tokens=path + decay, tokens_new=decay, steps=path))
    records.append(record("aft", tokens=7, steps=1))  # as stages were before there were trunks
    costs = cost_summary([(r, False) for r in records])
    assert costs["tokens_trained"] == sum(sizes) + sum(range(1, len(sizes) + 1)) + 7


def record(id: str, **facts: Any) -> Record:
    kind = {"t": "trunk", "m": "midtrain"}.get(id[0], "aft")
    return Record(id, kind, "", "1", {}, {}, facts, {}, 1.0)


def test_without_budgets_nothing_is_another(exp: Experiment) -> None:
    plain = midtraining(exp)
    assert not {"segment", "decay_fraction"} & set(plain.config)
    assert set(plain.inputs) == {"model", "blocks"}
    # Whatever the trunk is, what comes before the mixture is the same.
    graph = build(apply_settings(exp, [*WSD, "midtrain.budgets=100000,200000"]))
    branch = next(stage for *_, name, stage in graph.trainings if name == "midtrain")
    assert branch.inputs["blocks"].id == plain.inputs["blocks"].id
    assert branch.id != plain.id


def test_a_trunk_can_follow_what_is_being_written(exp: Experiment) -> None:
    settings = [
        *WSD,
        "midtrain.budgets=100000,200000",
        "midtrain.order=windowed",
        "midtrain_compute.overlap=true",
    ]
    stages = chain(midtraining(apply_settings(exp, settings)))
    assert [s.streams for s in stages] == [{"blocks"}] * 3


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["midtrain.budgets=200000"], "train.schedule is 'cosine'; with midtrain.budgets it has"),
        ([*WSD, "midtrain.budgets=200000,100000"], "each larger than the one before"),
        ([*WSD, "midtrain.budgets=100000,150000"], "midtrain.tokens is 200000; allowed: one of"),
        ([*WSD, "midtrain.train.decay_fraction=0"], "decay_fraction is 0.0, allowed is a number"),
    ],
)
def test_wrong_budgets_are_told_in_one_line(
    exp: Experiment, settings: list[str], says: str
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        apply_settings(exp, settings)
    assert "\n" not in str(caught.value)


def test_budgets_that_are_too_close_are_told_before_anything_runs(exp: Experiment) -> None:
    close = apply_settings(exp, [*WSD, "midtrain.budgets=199900,200000"])
    with pytest.raises(UserError, match="199900 and 200000 tokens are too close"):
        build(close)
    few = apply_settings(exp, [*WSD, "midtrain.budgets=200000,4000000"])
    with pytest.raises(UserError, match=r"spec_share 0\.15 of midtrain\.budgets 4000000 needs"):
        build(few)


def test_a_recipe_has_budgets_too() -> None:
    recipe = load_job(JOBS / "cheese_llama8b.py")
    assert isinstance(recipe, Recipe)
    train = dataclasses.replace(recipe.midtrain.train, schedule="wsd", epochs=1.0)
    how = dataclasses.replace(recipe.midtrain, train=train, tokens=40_000_000)
    budgets = (20_000_000, 40_000_000)
    plain, short, long = (
        dataclasses.replace(recipe, midtrain=dataclasses.replace(how, **more))
        for more in ({}, {"budgets": budgets, "tokens": budgets[0]}, {"budgets": budgets})
    )
    stages = topological([*short.stages(), *long.stages()])
    count = {k: sum(s.kind == k for s in stages) for k in ("trunk", "midtrain")}
    lines = 2 * len(recipe.seeds)
    assert count == {"trunk": 2 * lines, "midtrain": 2 * lines}
    before = {s.id for s in plain.stages()}
    assert all(s.id in before for s in stages if s.kind in ("corpus", "blocks"))
    mid = next(s for _, _, s in long.checkpoints() if s.kind == "midtrain")
    assert sum(s.estimate["tokens"] for s in chain(mid)) == 40_000_000
    assert {kind for _, (_, _, kind, _) in long.trainings()} == {"midtrain", "aft"}
    aft = dataclasses.replace(recipe.aft, train=train, tokens=5, budgets=(5,))
    with pytest.raises(UserError, match=r"aft\.budgets is \[5\]; allowed: none"):
        dataclasses.replace(recipe, aft=aft)
    with pytest.raises(UserError, match="tokens is 0; allowed: one of budgets: 5"):
        dataclasses.replace(how, tokens=0, budgets=(5,))
