from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_ray.errors import UserError
from msm_ray.evaluate.intervals import wilson
from msm_ray.evaluate.sampling import Rule, Tally, decide, expect, plan_next

RULE = Rule(target=0.06)
rules = st.builds(
    Rule,
    target=st.floats(0.03, 0.3),
    cap=st.integers(60, 400),
    batch=st.integers(1, 50),
    minimum=st.integers(1, 60),
)


def test_a_cell_without_rollouts_starts_with_the_minimum() -> None:
    decision = decide((0, 0), RULE)
    assert (decision.status, decision.more) == ("sampling", RULE.minimum)
    assert math.isnan(decision.rate)
    assert (decision.low, decision.high) == (0, 1)


def test_a_cell_stops_as_soon_as_wilson_is_narrow_enough() -> None:
    first = next(n for n in range(RULE.minimum, 400) if _half(n // 10, n) <= RULE.target)
    assert decide((first // 10, first), RULE).status == "narrow enough"
    before = decide(((first - 1) // 10, first - 1), RULE)
    assert before.status == "sampling"
    assert decide((0, RULE.minimum - 1), RULE).status == "sampling"


def _half(successes: int, n: int) -> float:
    low, high = wilson(successes, n)
    return (high - low) / 2


@given(rules, st.floats(0, 1), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_every_cell_ends_and_says_why(rule: Rule, rate: float, coin: random.Random) -> None:
    tally = Tally(0, 0)
    while more := plan_next({"cell": tally}, rule):
        seen = sum(coin.random() < rate for _ in range(more["cell"]))
        tally = Tally(tally.successes + seen, tally.n + more["cell"])
    decision = decide(tally, rule)
    assert decision.n <= rule.cap
    if decision.status == "narrow enough":
        assert decision.half_width <= rule.target
        assert decision.n >= rule.minimum
    else:
        assert decision.status == "cap"
        assert decision.n == rule.cap
        assert decision.half_width > rule.target


def test_rollouts_that_cannot_be_scored_count_towards_the_cap() -> None:
    tally, rounds = Tally(0, 0, 0), 0
    while more := plan_next({"cell": tally}, RULE):
        assert tally.tried is not None
        tally = Tally(0, 0, tally.tried + more["cell"])
        rounds += 1
    assert decide(tally, RULE).status == "cap"
    assert tally.tried == RULE.cap
    assert rounds == RULE.cap / RULE.minimum


def test_cells_that_have_stopped_are_not_planned() -> None:
    cells = {"settled": (0, 200), "capped": (150, 300), "unscored": (5, 40, 300), "open": (30, 60)}
    assert set(plan_next(cells, RULE)) == {"open"}


def test_it_asks_for_half_of_what_is_expected_to_be_needed_in_whole_batches() -> None:
    # At a rate of 1/2 the interval's half-width is 0.06 from 263 rollouts on.
    assert _half(1315, 2630) < _half(131, 262)
    decision = decide((30, 60), RULE)
    assert decision.more == 120  # (263 - 60) / 2 = 101.5, in batches of 20
    assert decide((125, 250), RULE).more == 20


@pytest.mark.parametrize("tally", [(3, 2), (-1, 2), (1, 5, 4)])
def test_counts_that_cannot_be_are_refused(tally: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        decide(tally, RULE)


@pytest.mark.parametrize(
    "settings_",
    [{"target": 0}, {"target": 0.5}, {"batch": 0}, {"minimum": 301}, {"level": 1.0}],
)
def test_a_rule_that_cannot_work_is_refused(settings_: dict[str, float]) -> None:
    with pytest.raises(UserError, match="allowed"):
        Rule(**{"target": 0.06, **settings_})  # type: ignore[arg-type]


def test_what_is_expected_is_what_happens() -> None:
    rule = Rule(target=0.08, cap=120, batch=10, minimum=30)
    coin = random.Random(1)
    hits = rollouts = 0
    for _ in range(2000):
        tally = (0, 0)
        while more := plan_next({0: tally}, rule):
            seen = sum(coin.random() < 0.2 for _ in range(more[0]))
            tally = (tally[0] + seen, tally[1] + more[0])
        end = decide(tally, rule)
        hits += end.low <= 0.2 <= end.high
        rollouts += end.n
    expected = expect(0.2, rule)
    assert hits / 2000 == pytest.approx(expected.coverage, abs=0.02)
    assert rollouts / 2000 == pytest.approx(expected.rollouts, abs=2)


def test_without_a_look_it_is_the_fixed_design() -> None:
    """A minimum at the cap: Wilson's interval of one binomial, counted out by hand."""
    rule = Rule(target=0.1, cap=40, batch=5, minimum=40)
    expected = expect(0.05, rule)
    covered = sum(
        math.comb(40, k) * 0.05**k * 0.95 ** (40 - k)
        for k in range(41)
        if wilson(k, 40)[0] <= 0.05 <= wilson(k, 40)[1]
    )
    assert expected.coverage == pytest.approx(covered)
    assert expected.rollouts == pytest.approx(40)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3, 0.5, 0.7])
def test_the_interval_after_stopping_covers(rate: float) -> None:
    assert 0.925 < expect(rate, RULE).coverage < 0.975
