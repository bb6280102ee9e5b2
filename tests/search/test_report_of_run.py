"""What a run of a search tells when trials have ended and the rest goes wrong; without Ray."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ray.tune.execution import tune_controller
from ray.tune.utils.object_cache import _ObjectCache

from msm_ray.artifact import Store
from msm_ray.errors import UserError
from msm_ray.reports import read_report
from msm_ray.search import tune
from msm_ray.search.halving import Halving
from msm_ray.search.job import Search
from msm_ray.search.methods import Random
from msm_ray.search.objectives import Constraint, Effect, Objective, Rate
from msm_ray.search.plan import Plan
from msm_ray.search.results import again_words, law_words, recommended
from msm_ray.search.run import SearchRun
from msm_ray.search.space import Real, Space
from msm_ray.search.trial import Measurement, measure_rungs, realised, rungs_of
from msm_ray.search.trials import DONE, FAILED, RUNNING, Trial
from msm_ray.settings import apply_settings, load_job

ROOT = Path(__file__).resolve().parents[2]
RATE = Constraint(Rate("choice", ("aft",)), at_most=1.0)


@pytest.fixture
def search() -> Search:
    found = load_job(ROOT / "tests" / "jobs" / "instant_search.py")
    assert isinstance(found, Search)
    return dataclasses.replace(found, method=Random(3))


def no_launcher() -> Any:
    raise AssertionError("every stage of this job runs here")


def run_trials_here(search: Search, store: Path) -> Plan:
    """All trials, as Tune would run them."""
    plan = SearchRun(search, str(store)).plan
    opened = Store(str(store))
    while (trial := plan.next()) is not None:
        (found,) = measure_rungs(
            search.job, trial.settings, (), search.measures, opened, no_launcher, 1
        )
        plan.ended(trial.number, DONE, values=found.values, path=found.path, made=found.made)
    return plan


def test_a_trial_that_fails_on_fresh_seeds_is_told_and_the_rest_is_reported(
    search: Search, tmp_path: Path
) -> None:
    run_trials_here(search, tmp_path)
    fails = apply_settings(search, ["job.fails=0.0"])  # from now on every fine-tuning does
    result = SearchRun(fails, str(tmp_path)).all(None)
    assert not result.complete
    assert result.report["search"]["confirmed"] == []
    assert len(result.report["problems"]) == 2
    assert "was not confirmed on seeds [5, 6]: stage aft" in result.report["problems"][0]
    assert [t["state"] for t in result.report["search"]["trials"]] == ["done"] * 3
    again = SearchRun(search, str(tmp_path)).all(None)
    assert again.complete
    assert len(again.report["search"]["confirmed"]) == 2


def test_a_search_that_cannot_go_on_reports_what_it_has(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_trials_here(search, tmp_path)
    longer = dataclasses.replace(search, method=Random(5))
    run = SearchRun(longer, str(tmp_path))

    def stopped(*_: Any) -> None:
        raise UserError("the law has too few trials")

    monkeypatch.setattr(run, "_trials", stopped)
    monkeypatch.setattr("msm_ray.search.run.launcher_for", NoCluster)
    with pytest.raises(UserError, match="too few trials"):
        run.all(None)
    report = read_report(Store(str(tmp_path)), f"runs/{search.name}")
    assert report["complete"] is False
    assert report["problems"][0] == "the law has too few trials"
    states = [t["state"] for t in report["search"]["trials"]]
    assert states == ["done"] * 3 + ["missing"] * 2


class NoCluster:
    """In the place of a launcher: every stage runs here."""

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> tuple[None, int]:
        return None, 1

    def __exit__(self, *_: object) -> None:
        pass


def test_what_is_measured_is_part_of_a_searchs_identity_and_bounds_are_not(search: Search) -> None:
    plain = dataclasses.replace(search, objectives=(Objective(Effect("gain")),))
    measured = dataclasses.replace(plain, constraints=(RATE,))
    looser = dataclasses.replace(plain, constraints=(dataclasses.replace(RATE, at_most=0.5),))
    assert plain.fingerprint() != measured.fingerprint() == looser.fingerprint()
    of_known = dataclasses.replace(plain, constraints=(Constraint(Effect("gain"), at_least=0.0),))
    assert of_known.fingerprint() == plain.fingerprint()


def test_what_halving_says_cannot_be_varied(search: Search) -> None:
    with pytest.raises(
        UserError, match="midtrain.tokens is 20000, and the rungs of halving say it"
    ):
        rungs_of(search.job, {"midtrain.tokens": 20_000}, Halving((10, 20)).rungs)


def test_a_job_without_seeds_cannot_be_confirmed(search: Search) -> None:
    @dataclasses.dataclass(frozen=True)
    class Seedless:
        name: str = "seedless"
        rate: float = 0.5

        def comparison(self) -> None:
            """Nobody comes so far."""

    with pytest.raises(UserError, match="no setting 'seeds'"):
        dataclasses.replace(
            search,
            job=Seedless(),  # type: ignore[arg-type]
            space=Space((Real("rate", 0.1, 0.9),)),
        )


def test_a_branch_realised_what_it_has_read() -> None:
    blocks = {"shares": {"spec": 0.5, "replay": 0.5}}
    assert realised({}, blocks) == blocks["shares"]
    assert realised({"read": {"spec": 30, "replay": 10}}, blocks) == {"spec": 0.75, "replay": 0.25}
    assert realised({}, {}) == {}


# ---- what Tune is given ------------------------------------------------------------------------


def test_a_trial_reads_relative_paths_below_the_drivers_folder(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, folder = tmp_path / "of_tune", tmp_path / "of_driver"
    elsewhere.mkdir()
    folder.mkdir()
    monkeypatch.chdir(elsewhere)
    seen: list[str] = []

    def measured(*_: Any) -> list[Measurement]:
        seen.append(os.getcwd())
        return []

    monkeypatch.setattr(tune, "measure_rungs", measured)
    for where, place in ((folder, folder), (tmp_path / "on_another_machine", folder)):
        work = tune.Work(search.job, (), (), str(tmp_path / "store"), 1, str(where))
        tune.trial({"number": 0, "settings": "{}"}, work)
        assert Path(seen[-1]) == place


class Told:
    """A Trial of Tune's, as far as the scheduler looks at it."""

    def __init__(self, number: int) -> None:
        self.config = {"number": number}


