"""Which trial comes next, after a kill too: the plan and its journal, without Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.artifact import Store
from msm_ray.errors import UserError
from msm_ray.search.halving import Halving
from msm_ray.search.methods import Method, Random, Stratified
from msm_ray.search.objectives import Constraint, Effect, Objective
from msm_ray.search.optuna_method import Optuna
from msm_ray.search.plan import Plan
from msm_ray.search.space import Mixture, Real, Space
from msm_ray.search.trials import DONE, FAILED, RUNNING, STOPPED, Journal, Trial

SPACE = Space(
    (Mixture({"spec": "mid.spec"}, rest="replay"), Real("aft.rate", 1e-4, 1e-2, log=True))
)
GAIN = (Objective(Effect("gain")),)
LOSS = (Constraint(Effect("price"), at_least=-0.1),)


def plan(folder: Path, method: Method, halving: Halving | None = None) -> Plan:
    journal = Journal(Store(str(folder)), "search", "0" * 16)
    return Plan(method, SPACE, GAIN, LOSS, 3, journal, halving)


def found(gain: float, price: float = 0.0) -> dict[str, dict[str, object]]:
    return {
        "gain": {"value": gain, "ci95": [gain - 0.1, gain + 0.1]},
        "price": {"value": price, "ci95": None},
    }


def gain_of(trial: Trial) -> float:
    return -((trial.settings["mid.spec"] - 0.4) ** 2)


def run_all(of: Plan, kill_after: int = 10**9) -> None:
    """Ask and tell, two trials at a time, as a driver does that is killed at some point."""
    out: list[Trial] = []
    ended = 0
    while of.left:
        while len(out) < 2 and (trial := of.next()) is not None:
            out.append(trial)
        if ended >= kill_after:
            return
        trial = out.pop(0)
        of.ended(trial.number, DONE, values=found(gain_of(trial)), seconds=1.0)
        ended += 1


@pytest.mark.parametrize(
    "method", [Random(12), Stratified(12, per_early=3), Optuna(12, startup=4)], ids=lambda m: m.name
)
@pytest.mark.parametrize("kill_after", [0, 1, 5, 11])
def test_a_killed_search_goes_on_with_the_same_trials(
    tmp_path: Path, method: Method, kill_after: int
) -> None:
    whole = plan(tmp_path / "whole", method)
    run_all(whole)
    run_all(plan(tmp_path / "killed", method), kill_after)
    second = plan(tmp_path / "killed", method)
    before = {n: t.settings for n, t in second.trials.items()}
    assert len(before) >= min(kill_after, 12)
    run_all(second)
    after = {n: t.settings for n, t in second.trials.items()}
    assert sorted(after) == list(range(12))
    assert before.items() <= after.items()
    if method.independent(11):  # the others' results decide nothing
        assert after == {n: t.settings for n, t in whole.trials.items()}
    again = plan(tmp_path / "killed", method)
    assert again.left == 0
    assert again.next() is None
    assert again.trials == second.trials


def test_what_was_handed_out_comes_first_again_and_so_does_what_failed(tmp_path: Path) -> None:
    first = plan(tmp_path, Random(5))
    handed = [first.next() for _ in range(3)]
    assert handed[0] is not None
    first.ended(0, DONE, values=found(0.5))
    first.ended(1, FAILED, error="no space left")
    second = plan(tmp_path, Random(5))
    assert second.left == 4
    assert second.trials[1].error == ""
    assert [t.settings for t in (second.next(), second.next()) if t] == [
        t.settings for t in handed[1:] if t
    ]
    assert second.next().number == 3  # type: ignore[union-attr]


def test_a_trial_whose_process_is_lost_is_the_next_and_the_same(tmp_path: Path) -> None:
    of = plan(tmp_path, Random(3))
    first, second = of.next(), of.next()
    assert first is not None
    assert second is not None
    of.lost(first.number)
    again = of.next()
    assert again is not None
    assert (again.number, again.settings) == (first.number, first.settings)
    assert of.left == 3
    following = of.next()
    assert following is not None
    assert following.number == 2
    assert of.next() is None


def test_more_trials_go_on_and_fewer_leave_the_rest_alone(tmp_path: Path) -> None:
    run_all(plan(tmp_path, Random(3)))
    longer = plan(tmp_path, Random(5))
    assert longer.left == 2
    run_all(longer)
    assert plan(tmp_path, Random(2)).left == 0
    assert len(Journal(Store(str(tmp_path)), "search", "0" * 16).read()) == 5


def test_known_trials_are_those_that_hang_on_no_result(tmp_path: Path) -> None:
    assert len(plan(tmp_path, Random(7)).known()) == 7
    adapting = plan(tmp_path, Optuna(7, startup=4))
    known = adapting.known()
    assert len(known) == 4
    assert [adapting.next().settings for _ in range(4)] == known  # type: ignore[union-attr]
    # The journal has those now: whoever comes next asks for them again.
    assert plan(tmp_path, Optuna(7, startup=4)).known() == known


def test_a_trial_goes_on_while_it_is_among_the_best_of_its_rung(tmp_path: Path) -> None:
    of = plan(tmp_path, Random(4), Halving((10, 20), keep=0.5))
    for _ in range(3):
        of.next()
    values = {0: 0.1, 1: 0.5, 2: 0.3}
    went = {
        n: of.goes_on(n, {"steps": 10, "tokens": 100, "value": value})
        for n, value in values.items()
    }
    assert went == {0: True, 1: True, 2: False}
    of.ended(2, STOPPED, values=found(0.3))
    kept = Journal(Store(str(tmp_path)), "search", "0" * 16).read()
    assert kept[2].state == STOPPED
    assert kept[2].rungs == [{"steps": 10, "tokens": 100, "value": 0.3}]
    assert kept[1].state == RUNNING
    # A driver that comes later judges by the rungs that the earlier one saw.
    later = plan(tmp_path, Random(4), Halving((10, 20), keep=0.5))
    assert later.next().number == 0  # type: ignore[union-attr]
    assert not later.goes_on(0, {"steps": 10, "tokens": 100, "value": 0.2})


def test_a_trial_that_began_again_keeps_what_was_decided_of_its_rungs(tmp_path: Path) -> None:
    of = plan(tmp_path, Random(4), Halving((10, 20, 40), keep=0.5))
    for _ in range(3):
        of.next()

    def reach(number: int, steps: int, value: float) -> bool:
        return of.goes_on(number, {"steps": steps, "tokens": steps, "value": value})

    assert reach(0, 10, 0.1)
    assert reach(0, 20, 0.2)
    assert reach(1, 10, 0.5)
    assert reach(2, 10, 0.6)
    # Its process was lost: by now others are better at its first rung.
    assert reach(0, 10, 0.1)
    assert [r["steps"] for r in of.trials[0].rungs] == [10, 20]


def test_settings_that_were_found_by_others_are_not_known_beforehand(tmp_path: Path) -> None:
    method = Optuna(4, startup=2)
    first = plan(tmp_path, method)
    for number in range(2):
        first.next()
        first.ended(number, DONE, values=found(0.1 * number))
    handed = first.next()
    assert handed is not None
    second = plan(tmp_path, method)
    assert second.known() == []  # it may be none that the job can be given: that is its own failure
    assert second.next().settings == handed.settings  # type: ignore[union-attr]


def test_a_method_that_waits_for_nobody_is_told_as_a_fault(tmp_path: Path) -> None:
    class Waits(Random):
        def suggest(self, *_: object) -> None:  # type: ignore[override]
            return None

    with pytest.raises(RuntimeError, match="trial 0 waits for others, and none is running"):
        plan(tmp_path, Waits(3)).next()


@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    state=st.sampled_from([RUNNING, DONE, STOPPED, FAILED]),
)
def test_a_trial_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], state: str
) -> None:
    trial = Trial(
        number=7,
        point={"x": 0.25},
        settings={"a.b": 3, "c": (1, 2)},
        state=state,  # type: ignore[arg-type]
        values={f"v{i}": {"value": v, "ci95": None} for i, v in enumerate(values)},
    )
    journal = Journal(Store(str(tmp_path_factory.mktemp("s"))), "n", "f")
    journal.write(trial)
    # A tuple comes back as a list; as the text of a setting both are the same.
    trial.settings["c"] = [1, 2]
    assert journal.read() == {7: trial}


def test_methods_see_objectives_that_are_the_larger_the_better() -> None:
    objectives = (Objective(Effect("loss"), "min"), Objective(Effect("gain")))
    trial = Trial(0, {"x": 0.5}, {}, state=DONE, values={**found(0.5, -0.3)})
    trial.values["loss"] = {"value": 2.0, "ci95": None}
    seen = trial.seen(objectives, LOSS)
    assert seen.values == (-2.0, 0.5)
    assert seen.violations == pytest.approx((0.2,))
    trial.state = RUNNING
    assert trial.seen(objectives, LOSS).values is None


def test_a_trial_whose_file_is_gone_is_asked_for_again(tmp_path: Path) -> None:
    run_all(plan(tmp_path, Random(4)))
    whole = plan(tmp_path, Random(4)).trials
    (gone,) = tmp_path.glob("runs/search/trials-*/00001.json")
    gone.unlink()
    again = plan(tmp_path, Random(4))
    assert again.left == 1
    assert again.known() == [whole[1].settings]
    run_all(again)
    assert plan(tmp_path, Random(4)).trials == {n: whole[n] for n in (0, 2, 3)} | {1: whole[1]}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"number": 1, "wat": 2}', '{"number": 2, "point": {}, "settings": {}}'],
)
def test_a_file_that_is_no_trial_is_named_with_what_to_do(tmp_path: Path, text: str) -> None:
    run_all(plan(tmp_path, Random(4)))
    (file,) = tmp_path.glob("runs/search/trials-*/00001.json")
    file.write_text(text)
    with pytest.raises(UserError, match=r"00001.json is no trial of this search .*; remove it"):
        plan(tmp_path, Random(4))
