"""Measures, constraints and the choice among trials."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.errors import UserError
from msm_ray.search.methods import State
from msm_ray.search.objectives import (
    Constraint,
    Cost,
    Effect,
    Objective,
    Rate,
    check_known,
    feasible,
    front,
    oriented,
)
from msm_ray.search.results import ranked
from msm_ray.search.trials import Trial

REPORT = {
    "effects": {"separation": {"value": 0.5, "ci95": [0.4, 0.7], "verdict": "yes"}},
    "arms": {
        "aft": {"evals": {"facts": {"rate": 0.99, "ci95": [0.9, 1.0]}}},
        "msm:a+aft": {"evals": {"facts": {"rate": 0.8, "ci95": [0.77, 0.84]}}},
        "msm:b+aft": {"evals": {"facts": {"rate": 0.6, "ci95": [0.56, 0.63]}}},
    },
    "cost": {"tokens": 1000, "device_seconds": 12.5},
}


def test_measures_of_a_report() -> None:
    assert Effect("separation").of(REPORT) == {"value": 0.5, "ci95": [0.4, 0.7]}
    assert Cost("tokens").of(REPORT) == {"value": 1000.0, "ci95": [1000.0, 1000.0]}
    assert Rate("facts", ("aft",)).of(REPORT) == {"value": 0.99, "ci95": [0.9, 1.0]}
    mean = Rate("facts").of(REPORT)
    assert mean["value"] == pytest.approx(0.7)
    # Half widths .03 and .04 below, .04 and .03 above, as independent: .05 / 2 each.
    assert mean["ci95"] == pytest.approx([0.675, 0.725])


def test_names_for_the_report() -> None:
    measures = [Effect("separation"), Rate("facts"), Rate("facts", ("aft",)), Cost("tokens")]
    assert [m.name for m in measures] == ["separation", "facts", "facts (aft)", "tokens"]


def test_a_missing_interval_stays_missing() -> None:
    arms = {"msm:a+aft": {"evals": {"facts": {"rate": 0.5, "ci95": [0.4, math.nan]}}}}
    assert Rate("facts").of({"arms": arms}) == {"value": 0.5, "ci95": None}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Effect("sep").of(REPORT), "sep was not measured; effects are separation"),
        (lambda: Rate("choice").of(REPORT), "choice was not measured; arm msm:a\\+aft has none"),
        (lambda: Rate("facts", ("x",)).of(REPORT), "arm x has none"),
        (lambda: Cost("tokens").of({"cost": {}}), "costs are none"),
        (lambda: Cost("money"), "cost 'money' is not measured; allowed: tokens, device_seconds"),
        (lambda: Rate("facts", ("aft", "aft")), "arm twice"),
        (lambda: Objective(Effect("a"), goal="up"), "goal is 'up'; allowed: 'max', 'min'"),
        (lambda: Constraint(Effect("a")), "no bound is given"),
        (lambda: Constraint(Effect("a"), at_least=math.nan), "finite"),
        (lambda: Constraint(Effect("a"), at_least=1, at_most=0), "no trial could hold it"),
        (lambda: Constraint(Rate("facts"), at_least=1.01), "no trial could hold it"),
        (lambda: Constraint(Rate("facts"), at_most=-0.1), "no trial could hold it"),
        (lambda: Constraint(Cost("tokens"), at_most=-1), "no trial could hold it"),
        (lambda: check([]), "no objective is given"),
        (lambda: check([Objective(Effect("x"))]), "effect 'x' is not measured; allowed: sep, fac"),
        (lambda: check([Objective(Rate("x"))]), "rate 'x' is not measured; allowed: choice, loss"),
        (
            lambda: check([Objective(Rate("loss", ("aft", "x")))]),
            "rate 'loss' of arm 'x' is not measured; allowed: aft, msm:a\\+aft",
        ),
        (lambda: check([Objective(Effect("sep"))] * 2), "objectives name sep twice"),
        (
            lambda: check([Objective(Effect("sep"))], [Constraint(Effect("fac"), at_most=-1.5)]),
            "fac: at_least None, at_most -1.5, and it lies between -1 and 1",
        ),
        (
            lambda: check([Objective(Effect("sep"))], [Constraint(Effect("y"), 0)]),
            "effect 'y' is not measured",
        ),
    ],
)
def test_wrong_input_is_one_clear_line(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def check(objectives: list[Objective], constraints: Any = ()) -> None:
    effects = dict.fromkeys(("sep", "fac"), ("choice", "msm:a+aft", "aft"))
    check_known(objectives, constraints, effects, ["choice", "loss"], ["aft", "msm:a+aft"])


def test_what_is_measured_is_accepted() -> None:
    check(
        [Objective(Effect("sep")), Objective(Rate("loss"), "min"), Objective(Cost("tokens"))],
        [Constraint(Effect("sep"), -0.02), Constraint(Rate("loss", ("aft",)), at_most=1.5)],
    )


@given(st.floats(-2, 2), st.floats(-1, 1), st.floats(0, 1))
def test_constraints_hold_within_their_ends(value: float, low: float, width: float) -> None:
    constraint = Constraint(Effect("a"), at_least=low, at_most=low + width)
    assert constraint.holds(value) == (low <= value <= low + width)
    assert constraint.holds(low)
    assert constraint.holds(low + width)
    assert (constraint.missed_by(value) > 0) == (not constraint.holds(value))
    assert not constraint.holds(math.nan)


def measured(**values: float) -> dict[str, Any]:
    return {name: {"value": v, "ci95": None} for name, v in values.items()}


def test_best_is_the_first_objective_among_the_feasible() -> None:
    sep, loss = Objective(Effect("sep")), Objective(Effect("loss"), "min")
    limit = Constraint(Effect("loss"), at_most=1.0)
    rows = [
        measured(sep=0.9, loss=1.5),
        measured(sep=0.5, loss=0.9),
        measured(sep=0.5, loss=0.1),
        measured(sep=math.nan, loss=0.1),
        measured(sep=0.8),
        measured(sep=0.7, loss=0.5),
    ]
    states: list[State] = ["done", "done", "done", "done", "done", "stopped"]
    trials = {
        i: Trial(i, {}, {}, state=s, values=v)
        for i, (s, v) in enumerate(zip(states, rows, strict=True))
    }
    trials[6] = Trial(6, {}, {}, phase="swarm", state="done", values=measured(sep=1.0, loss=0.0))

    def best(objective: Objective, *constraints: Constraint) -> int | None:
        search: Any = SimpleNamespace(objectives=(objective,), constraints=constraints)
        return next((trial.number for trial in ranked(search, trials)), None)

    assert best(sep) == 0
    assert best(sep, limit) == 1  # a tie goes to the earlier
    assert best(sep, Constraint(Effect("loss"), at_most=0.0)) is None
    del trials[4]
    assert best(loss, limit) == 2
    assert [feasible(v, [limit]) for v in rows[:5]] == [False, True, True, True, None]
    assert oriented(rows[0], [sep, loss]) == (0.9, -1.5)
    assert oriented(rows[4], [sep, loss]) is None


few = st.one_of(st.integers(0, 4).map(float), st.just(math.nan))


@given(st.integers(1, 3).flatmap(lambda k: st.lists(st.tuples(*[few] * k), max_size=30)))
def test_front_is_what_nothing_dominates(values: list[tuple[float, ...]]) -> None:
    usable = [v for v in values if not any(map(math.isnan, v))]
    expected = [
        i
        for i, v in enumerate(values)
        if v in usable
        and not any(all(a >= b for a, b in zip(w, v, strict=True)) and w != v for w in usable)
    ]
    assert front(values) == expected


def test_front_leaves_out_what_was_not_measured() -> None:
    assert front([None, (1.0, 2.0), (math.inf, 3.0), (2.0, 1.0), (1.0, 1.0)]) == [1, 3]
    assert front([]) == []