def measurement() -> str:
    gain = {"gain": {"value": 0.5, "ci95": None}, "choice (aft)": {"value": 0.5, "ci95": None}}
    return json.dumps(dataclasses.asdict(Measurement(gain, 1, 1, [], [], {}, 0.0)))


def test_a_lost_trial_comes_again_so_often_and_then_has_failed(
    search: Search, tmp_path: Path
) -> None:
    plan = SearchRun(search, str(tmp_path)).plan
    ended: list[Trial] = []
    lost: list[int] = []
    asks = tune.Asks(plan, ended.append, lost.append, 2)
    first, other = asks.suggest("a"), asks.suggest("b")
    assert isinstance(first, dict)
    assert isinstance(other, dict)
    for id in ("a", "a1", "a2"):
        assert ended == []
        asks.on_trial_complete(id, error=True)
        if id != "a2":
            assert asks.suggest(f"a{len(lost)}") == first
    assert lost == [0, 0]
    assert [(t.number, t.state) for t in ended] == [(0, "failed")]
    assert ended[0].error == "its process was lost again and again; Ray's logs say why"
    asks.on_trial_complete("b", error=True)
    assert asks.suggest("b1") == other  # of which the other's losses say nothing
    assert plan.left == 2


def test_nobody_is_told_that_it_is_over_while_a_trial_may_come_again(
    search: Search, tmp_path: Path
) -> None:
    plan = SearchRun(search, str(tmp_path)).plan
    asks = tune.Asks(plan, lambda trial: None, lambda number: None, 2)
    for number in range(3):
        assert isinstance(asks.suggest(str(number)), dict)
    for number in range(2):
        asks.on_trial_complete(str(number), {"found": measurement()})
    assert asks.suggest("more") is None
    asks.on_trial_complete("2", error=True)
    assert isinstance(asks.suggest("again"), dict)
    asks.on_trial_complete("again", {"found": measurement()})
    assert asks.suggest("end") == "FINISHED"


