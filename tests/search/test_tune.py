"""Real searches by Ray Tune in the micro-world: shared, stopped at rungs, killed and gone on."""

import dataclasses
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from msm_ray.errors import UserError
from msm_ray.search.halving import Halving
from msm_ray.search.job import Confirm, Search
from msm_ray.search.methods import Random, Stratified
from msm_ray.search.objectives import Constraint, Cost, Effect, Objective, Rate
from msm_ray.search.space import Mixture, Real, Space
from msm_ray.settings import apply_settings, load_job

ROOT = Path(__file__).parent.parent.parent


def command(job: str, store: Path) -> list[str]:
    path = str(ROOT / "tests" / "jobs" / f"{job}.py")
    return [sys.executable, "-m", "msm_ray.cli", "run", path, "--store", str(store)]


def run(job: str, store: Path, name: str, code: int = 0) -> tuple[dict[str, Any], str]:
    done = subprocess.run(command(job, store), cwd=store.parent, capture_output=True, text=True)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads((store / "runs" / name / "report.json").read_text())
    return report, done.stdout + done.stderr


def attempts(store: Path) -> set[int]:
    return {
        len([p for p in record.parent.iterdir() if p.is_dir()])
        for record in (store / "artifacts").glob("*/record.json")
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """Four trials of a real search, undisturbed."""
    store = tmp_path_factory.mktemp("search") / "store"
    return store, *run("small_search", store, "small_search")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.timeout(1200)
def test_trials_share_their_stages_and_the_best_is_told(
    whole: tuple[Path, dict[str, Any], str],
) -> None:
    store, report, told = whole
    search = report["search"]
    assert "best of 4: --set job.midtrain.spec_share=" in told
    made = re.findall(r"^\[(\d+)/(\d+)\] \w+ .* done in", told, re.MULTILINE)
    assert made[-1][0] == made[-1][1] == str(len(made))
    trials = search["trials"]
    assert [t["state"] for t in trials] == ["done"] * 4
    # Two mixtures x two arms, and on each and on the base model two learning rates.
    kinds = search["sharing"]["by_kind"]
    assert kinds["midtrain"] == {"needed": 4, "made": 4, "alone": 8}
    assert kinds["aft"] == {"needed": 10, "made": 10, "alone": 12}
    tokens = search["sharing"]["tokens"]
    assert tokens["made"] == tokens["needed"] < tokens["alone"]
    assert attempts(store) == {1}
    for trial in trials:
        for source, share in trial["mix"].items():
            assert trial["realised"].get(source, 0.0) == pytest.approx(share, abs=0.02)
    best = trials[search["best"]]
    assert best["values"]["separation_soft"]["value"] == max(
        t["values"]["separation_soft"]["value"] for t in trials
    )
    assert [c["number"] for c in search["confirmed"]] == [search["best"]]
    # The rest of the report is the best trial's.
    assert report["effects"]["separation_soft"]["value"] == pytest.approx(
        best["values"]["separation_soft"]["value"]
    )
    assert (store / "runs" / "small_search" / "recommended.py").is_file()


def kill_one(word: str, driver: subprocess.Popen[bytes]) -> bool:
    """kill -9 one process below the driver whose name has ``word`` in it."""
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if word in " ".join(process.cmdline()):
                time.sleep(0.2)  # into its work
                process.kill()
                return True
        except psutil.Error:
            continue
    return False


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.timeout(1800)
def test_a_killed_trainer_engine_and_driver_change_nothing(
    whole: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    _, plain, _ = whole
    store = tmp_path / "store"
    driver = subprocess.Popen(
        command("small_search", store),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 600
    for victim in ("ray::midtrain", "ray::EngineActor"):
        while not kill_one(victim, driver):
            assert driver.poll() is None, f"the search ended before {victim} was there"
            assert time.monotonic() < deadline, f"no {victim} within ten minutes"
            time.sleep(0.02)
    while not any(store.glob("runs/small_search/trials-*/*.json")):
        assert driver.poll() is None, "the search ended before it had a trial"
        assert time.monotonic() < deadline, "no trial within ten minutes"
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    report, told = run("small_search", store, "small_search")
    assert "4 trials, 4 of them have ended" not in told
    mine, theirs = report["search"], plain["search"]
    for key in ("settings", "values", "realised", "state"):
        assert [t[key] for t in mine["trials"]] == [t[key] for t in theirs["trials"]], key
    assert mine["best"] == theirs["best"]
    assert mine["confirmed"] == theirs["confirmed"]
    assert attempts(store) == {1}


@pytest.mark.long  # of instant stages: test_run.py
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.timeout(1200)
def test_a_trial_that_fails_says_why_and_the_search_goes_on(tmp_path: Path) -> None:
    report, told = run("failing_search", tmp_path / "store", "small_search", code=1)
    assert report["complete"] is False
    good, failed = report["search"]["trials"]
    assert report["search"]["best"] == good["number"]
    assert failed["settings"] == {"midtrain.train.learning_rate": 1e30}
    assert "midtrain" in failed["error"]
    assert "loss" in failed["error"]
    assert failed["error"] in told


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.timeout(1200)
def test_a_trial_that_is_worth_it_continues_its_trunk(tmp_path: Path) -> None:
    store = tmp_path / "store"
    report, told = run("halving_search", store, "small_search")
    assert "best of " in told
    assert attempts(store) == {1}
    assert (store / "runs" / "small_search" / "recommended.py").is_file()
    trials = report["search"]["trials"]
    assert trials[0]["state"] == "done"
    assert [len(t["rungs"]) for t in trials if t["state"] == "done"].count(2) >= 1
    for trial in trials:
        steps = [rung["steps"] for rung in trial["rungs"]]
        assert steps == [8, 16][: len(steps)]
        assert (trial["state"] == "stopped") == (len(steps) == 1)
    # Two arms of 16 steps cost what 16 steps and the first rung's two steps of decay cost.
    aft = 2 * 32 * 20  # an upper bound of what the fine-tunings add
    block = 128 * 8
    first = trials[0]
    assert 2 * (16 + 2) * block * 0.98 <= first["tokens"] <= 2 * (16 + 2) * block + 4 * aft


# ---- before anything starts --------------------------------------------------------------------


def micro() -> Search:
    search = load_job(ROOT / "jobs" / "tune_mix_micro.py")
    assert isinstance(search, Search)
    return search


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"objectives": (Objective(Effect("seperation")),)},
            "search: effect 'seperation' is not measured; allowed: separation, ",
        ),
        (
            {"objectives": (Objective(Rate("fact", ("aft",))),)},
            "search: rate 'fact' is not measured; allowed: choice, ",
        ),
        ({"objectives": ()}, "at least one"),
        (
            {"objectives": Objective(Effect("separation"))},
            r"objectives is Objective\(.*; allowed: a tuple of Objective, a single one as \(it,\)",
        ),
        (
            {"constraints": ("price",)},
            "constraints is .*; allowed: a tuple of Constraint, a single",
        ),
        ({"method": "random"}, r"method is 'random'; allowed: a method, such as Random\(trials\)"),
        ({"halving": (100, 200)}, r"halving is \(100, 200\); allowed: Halving"),
        ({"job": "cheese_micro"}, "job is 'cheese_micro'; allowed: a comparison"),
        ({"max_concurrent_trials": "two"}, "max_concurrent_trials is 'two'; allowed"),
        (
            {"constraints": (Constraint(Effect("price_facts_america"), at_least=2.0),)},
            "price_facts_america: at_least 2.0, .* between -1 and 1; no trial could hold it",
        ),
        ({"method": Stratified(4, per_early=9)}, "per_early is 9 and there are 4 trials"),
        ({"halving": Halving((2, 5))}, "with the rungs of halving: .* has to be 'wsd'"),
        (
            {"max_concurrent_trials": 0},
            "max_concurrent_trials is 0; allowed: a whole number from 1",
        ),
        (
            {"space": Space((Real("aft.train.learning_rat", 1e-4, 1e-3),))},
            "no setting 'learning_rat'; did you mean .*aft.train.learning_rate",
        ),
        (
            {"space": Space((Real("midtrain.train.batch_blocks", 1.0, 4.0),))},
            "midtrain.train.batch_blocks is int, a Real gives float; allowed there: Whole",
        ),
        (
            {
                "space": Space(
                    (
                        Mixture(
                            {"spec": "midtrain.spec_share", "chats": "midtrain.chat_share"},
                            rest="replay",
                        ),
                    )
                ),
                "method": Random(4),
            },
            "corpus.documents is 900.* documents at the very least",
        ),
        (
            {"method": Stratified(8, per_early=2, early=("midtrain.tokens",))},
            "early is 'midtrain.tokens'; allowed: ",
        ),
    ],
)
def test_what_cannot_work_is_told_in_one_line(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as told:
        dataclasses.replace(micro(), **change).checked()
    assert "\n" not in str(told.value)


def test_fresh_seeds_are_not_those_of_the_search() -> None:
    with pytest.raises(UserError, match="confirm.seeds has 0, which the search uses itself"):
        apply_settings(micro(), ["confirm.seeds=0,1"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Objective("separation"), "objective: measure is 'separation'; allowed: Effect"),
        (
            lambda: Constraint("facts", at_least=0),
            "constraint: measure is 'facts'; allowed: Effect",
        ),
        (lambda: Confirm(seeds=10), "confirm: seeds is 10; allowed: a tuple of int, a single one"),
        (lambda: Confirm(seeds=(10, 10)), r"confirm: seeds is \(10, 10\); allowed: .* each once"),
        (lambda: Space(Real("a", 0.0, 1.0)), r"space: dimensions is Real\(.*; allowed: a tuple"),
    ],
)
def test_a_part_of_another_kind_is_told_in_one_line(make: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()


def test_a_score_may_be_above_one() -> None:
    Constraint(Rate("open_qa"), at_least=5.0)
    with pytest.raises(UserError, match="between 0 and 1"):
        Constraint(Rate("choice_soft"), at_least=5.0)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("job.midtrain.spec_share=0.1", r"set a part of space\.dimensions\.0 instead"),
        ("job.aft.train.learning_rate=1e-3", r"set a part of space\.dimensions\.1 instead"),
    ],
)
def test_what_the_space_gives_cannot_be_set(setting: str, words: str) -> None:
    with pytest.raises(UserError, match=f"--set {setting.split('=')[0]}: the job varies.*{words}"):
        apply_settings(micro(), [setting])


