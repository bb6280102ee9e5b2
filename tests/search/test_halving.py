"""Successive halving: who goes on, whatever the order in which trials arrive."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.errors import UserError
from msm_ray.search.halving import Halving

finite = st.floats(-1e6, 1e6)
anything = st.floats(allow_nan=True, allow_infinity=True)
keeps = st.sampled_from([1 / 2, 1 / 3, 1 / 4, 0.3, 0.75])


@given(st.lists(finite, min_size=1, max_size=60, unique=True), keeps)
def test_of_a_whole_rung_that_share_survives(values: list[float], keep: float) -> None:
    halving = Halving((10,), keep)
    survivors = [
        v for i, v in enumerate(values) if halving.decide(10, v, values[:i] + values[i + 1 :])
    ]
    n = len(values)
    expected = n if n < math.ceil(1 / keep - 1e-9) else max(1, math.floor(n * keep + 1e-9))
    assert sorted(survivors) == sorted(values)[n - expected :]


def test_trials_that_come_one_by_one() -> None:
    halving = Halving((10,), keep=1 / 3)
    values = [0.5, 0.4, 0.3, 0.6, 0.55, 0.58]
    went_on = [halving.decide(10, v, values[:i]) for i, v in enumerate(values)]
    # Two are too few to judge by; then one of three, of four, of five, and two of six go on.
    assert went_on == [True, True, False, True, False, True]


@given(st.lists(anything, max_size=30), keeps, st.sampled_from([math.nan, -math.inf, math.inf]))
def test_what_is_no_number_never_survives(others: list[float], keep: float, bad: float) -> None:
    assert not Halving((5,), keep).decide(5, bad, others)


@given(st.lists(anything, max_size=30), finite, finite, keeps)
def test_a_larger_value_goes_on_where_a_smaller_one_does(
    others: list[float], a: float, b: float, keep: float
) -> None:
    halving, low, high = Halving((5,), keep), min(a, b), max(a, b)
    if halving.decide(5, low, others):
        assert halving.decide(5, high, others)
    if halving.decide(5, low, [*others, high]):  # each beside the other
        assert halving.decide(5, high, [*others, low])


@given(st.integers(1, 40), finite, keeps)
def test_ties_go_on(n: int, value: float, keep: float) -> None:
    assert Halving((5,), keep).decide(5, value, [value] * n)


def test_nan_of_others_makes_room() -> None:
    halving = Halving((5,), keep=1 / 2)
    assert not halving.decide(5, 0.1, [0.2])
    assert halving.decide(5, 0.1, [0.2, math.nan, math.nan])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Halving(()), "rungs are"),
        (lambda: Halving((20, 10)), "ascending"),
        (lambda: Halving((10, 10)), "ascending"),
        (lambda: Halving((0, 10)), "from 1"),
        (lambda: Halving((10,), keep=1.0), "keep is 1.0; allowed: between 0 and 1"),
        (lambda: Halving((10,), keep=math.nan), "keep is nan"),
    ],
)
def test_wrong_input_is_one_clear_line(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_only_at_a_rung() -> None:
    with pytest.raises(ValueError, match="7 steps is no rung"):
        Halving((5, 10)).decide(7, 0.0, [])
