from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_ray.evaluate.statistics import hierarchical_bootstrap, paired_effect, rate_ci

Values = dict[str, dict[int, list[float]]]
FEW = settings(max_examples=25, deadline=None)
numbers = st.floats(min_value=-5, max_value=5).map(lambda x: round(x, 6))


@st.composite
def nested(draw: st.DrawFn, n_items: int | None = None) -> Values:
    """1-5 bases, each with 1-3 seeds, each with 1-6 values (or ``n_items``)."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    values: Values = {}
    for b, seeds in enumerate(sizes):
        values[f"base-{b}"] = {}
        for s in range(seeds):
            n = n_items or draw(st.integers(1, 6))
            values[f"base-{b}"][s] = draw(st.lists(numbers, min_size=n, max_size=n))
    return values


@FEW
@given(nested(), st.floats(-10, 10), st.booleans())
def test_a_shift_of_all_values_shifts_the_interval(
    values: Values, shift: float, items: bool
) -> None:
    moved = {b: {s: [x + shift for x in v] for s, v in o.items()} for b, o in values.items()}
    before = rate_ci(values, resamples=2000, items=items)
    after = rate_ci(moved, resamples=2000, items=items)
    assert after.value - shift == pytest.approx(before.value, abs=1e-9)
    assert after.low - shift == pytest.approx(before.low, abs=1e-9)
    assert after.high - shift == pytest.approx(before.high, abs=1e-9)


@FEW
@given(st.data(), st.booleans())
def test_swapping_the_sides_turns_the_effect_round(data: st.DataObject, items: bool) -> None:
    a = data.draw(nested(n_items=3))
    b = {
        base: {s: data.draw(st.lists(numbers, min_size=3, max_size=3)) for s in a[base]}
        for base in a
    }
    one, other = (paired_effect(x, y, resamples=2000, items=items) for x, y in ((a, b), (b, a)))
    assert other.value == pytest.approx(-one.value, abs=1e-12)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low), abs=1e-9)


@FEW
@given(nested(), st.booleans())
def test_the_interval_contains_the_mean(values: Values, items: bool) -> None:
    interval = rate_ci(values, resamples=2000, items=items)
    assert interval.low <= interval.value + 1e-9
    assert interval.value <= interval.high + 1e-9


@FEW
@given(nested(), st.randoms(use_true_random=False))
def test_the_order_of_bases_and_seeds_does_not_matter(
    values: Values, shuffler: random.Random
) -> None:
    bases = list(values)
    shuffler.shuffle(bases)
    shuffled = {}
    for base in bases:
        seeds = list(values[base])
        shuffler.shuffle(seeds)
        shuffled[base] = {s: values[base][s] for s in seeds}
    assert rate_ci(shuffled, resamples=500) == rate_ci(values, resamples=500)


def test_the_order_of_items_given_by_name_does_not_matter() -> None:
    pairs = {f"pair-{i}": float(i % 3 == 0) for i in range(30)}
    backwards = dict(reversed(pairs.items()))
    one = rate_ci({"base-0": {0: pairs}}, items=True)
    assert one == rate_ci({"base-0": {0: backwards}}, items=True)
    assert one.n == 30


@pytest.mark.parametrize("items", [False, True])
def test_without_variation_the_interval_has_no_width(items: bool) -> None:
    same = {b: {s: [0.25] * 8 for s in range(2)} for b in ("x", "y", "z")}
    interval = rate_ci(same, items=items)
    assert (interval.value, interval.low, interval.high) == (0.25, 0.25, 0.25)
    assert (interval.n, interval.bases) == (48, 3)
    effect = paired_effect(same, same, items=items)
    assert (effect.value, effect.low, effect.high) == (0, 0, 0)


def test_one_base_with_one_seed_says_nothing_about_other_bases() -> None:
    interval = rate_ci({"base-0": {0: 0.7}})
    assert (interval.low, interval.high, interval.bases) == (0.7, 0.7, 1)


def test_pairing_removes_what_both_sides_share() -> None:
    rng = np.random.default_rng(1)
    level = {b: rng.normal(0, 1) for b in "uvwxyz"}
    a = {b: dict.fromkeys(range(2), level[b] + 0.5) for b in level}
    b = {b: dict.fromkeys(range(2), level[b]) for b in level}
    effect = paired_effect(a, b)
    assert (effect.value, effect.low, effect.high) == pytest.approx((0.5, 0.5, 0.5))
    assert rate_ci(a).high - rate_ci(a).low > 0.5


def test_every_base_weighs_the_same() -> None:
    cells = {"many": dict.fromkeys(range(9), 1.0), "one": {0: 0.0}}
    assert rate_ci(cells).value == 0.5


def test_draws_match_the_exact_distribution() -> None:
    """Two bases of two seeds: all 2^2 x 2^2 x 2^2 ways to draw them, counted out."""
    rates = {"x": {0: 0.0, 1: 0.2}, "y": {0: 0.5, 1: 0.9}}
    exact = []
    for bases in itertools.product("xy", repeat=2):
        for picks in itertools.product([0, 1], repeat=4):
            drawn = [rates[bases[i // 2]][picks[i]] for i in range(4)]
            exact.append(sum(drawn) / 4)
    draws = hierarchical_bootstrap(rates, resamples=40_000)
    assert draws.mean() == pytest.approx(np.mean(exact), abs=0.005)
    assert draws.std() == pytest.approx(np.std(exact), abs=0.005)
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert np.quantile(draws, q) == pytest.approx(np.quantile(exact, q), abs=0.03)


def test_resampling_items_adds_their_noise() -> None:
    rng = np.random.default_rng(0)
    values = {"b": {0: (rng.random(100) < 0.5).astype(float).tolist()}}
    assert rate_ci(values).high == rate_ci(values).low
    wide = rate_ci(values, items=True)
    assert wide.high - wide.low == pytest.approx(2 * 1.96 * 0.05, abs=0.02)


def test_the_seed_decides() -> None:
    cells = {f"b{b}": {s: (3 * b + s) / 10 for s in range(2)} for b in range(3)}
    assert np.array_equal(hierarchical_bootstrap(cells), hierarchical_bootstrap(cells))
    assert not np.array_equal(hierarchical_bootstrap(cells), hierarchical_bootstrap(cells, seed=1))


@pytest.mark.parametrize(
    "cells",
    [{}, {"b": {}}, {"b": {0: []}}, {"b": {0: float("nan")}}, {"b": {0: [[1.0], [2.0]]}}],
)
def test_what_has_no_mean_is_refused(cells: Values) -> None:
    with pytest.raises(ValueError):
        rate_ci(cells)


@pytest.mark.parametrize(
    "other",
    [{"b": {0: 0.1}}, {"c": {0: 0.1, 1: 0.2}}, {"b": {0: [0.1, 0.2], 1: 0.2}}],
)
def test_what_is_not_paired_is_refused(other: Values) -> None:
    with pytest.raises(ValueError, match="paired"):
        paired_effect({"b": {0: 0.1, 1: 0.2}}, other)
