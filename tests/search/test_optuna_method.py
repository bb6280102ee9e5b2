"""Optuna's samplers: the same after a crash, told what happened, silent, and better than chance."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import optuna
import pytest

from msm_ray.errors import UserError
from msm_ray.search import optuna_method
from msm_ray.search.methods import Random, Seen
from msm_ray.search.optuna_method import History, Optuna
from msm_ray.search.space import Among, Mixture, Real, Space

SPACE = Space(
    (
        Mixture({"spec": "m.spec", "chats": "m.chats"}, rest="replay"),
        Real("aft.lr", 1e-5, 1e-3, log=True),
        Among("aft.kind", ("a", "b", "c")),
    )
)


def values(point: dict[str, float], objectives: int) -> tuple[float, ...]:
    s = SPACE.settings(point)
    peak = -abs(s["m.spec"] - 0.7) - abs(s["m.chats"] - 0.1) - 0.2 * (s["aft.kind"] != "b")
    return (peak, -s["m.spec"], math.log(s["aft.lr"]))[:objectives]


def search(
    method: Any, trials: int, objectives: int = 1, width: int = 3, fresh: bool = False
) -> list[Seen]:
    """A search with ``width`` trials at a time; each fifth is stopped, each seventh fails."""
    seen: list[Seen] = []
    for number in range(trials):
        if fresh:  # as after a crash: nothing is known but what was seen
            optuna_method._history.cache_clear()
        found = method.suggest(SPACE, number, list(seen), 1)
        seen.append(Seen(number, found.point, "running", memory=dict(found.memory)))
        if number >= width - 1:
            i = number - width + 1
            got = values(seen[i].point, objectives)
            state: Any = "stopped" if i % 5 == 4 else "failed" if i % 7 == 6 else "done"
            rungs = ((10, got[0] - 0.1), (20, got[0])) if objectives == 1 else ()
            seen[i] = replace(
                seen[i], state=state, rungs=rungs, values=None if state == "failed" else got
            )
    return seen


@pytest.mark.parametrize(
    ("sampler", "objectives"), [("tpe", 1), ("tpe", 2), ("nsga2", 2), ("nsga2", 3)]
)
def test_a_search_that_crashes_at_every_trial_is_the_same_search(
    sampler: Any, objectives: int
) -> None:
    method = Optuna(40, sampler, startup=6, population=6, per_early=2)
    whole = search(method, 40, objectives)
    assert search(method, 40, objectives, fresh=True) == whole
    assert all(0 <= u <= 1 for s in whole for u in s.point.values())
    assert all(tuple(s.point) == SPACE.coordinates for s in whole)


def test_gaussian_process_is_the_same_after_a_crash() -> None:
    method = Optuna(9, "gp", startup=3)
    whole = search(method, 6, width=2)
    assert search(method, 6, width=2, fresh=True) == whole


def test_suggestion_depends_on_seed_number_and_seen() -> None:
    method = Optuna(30, startup=5)
    seen = search(method, 20)
    first = method.suggest(SPACE, 20, seen, 1)
    assert method.suggest(SPACE, 20, list(reversed(seen)), 1) == first
    assert method.suggest(SPACE, 20, seen, 2).point != first.point
    assert method.suggest(SPACE, 21, seen, 1).point != first.point
    assert method.suggest(SPACE, 20, seen[:15], 1).point != first.point


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_later_trials_are_better_than_random_ones(sampler: Any) -> None:
    def late(method: Any) -> float:
        done = [s.values[0] for s in search(method, 60)[30:] if s.state == "done" and s.values]
        return sum(done) / len(done)

    assert late(Optuna(60, sampler, population=8)) > late(Random(60)) + 0.1


def test_groups_have_their_early_coordinates_in_common() -> None:
    seen = search(Optuna(24, startup=6, per_early=4), 24)
    for group in (seen[i : i + 4] for i in range(0, 24, 4)):
        assert len({tuple(s.point[f"mix.{x}"] for x in ("spec", "chats")) for s in group}) == 1
        assert len({s.point["aft.lr"] for s in group}) == 4


def test_trials_of_other_methods_are_used() -> None:
    # Good trials at one place, poor ones elsewhere: what TPE suggests is near the good ones.
    seen = []
    for number in range(40):
        point = Random(40).suggest(SPACE, number, [], 0).point
        near = number % 4 == 0
        point["aft.lr"] = 0.9 + point["aft.lr"] / 20 if near else point["aft.lr"] * 0.8
        seen.append(Seen(number, point, "done", (1.0 if near else 0.0,), phase="swarm"))
    method = Optuna(100, startup=8)
    found = [method.suggest(SPACE, n, seen, 0).point["aft.lr"] for n in range(40, 60)]
    assert sum(u > 0.85 for u in found) >= 10  # by chance 3


def test_constraints_keep_suggestions_feasible() -> None:
    seen = []
    for number in range(60):
        point = Random(60).suggest(SPACE, number, [], 0).point
        u = point["aft.lr"]  # the best values are infeasible
        seen.append(Seen(number, point, "done", (u,), violations=(max(0.0, u - 0.5),)))
    method = Optuna(100, startup=8)
    found = [method.suggest(SPACE, n, seen, 0).point["aft.lr"] for n in range(60, 80)]
    assert sum(u < 0.55 for u in found) >= 15


def test_what_optuna_is_told() -> None:
    point = Random(1).suggest(SPACE, 0, [], 0).point
    told = [
        Seen(0, point, "done", (1.0,), violations=(0.0,)),
        Seen(1, point, "stopped", (0.5,), ((10, 0.4), (20, 0.5))),
        Seen(2, point, "failed"),
        Seen(3, point, "running", memory={"generation": 2}),
        Seen(4, point, "done", (math.nan,), violations=(0.0,)),
        Seen(5, point, "done", (1.0,)),  # its constraint is not known
    ]
    states = optuna.trial.TrialState
    expected = [states.COMPLETE, states.PRUNED, states.FAIL, states.RUNNING] + [states.FAIL] * 2
    history = History(1, 1)
    history.tell(SPACE, told)
    trials = history._study.trials
    assert [t.state for t in trials] == expected
    assert trials[0].constraints == {"c0": 0.0}
    assert trials[1].intermediate_values == {10: 0.4, 20: 0.5}
    assert trials[3].system_attrs["NSGAIISampler:generation"] == 2
    # The same when each was seen running before.
    history = History(1, 1)
    history.tell(SPACE, [replace(s, state="running", values=None, rungs=()) for s in told])
    history.tell(SPACE, told)
    assert [t.state for t in history._study.trials] == expected
    assert history._study.trials[1].intermediate_values == {10: 0.4, 20: 0.5}
    assert history._study.trials[0].constraints == {"c0": 0.0}


def test_a_study_holds_each_trial_once(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    begin = History._begin
    monkeypatch.setattr(History, "_begin", lambda self: (begun.append(1), begin(self)))
    optuna_method._history.cache_clear()
    method = Optuna(30, startup=5)
    seen = search(method, 30)
    method.suggest(SPACE, 30, seen, 1)
    history = optuna_method._history(repr(SPACE), "tpe", 1, 0)
    assert len(history._study.trials) == 31
    assert len(begun) <= 2  # with the first suggestion, and where the number of values is known


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    search(Optuna(12, startup=3), 12, fresh=True)
    search(Optuna(12, "nsga2", startup=3, population=4), 12, objectives=2, fresh=True)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Optuna(10, "cma"), "sampler is 'cma'; allowed: 'tpe', 'gp', 'nsga2'"),  # type: ignore[arg-type]
        (lambda: Optuna(0), "trials is 0"),
        (lambda: Optuna(10, startup=0), "startup is 0"),
        (lambda: Optuna(8), "trials is 8 and the first 8 .* learn from none; .* from 1 to 7"),
        (lambda: Optuna(10, population=1), "population is 1; allowed: a whole number from 2"),
        (lambda: Optuna(10, early=("x",)).check(SPACE, None), "early is 'x'; allowed: m.spec"),
    ],
)
def test_wrong_input_is_one_clear_line(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
