"""Searches whose stages take no time, by Ray Tune: complete, resumable, and nothing done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parent.parent.parent
JOB = ROOT / "tests" / "jobs" / "instant_search.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks" / "search")}
pytestmark = [pytest.mark.slow, pytest.mark.ray]


def command(store: Path, *settings: str) -> list[str]:
    sets = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "msm_ray.cli", "run", str(JOB), "--store", str(store), *sets]


def run(store: Path, *settings: str, code: int = 0) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        command(store, *settings),
        cwd=store.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.returncode == code, done.stdout[-3000:]
    report = json.loads((store / "runs" / "instant_search" / "report.json").read_text())
    return report, done.stdout


def driver_with(ended: int, store: Path, *settings: str) -> subprocess.Popen[str]:
    """A run at the moment when so many of its trials have ended."""
    driver = subprocess.Popen(
        command(store, *settings),
        cwd=store.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    )
    assert driver.stdout is not None
    for line in driver.stdout:
        if line.startswith(f"  {ended}/12 trial "):
            break
    return driver


def attempts(store: Path) -> list[int]:
    return [
        len([p for p in record.parent.iterdir() if p.is_dir()])
        for record in (store / "artifacts").glob("*/record.json")
    ]


def records(store: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in (store / "artifacts").glob("*/record.json")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    store = tmp_path_factory.mktemp("whole") / "store"
    return store, *run(store)


def test_every_trial_is_told_and_what_they_share_is_made_once(
    whole: tuple[Path, dict[str, Any], str],
) -> None:
    store, report, told = whole
    search = report["search"]
    assert report["complete"] is True
    assert [t["state"] for t in search["trials"]] == ["done"] * 12
    assert "stages that trials share are made first" in told
    assert told.index("made first") < told.index("  1/12 trial ")
    # 12 fine-tunings of 4 midtrainings; the control's evaluation is everybody's.
    kinds = search["sharing"]["by_kind"]
    assert kinds["midtrain"] == {"needed": 4, "made": 4, "alone": 12}
    assert kinds["aft"] == {"needed": 12, "made": 12, "alone": 12}
    assert kinds["evaluate"] == {"needed": 13, "made": 13, "alone": 24}
    assert search["sharing"]["tokens"] == {"needed": 1600, "made": 1600, "alone": 2400}
    assert set(attempts(store)) == {1}
    for trial in search["trials"]:
        assert trial["tokens"] == 200
        assert trial["mix"]["spec"] + trial["mix"]["replay"] == pytest.approx(1)
        assert trial["stages"] == 5


def test_trials_use_the_processes_of_those_before_them(
    whole: tuple[Path, dict[str, Any], str],
) -> None:
    store, _, _ = whole
    processes = [r["facts"]["process"] for r in records(store) if r["kind"] == "aft"]
    assert len(processes) == 12 + 2 * 2  # the best two again on two fresh seeds, by the driver
    assert len(set(processes)) == 2 + 1


def test_the_best_is_what_was_best_again_on_fresh_seeds(
    whole: tuple[Path, dict[str, Any], str],
) -> None:
    _, report, told = whole
    search = report["search"]
    gains = {t["number"]: t["values"]["gain"]["value"] for t in search["trials"]}
    claimed = [c["number"] for c in search["confirmed"]]
    assert claimed == sorted(gains, key=lambda n: (-gains[n], n))[:2]
    again = {c["number"]: c["values"]["gain"]["value"] for c in search["confirmed"]}
    assert search["best"] == max(claimed, key=lambda n: again[n])
    for one in search["confirmed"]:
        assert one["seeds"] == [5, 6]
        assert one["claimed"]["gain"]["value"] == gains[one["number"]]
    # No trial beats one on the front in both.
    front = {n: search["trials"][n]["values"] for n in search["front"]}
    assert front
    for trial in search["trials"]:
        for values in front.values():
            mine = trial["values"]
            assert not (
                mine["gain"]["value"] > values["gain"]["value"]
                and mine["choice (aft)"]["value"] < values["choice (aft)"]["value"]
            )
    assert f"trial {search['best']} on seeds 5, 6: gain" in told


def test_the_recommended_job_is_the_best_trials(
    whole: tuple[Path, dict[str, Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, report, _ = whole
    search = report["search"]
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "search"))
    text = (store / "runs" / "instant_search" / search["recommended"]["file"]).read_text()
    assert text == search["recommended"]["source"]
    file = store.parent / "best.py"
    file.write_text(text)
    namespace: dict[str, Any] = {"__name__": "best"}
    exec(compile(text, str(file), "exec"), namespace)  # Instant is no job that runs by itself
    job = namespace["experiment"]()
    settings = search["trials"][search["best"]]["settings"]
    assert {"share": job.share, "rate": job.rate} == settings


def test_again_nothing_is_made_and_ray_is_not_started(
    whole: tuple[Path, dict[str, Any], str],
) -> None:
    store, first, _ = whole
    before = attempts(store)
    report, told = run(store)
    assert "12 trials, 12 of them have ended" in told
    assert "Ray starts" not in told
    assert attempts(store) == before
    assert report["search"] == first["search"]


def test_a_killed_driver_and_again_the_same_trials_none_made_twice(
    whole: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    _, plain, _ = whole
    store = tmp_path / "store"
    for trials in (2, 7):
        driver = driver_with(trials, store, "job.pause=0.3")
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate()
        time.sleep(1.0)
    report, told = run(store)
    ended = int(told.split(" trials, ")[1].split(" ")[0])
    assert 7 <= ended < 12
    mine, theirs = report["search"], plain["search"]
    for key in ("settings", "values", "state"):
        assert [t[key] for t in mine["trials"]] == [t[key] for t in theirs["trials"]]
    assert mine["best"] == theirs["best"]
    assert mine["confirmed"] == theirs["confirmed"]
    assert set(attempts(store)) == {1}


def test_a_trial_whose_process_is_lost_goes_on_in_another(
    whole: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    _, plain, _ = whole
    store = tmp_path / "store"
    driver = driver_with(3, store, "job.pause=0.5")
    known = {r["facts"]["process"] for r in records(store) if r["kind"] == "aft"}
    trials = [p for p in psutil.Process(driver.pid).children(recursive=True) if p.pid in known]
    assert trials
    for process in trials:
        process.kill()
    told, _ = driver.communicate()
    assert driver.returncode == 0, told
    report = json.loads((store / "runs" / "instant_search" / "report.json").read_text())
    assert report["complete"] is True
    for key in ("settings", "values", "state"):
        mine, theirs = report["search"]["trials"], plain["search"]["trials"]
        assert [t[key] for t in mine] == [t[key] for t in theirs]
    assert set(attempts(store)) == {1}


def test_a_trial_that_fails_says_why_and_the_search_goes_on(tmp_path: Path) -> None:
    report, _ = run(tmp_path / "store", "job.fails=0.8", code=1)
    failed = [t for t in report["search"]["trials"] if t["state"] == "failed"]
    assert failed
    assert all(t["settings"]["rate"] > 0.8 for t in failed)
    assert report["complete"] is False
    for trial in failed:
        assert f"a rate of {trial['settings']['rate']} is too much" in trial["error"]
        assert any(trial["error"] in problem for problem in report["problems"])
        # What it had made before counts: its midtraining, and the controls.
        assert trial["tokens"] == 100
    done = [t for t in report["search"]["trials"] if t["state"] == "done"]
    assert len(done) == 12 - len(failed)
    assert report["search"]["best"] in {t["number"] for t in done}
    # What stood in its way is gone: only those are run again.
    again, _ = run(tmp_path / "store")
    assert [t["state"] for t in again["search"]["trials"]] == ["done"] * 12
    assert again["complete"] is True


def test_a_second_driver_of_the_same_search_is_refused(
    whole: tuple[Path, dict[str, Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from msm_ray.artifact import Store
    from msm_ray.claims import Claims
    from msm_ray.errors import UserError
    from msm_ray.search import run as module
    from msm_ray.settings import load_job

    store, _, _ = whole
    search = load_job(JOB)
    other = Claims(Store(str(store)))
    assert other.acquire(f"search-{search.fingerprint()}")  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "STALE_SECONDS", 0.5)
    try:
        with pytest.raises(UserError, match="instant_search: another driver runs this search"):
            search.run(str(store))
    finally:
        other.close()
