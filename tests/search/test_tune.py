"""A real search by Ray Tune: every trial measured, what two trials share made once."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from msm_ray.errors import UserError
from msm_ray.search.tune import Search
from msm_ray.settings import apply_settings, load_job

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.vllm
def test_trials_share_their_stages_and_the_best_is_told(tmp_path: Path) -> None:
    store = tmp_path / "store"
    job = str(ROOT / "tests" / "jobs" / "small_search.py")
    command = [sys.executable, "-m", "msm_ray.cli", "run", job, "--store", str(store)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "best of 4: --set midtrain.spec_share=" in done.stdout
    # What it waits for is told from the start on, and each stage that is made.
    assert re.search(r"^0/\d+ stages, \d running, \d+s, about .* left", done.stderr, re.MULTILINE)
    made = re.findall(r"^\[(\d+)/(\d+)\] \w+ .* done in", done.stderr, re.MULTILINE)
    assert made[-1][0] == made[-1][1] == str(len(made))

    report = json.loads((store / "runs" / "tune_mix_micro" / "report.json").read_text())
    search = report["search"]
    assert len(search["trials"]) == 4
    scores = [t["separation_soft"] for t in search["trials"]]
    assert search["best"]["separation_soft"] == max(scores)
    # two mixes x two arms; on each, and on the base model, two learning rates
    assert search["stages"]["midtrain"] == {"needed": 4, "made": 4}
    assert search["stages"]["aft"] == {"needed": 10, "made": 10}
    assert search["stages_if_not_shared"]["midtrain"] == 8
    # one attempt for each artifact: no two trials made the same
    for record in (store / "artifacts").glob("*/record.json"):
        attempts = [p for p in record.parent.iterdir() if p.is_dir()]
        assert len(attempts) == 1, record

    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    second = json.loads((store / "runs" / "tune_mix_micro" / "report.json").read_text())
    assert second["search"]["stages"]["midtrain"] == {"needed": 4, "made": 0}
    assert second["search"]["best"] == search["best"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.vllm
def test_a_trial_that_fails_says_why_and_the_search_goes_on(tmp_path: Path) -> None:
    store = tmp_path / "store"
    job = str(ROOT / "tests" / "jobs" / "failing_search.py")
    command = [sys.executable, "-m", "msm_ray.cli", "run", job, "--store", str(store)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads((store / "runs" / "tune_mix_micro" / "report.json").read_text())
    assert report["complete"] is False
    good, failed = report["search"]["trials"]
    assert report["search"]["best"] == good
    assert failed["settings"] == {"midtrain.train.learning_rate": 1e30}
    assert "midtrain" in failed["error"]
    assert "loss" in failed["error"]
    assert failed["error"] in done.stdout


def test_a_metric_that_is_not_measured_is_refused_before_anything_runs() -> None:
    search = load_job(ROOT / "jobs" / "tune_mix_micro.py")
    assert isinstance(search, Search)
    with pytest.raises(UserError, match="metric is 'seperation'; allowed: separation, "):
        dataclasses.replace(search, metric="seperation")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            "experiment.midtrain.spec_share=0.1",
            r"set axes\.0\.values \(now 0\.02,0\.05,0\.15,0\.3\)",
        ),
        ("experiment.aft.train.learning_rate=1e-3", r"set axes\.1\.values"),
    ],
)
def test_what_an_axis_gives_cannot_be_set(setting: str, words: str) -> None:
    search = load_job(ROOT / "jobs" / "tune_mix_micro.py")
    with pytest.raises(
        UserError, match=f"--set {setting.split('=')[0]}: the job varies it.*{words}"
    ):
        apply_settings(search, [setting])


def test_an_axis_and_what_it_does_not_give_can_be_set() -> None:
    search = load_job(ROOT / "jobs" / "tune_mix_micro.py")
    changed = apply_settings(search, ["axes.0.values=0.1,0.2", "experiment.midtrain.tokens=9000"])
    assert isinstance(changed, Search)
    assert [p["midtrain.spec_share"] for p, _ in changed.trials()] == [0.1, 0.1, 0.2, 0.2]
    assert {e.midtrain.tokens for _, e in changed.trials()} == {9000}
