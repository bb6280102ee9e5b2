"""What a preview says beside counts: GPUs, rehearsals, whose trainings are short."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from msm_ray.errors import UserError
from msm_ray.preview import few_steps_of, found_below, gpu_time, gpus_of, rehearsed
from msm_ray.preview_text import preview_text
from msm_ray.recipe import Recipe
from msm_ray.recipes import Recipes
from msm_ray.settings import apply_settings, load_job
from msm_ray.stage import Stage
from msm_ray.suite import Suite

JOBS = Path(__file__).parent.parent / "jobs"


def stage(
    kind: str, label: str, hours: float, inputs: tuple[Stage, ...] = (), **runtime: Any
) -> Stage:
    return Stage(
        kind=kind,
        version="1",
        config={"label": label},
        inputs={str(n): one for n, one in enumerate(inputs)},
        run="package.module:function",
        label=label,
        runtime=runtime,
        estimate={"seconds": 3600 * hours, "steps": 5},
    )


def test_gpu_hours_and_how_many_can_share_them() -> None:
    corpus = stage("corpus", "c", 9.0)
    mids = [stage("midtrain", str(n), 4.0, (corpus,), use_gpu=True, num_workers=4) for n in (0, 1)]
    afts = [stage("aft", str(n), 1.0, (mid,), use_gpu=True, num_workers=2)
            for n, mid in enumerate(mids)]  # fmt: skip
    asked = [stage("pairs", str(n), 0.5, (aft,), engine={"gpus": 1.0})
             for n, aft in enumerate(afts)]  # fmt: skip
    every = [corpus, *mids, *afts, *asked]
    assert [gpus_of(one) for one in (corpus, mids[0], afts[0], asked[0])] == [0, 4, 2, 1]
    found = gpu_time(every)
    assert (found["device"], found["hours"], found["at_once"]) == ("H100", 11.0, 8)
    assert found["each"] == {"midtrain": 4, "aft": 2, "pairs": 1}
    assert found["least_hours"] == pytest.approx(4 / 4 + 1 / 2 + 0.5)
    # What is there already costs nothing and keeps nobody waiting.
    rest = gpu_time([*afts, *asked])
    assert (rest["hours"], rest["at_once"], rest["least_hours"]) == (3.0, 4, 1.0)
    assert gpu_time([corpus]) == {}


def test_a_job_of_this_size_says_gpus_and_that_its_models_are_scripted(tmp_path: Path) -> None:
    job = load_job(JOBS / "cheese_qwen32b.py")
    assert isinstance(job, Recipe)
    job = replace(job, seeds=(0,))
    counted = job.preview(str(tmp_path / "store"))
    text = preview_text(counted)
    seconds = sum(
        row["device_seconds"] for row in counted["stages"] if row["kind"] in counted["gpus"]["each"]
    )
    assert counted["gpus"]["hours"] == pytest.approx(seconds / 3600, abs=0.1)
    assert "GPU-hours of one H100 (" in text
    assert "midtrain on 8 each; pairs, opinions, capability, probes on 2 each" in text
    assert "warning: a model of 32.8G parameters, and corpora.america.planner.endpoint" in text
    real = apply_settings(
        job, [f"{name}.model=gpt" for name, _ in found_below(job, type(job.chats.planner.endpoint))]
    )
    assert rehearsed(job, job.stages())
    assert rehearsed(real, real.stages()) == []
    small = replace(job, model=replace(job.model, parameters=1e6))
    assert rehearsed(small, small.stages()) == []


def test_what_needs_no_gpu_says_nothing_of_gpus(tmp_path: Path) -> None:
    job = load_job(JOBS / "cheese_micro.py")
    counted = job.preview(str(tmp_path / "store"))
    assert counted["gpus"] == {}
    assert "GPU" not in preview_text(counted)


def test_members_of_short_trainings_are_named(tmp_path: Path) -> None:
    shared, own = stage("aft", "aft", 1.0), stage("midtrain", "m", 1.0)
    lines = few_steps_of({"a": [shared], "b": [shared, own]}, [shared, own])
    assert [line.split(":")[0] for line in lines] == ["a", "b"]  # the shared one once
    assert few_steps_of({"a": [shared]}, []) == []
    suite = load_job(JOBS / "dose_steps_micro.py")
    assert isinstance(suite, Suite)
    warnings = suite.preview(str(tmp_path / "store"))["warnings"]
    assert warnings
    assert {line.split(": ")[0] for line in warnings} <= set(suite.members)
    job = load_job(JOBS / "values_llama8b.py")
    assert isinstance(job, Recipes)
    few = {
        name: replace(member, midtrain=replace(member.midtrain, tokens=500_000))
        for name, member in job.members.items()
        if name in ("novelty", "tradition")
    }
    found = replace(job, members=few).preview(str(tmp_path / "store"))["warnings"]
    assert [line.split(": ")[0] for line in found[:2]] == ["novelty", "tradition"]


def test_a_setting_of_what_is_none_says_what_to_write() -> None:
    job = load_job(JOBS / "cheese_micro.py")
    with pytest.raises(UserError, match=r"lora is none here.*lora=Lora\(rank=..., alpha=..., targ"):
        apply_settings(job, ["midtrain.train.lora.rank=8"])
    with pytest.raises(UserError, match="no setting 'rank'"):
        apply_settings(job, ["midtrain.train.rank=8"])