def test_what_the_space_does_not_give_can_be_set() -> None:
    changed = apply_settings(
        micro(), ["space.dimensions.1.high=1e-3", "job.midtrain.tokens=90000", "method.trials=5"]
    )
    assert changed.space.dimensions[1].high == 1e-3  # type: ignore[union-attr]
    assert changed.job.midtrain.tokens == 90000  # type: ignore[attr-defined]
    assert changed.method.count(changed.space) == 5


def test_identity_is_what_is_tried_and_not_how_often_unless_that_decides_what() -> None:
    search = micro()
    assert search.fingerprint() == micro().fingerprint()

    def by(method: Any) -> str:
        return dataclasses.replace(search, method=method).fingerprint()

    assert by(Random(4)) == by(Random(40)) != by(Stratified(4))
    assert by(Stratified(4)) != by(Stratified(40))
    assert by(Stratified(4, design="sobol")) == by(Stratified(40, design="sobol"))
    small = load_job(ROOT / "tests" / "jobs" / "small_search.py")
    assert isinstance(small, Search)
    assert small.fingerprint() != search.fingerprint()  # a grid has no number of trials
    other = dataclasses.replace(search, max_concurrent_trials=7, confirm=None, title="x")
    assert other.fingerprint() == search.fingerprint()


def test_a_preview_counts_the_gpus_of_as_many_trials_as_run_at_once(tmp_path: Path) -> None:
    def at_once(trials: int) -> float:
        search = Search(
            name="rates",
            title="Which rate?",
            job=load_job(ROOT / "jobs" / "cheese_llama8b.py"),  # type: ignore[arg-type]
            space=Space((Real("aft.train.learning_rate", 1e-5, 1e-4, log=True),)),
            method=Random(6),
            objectives=(Objective(Cost("tokens"), goal="min"),),
            max_concurrent_trials=trials,
        )
        return float(search.preview(str(tmp_path))["gpus"]["at_once"])

    shared = at_once(1)  # midtrainings and what they are asked, once for all
    assert shared < at_once(3) < at_once(6)


def test_a_preview_counts_what_trials_share(tmp_path: Path) -> None:
    counted = micro().preview(str(tmp_path))
    assert counted["trials"]["known"] == 24
    assert counted["trials"]["tokens_alone"] > 3 * counted["trials"]["tokens"]
    rows = {row["kind"]: row for row in counted["stages"]}
    # Six mixtures, two arms; two trials of one mixture again on two seeds.
    assert counted["trials"]["confirmed"] == 2
    assert rows["midtrain"]["count"] == 6 * 2 + 2 * 2
    assert rows["documents"]["count"] == 2
    assert not list(tmp_path.iterdir())
    half = dataclasses.replace(micro(), method=Random(24), confirm=None).preview(str(tmp_path))
    assert {row["kind"]: row for row in half["stages"]}["midtrain"]["count"] == 48