def test_the_pinned_tune_has_what_keeps_its_processes() -> None:
    """Were one of them renamed, setting it would do nothing, and nobody would say so."""
    source = inspect.getsource(tune_controller.TuneController)
    assert "self._actor_cache = _ObjectCache(" in source
    assert "for resource in self._resources_to_pending_trials" in source
    assert hasattr(_ObjectCache, "increase_max")


def test_what_was_run_again_and_misses_a_constraint_is_said(search: Search) -> None:
    gain = {"gain": {"value": 0.5, "ci95": None}}
    one = {"number": 4, "seeds": [5, 6], "values": gain, "claimed": gain, "missed": []}
    assert again_words(one) == "trial 4 on seeds 5, 6: gain 0.500"
    missing = {**one, "missed": ["price"]}
    assert again_words(missing).endswith("gain 0.500; there it misses price")
    for again, how in (
        ([], "of instant_search, not confirmed on fresh seeds."),
        ([one], "the best trial of instant_search."),
        ([missing], "of instant_search, which on fresh seeds missed price."),
    ):
        _, source = recommended(search, search.job, {"best": 4, "confirmed": again})
        assert how in source.split('"""')[1].replace("\n", " ")


def test_a_store_that_fails_ends_the_search_with_its_words(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = SearchRun(search, str(tmp_path)).plan
    ended: list[Trial] = []
    lost: list[int] = []
    asks = tune.Asks(plan, ended.append, lost.append, 1)
    rungs = tune.Rungs(asks, 2)
    assert isinstance(asks.suggest("a"), dict)
    assert isinstance(asks.suggest("b"), dict)
    assert isinstance(asks.suggest("c"), dict)
    assert rungs.on_trial_result(None, Told(2), {"found": measurement()}) == "CONTINUE"

    def full(trial: Trial) -> None:
        raise UserError("is full")

    with monkeypatch.context() as broken:
        broken.setattr(plan.journal, "write", full)
        assert rungs.on_trial_result(None, Told(0), {"found": measurement()}) == "STOP"
        asks.on_trial_complete("b", {"error": "StageFailed: no space left"})
    asks.on_trial_complete("a", {"found": measurement()})
    asks.on_trial_complete("c", {"found": measurement()})
    assert asks.suggest("d") == "FINISHED"
    assert str(asks.failure) == "is full"
    assert [t.number for t in ended] == [2]  # the others come again
    later = SearchRun(search, str(tmp_path)).plan
    assert {n: t.state for n, t in later.trials.items()} == {0: RUNNING, 1: RUNNING, 2: DONE}
    assert later.left == 2


def test_a_trial_that_failed_is_shown_only_where_no_other_is(
    search: Search, tmp_path: Path
) -> None:
    run = SearchRun(search, str(tmp_path))
    for number in range(3):
        run.plan.next()
        run.plan.ended(number, FAILED if number != 1 else DONE, error="x")
    assert run._shown([]).number == 1
    run.plan.trials[1].state = FAILED
    assert run._shown([]).number == 0


def test_a_law_that_predicts_nothing_is_told() -> None:
    def law(r2: float | None) -> dict[str, Any]:
        return {"surrogate": "quadratic", "cv": {"quadratic": {"r2": r2}, "boosted": {"r2": 0.9}}}

    assert law_words(law(-0.19)) == (
        "the law (quadratic) predicts trials it has not seen no better than their mean (R2 -0.19):"
        " take its mixtures as random ones"
    )
    assert law_words(law(0.0))
    assert law_words(law(0.4)) == law_words(law(None)) == law_words(None) == ""
