from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_ray.evaluate.intervals import wilson
from msm_ray.evaluate.statistics import Over, by_item, paired_effect, rate_ci

Values = dict[str, dict[int, list[float]]]
FEW = settings(max_examples=25, deadline=None)
BOTH: tuple[Over, ...] = ("items", "seeds")
ALL: tuple[Over, ...] = ("items", "seeds", "bases")
real = st.floats(min_value=-5, max_value=5).map(lambda x: round(x, 6))
# To nine digits, so that the distance from 1 is a share as well: 1 - 1e-93 is 1.
share = st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.0]) | st.floats(0, 1).map(lambda x: round(x, 9))
kinds = st.sampled_from([("items",), BOTH, ALL])


@st.composite
def nested(
    draw: st.DrawFn, of: st.SearchStrategy[float] = real, n_items: int | None = None
) -> Values:
    """1-4 bases, each with 1-3 seeds, all with the same 2-8 items (or ``n_items``)."""
    n = n_items or draw(st.integers(2, 8))
    column = st.lists(of, min_size=n, max_size=n)
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    return {f"base-{b}": {s: draw(column) for s in range(k)} for b, k in enumerate(sizes)}


def mapped(values: Values, change: object) -> Values:
    return {b: {s: [change(x) for x in v] for s, v in of.items()} for b, of in values.items()}  # type: ignore[operator]


# ----------------------------------------------------------------------------------- known answers


@pytest.mark.parametrize(("right", "n"), [(29, 40), (0, 40), (300, 300), (81, 263)])
def test_one_run_of_right_or_wrong_items_has_wilsons_interval(right: int, n: int) -> None:
    got = rate_ci({"base-0": {0: [1.0] * right + [0.0] * (n - right)}})
    assert (got.low, got.high) == pytest.approx(wilson(right, n))
    assert (got.value, got.n, got.items, got.seeds, got.bases) == (right / n, n, n, 1, 1)
    assert (got.over, got.method) == (("items",), "wilson")


def test_one_run_of_numbers_has_students_interval() -> None:
    # Student's own data: ten patients' extra hours of sleep (Biometrika 6 (1908), 20)
    sleep = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    got = rate_ci({"base-0": {0: sleep}})
    assert (got.value, got.low, got.high) == pytest.approx((1.58, 0.7001, 2.4599), abs=1e-4)
    assert got.df == pytest.approx(9)


def test_two_seeds_by_three_items_worked_by_hand() -> None:
    """Means of items 1.5, 3.5, 7 and of seeds 3, 5. Per mean square: items 31 / 2 = 15.5 (each
    item's mean counted twice), seeds 3 * 2 = 6, interaction 1 / 2."""
    cells: Values = {"base-0": {0: [1, 2, 6], 1: [2, 5, 8]}}
    got = rate_ci(cells)
    from_items = 15.5 / 6
    from_seeds = (6 - (7 / 9) ** 3 * 0.5) / 6
    assert got.value == 4
    assert got.se == pytest.approx(math.sqrt(from_items + from_seeds))
    half = math.sqrt(4.3027**2 * from_items + 12.7062**2 * from_seeds)
    assert (got.low, got.high) == pytest.approx((4 - half, 4 + half), abs=1e-3)
    assert (got.over, got.df) == (BOTH, 1)
    fixed = rate_ci(cells, over=["items"])
    assert fixed.high - fixed.value == pytest.approx(4.3027 * math.sqrt(from_items), abs=1e-3)
    assert (fixed.over, fixed.df) == (("items",), 2)


def test_single_rates_over_bases_have_students_interval_over_their_means() -> None:
    cells = {"a": {0: 1.0, 1: 3.0}, "b": {0: 4.0}, "c": {0: 6.0, 1: 8.0}}
    got = rate_ci(cells, over=ALL)
    # Means 2, 4, 7: 13/3, sd 2.5166, two degrees of freedom
    half = 4.3027 * 2.5166 / math.sqrt(3)
    assert (got.value, got.low, got.high) == pytest.approx(
        (13 / 3, 13 / 3 - half, 13 / 3 + half), abs=1e-3
    )
    assert (got.over, got.items, got.n) == (("seeds", "bases"), 0, 5)
    # These bases: seeds vary by 2 within a and within c, two degrees of freedom
    here = rate_ci(cells)
    assert here.se == pytest.approx(math.sqrt(2 / 9 * (1 / 2 + 1 + 1 / 2)))
    assert (here.over, here.df) == (("seeds",), pytest.approx(2))


def test_a_paired_difference_of_rates_is_agresti_and_mins() -> None:
    """1,600 Britons approve of the premier or not, twice (Agresti & Min 2005, table I): 944 yes to
    880 yes, 150 yes to no, 86 no to yes."""
    first = [1.0] * 794 + [1.0] * 150 + [0.0] * 86 + [0.0] * 570
    second = [1.0] * 794 + [0.0] * 150 + [1.0] * 86 + [0.0] * 570
    got = paired_effect({"b": {0: first}}, {"b": {0: second}})
    n, yes_no, no_yes = 1602, 150.5, 86.5
    centre = (yes_no - no_yes) / n
    half = 1.96 * math.sqrt(yes_no + no_yes - (yes_no - no_yes) ** 2 / n) / n
    assert got.value == pytest.approx(64 / 1600)
    assert (got.low, got.high) == pytest.approx((centre - half, centre + half), abs=1e-4)
    assert got.verdict == "difference"


# -------------------------------------------------------------------------------------- properties


@FEW
@given(nested(), st.floats(-10, 10), kinds)
def test_a_shift_of_all_values_shifts_the_interval(
    values: Values, shift: float, over: tuple[Over, ...]
) -> None:
    before = rate_ci(values, over=over, scale="real")
    after = rate_ci(mapped(values, lambda x: x + shift), over=over, scale="real")
    for one, other in ((before.value, after.value), (before.se, after.se)):
        assert other - (shift if one is before.value else 0) == pytest.approx(one, abs=1e-6)


@FEW
@given(nested(share), kinds)
def test_rates_keep_to_their_bounds_and_never_have_zero_width(
    values: Values, over: tuple[Over, ...]
) -> None:
    got = rate_ci(values, over=over)
    assert 0 <= got.low <= got.value + 1e-12
    assert got.value - 1e-12 <= got.high <= 1
    assert got.high - got.low > 0
    turned = rate_ci(mapped(values, lambda x: 1 - x), over=over)
    assert (turned.low, turned.high) == pytest.approx((1 - got.high, 1 - got.low), abs=1e-6)


@FEW
@given(st.data(), kinds)
def test_swapping_the_sides_turns_the_effect_round(
    data: st.DataObject, over: tuple[Over, ...]
) -> None:
    a = data.draw(nested(share, n_items=4))
    b = {
        base: {s: data.draw(st.lists(share, min_size=4, max_size=4)) for s in a[base]} for base in a
    }
    one, other = paired_effect(a, b, over=over), paired_effect(b, a, over=over)
    assert other.value == pytest.approx(-one.value, abs=1e-12)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low), abs=1e-6)
    assert one.high - one.low > 0
    assert -1 <= one.low <= one.value <= one.high <= 1


@FEW
@given(st.data(), kinds)
def test_a_paired_effect_is_the_interval_of_the_differences(
    data: st.DataObject, over: tuple[Over, ...]
) -> None:
    a = data.draw(nested(n_items=3))
    b = {
        base: {s: data.draw(st.lists(real, min_size=3, max_size=3)) for s in a[base]} for base in a
    }
    difference = {
        base: {s: [x - y for x, y in zip(a[base][s], b[base][s], strict=True)] for s in a[base]}
        for base in a
    }
    effect = paired_effect(a, b, over=over, scale="real")
    same = rate_ci(difference, over=over, scale="real")
    assert (effect.value, effect.low, effect.high) == pytest.approx(
        (same.value, same.low, same.high), abs=1e-5
    )
    assert effect.over == same.over


@FEW
@given(nested(share), st.randoms(use_true_random=False), kinds)
def test_no_order_matters(values: Values, shuffler: random.Random, over: tuple[Over, ...]) -> None:
    named = {
        base: {s: {f"item-{i}": x for i, x in enumerate(v)} for s, v in of.items()}
        for base, of in values.items()
    }

    def shuffled(of: dict) -> dict:  # type: ignore[type-arg]
        keys = list(of)
        shuffler.shuffle(keys)
        return {k: shuffled(of[k]) if isinstance(of[k], dict) else of[k] for k in keys}

    assert rate_ci(shuffled(named), over=over) == rate_ci(named, over=over)


@FEW
@given(nested(share), kinds)
def test_more_of_the_same_items_are_known_better(values: Values, over: tuple[Over, ...]) -> None:
    def times(k: int) -> float:
        many = {b: {s: v * k for s, v in of.items()} for b, of in values.items()}
        got = rate_ci(many, over=("items",))
        return got.high - got.low

    assert times(1) > times(4) > times(16)


@FEW
@given(nested(real, n_items=5), st.integers(0, 4))
def test_an_item_that_a_run_lacks_is_no_obstacle(values: Values, lacking: int) -> None:
    named = {
        base: {s: {f"item-{i}": x for i, x in enumerate(v)} for s, v in of.items()}
        for base, of in values.items()
    }
    del named["base-0"][0][f"item-{lacking}"]
    got = rate_ci(named)
    runs = [[np.mean(list(run.values())) for run in of.values()] for of in named.values()]
    assert got.value == pytest.approx(np.mean([np.mean(of) for of in runs]))
    assert got.n == 5 * got.seeds - 1
    assert math.isfinite(got.low)
    assert math.isfinite(got.high)


# ------------------------------------------------------------------------------ what it is good for


def test_seeds_that_share_a_checkpoint_add_nothing() -> None:
    run = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
    one = rate_ci({"base-0": {0: run}})
    three = rate_ci({"base-0": dict.fromkeys(range(3), run)})
    assert (three.low, three.high) == (one.low, one.high)


def test_items_asked_again_by_every_seed_are_not_new_items() -> None:
    """Seeds that agree on nearly every item: 4 x 100 answers are worth little more than 100."""
    rng = np.random.default_rng(0)
    item = rng.random(100) < 0.6
    runs = {s: np.where(rng.random(100) < 0.05, ~item, item).astype(float) for s in range(4)}
    got = rate_ci({"b": {s: run.tolist() for s, run in runs.items()}}, over=["items"])
    assert got.se == pytest.approx(math.sqrt(0.24 / 100), rel=0.12)


def test_bases_with_items_of_their_own_are_two_samples() -> None:
    rng = np.random.default_rng(3)
    cells = {
        base: {0: {f"{base}/{i}": float(x) for i, x in enumerate(rng.normal(0, 1, 200))}}
        for base in "ab"
    }
    a, b = (np.array(list(cells[base][0].values())) for base in "ab")
    got = rate_ci(cells)
    assert got.items == got.n == 400
    assert got.se**2 == pytest.approx((a.var() / 200 + b.var() / 200) / 4, rel=0.01)


def test_pairing_removes_what_both_sides_share() -> None:
    rng = np.random.default_rng(1)
    level = {b: {s: rng.normal(0, 1, 50) for s in range(3)} for b in "uvw"}
    a = {b: {s: (x + 0.5).tolist() for s, x in of.items()} for b, of in level.items()}
    b = {b: {s: x.tolist() for s, x in of.items()} for b, of in level.items()}
    effect = paired_effect(a, b)
    assert (effect.value, effect.low, effect.high) == pytest.approx((0.5, 0.5, 0.5))
    assert rate_ci(a).high - rate_ci(a).low > 0.2


def test_every_base_weighs_the_same() -> None:
    cells = {"many": dict.fromkeys(range(9), 1.0), "one": {0: 0.0}}
    assert rate_ci(cells).value == 0.5


def test_weights_are_those_of_a_ratio() -> None:
    tokens = {"long": 30.0, "short": 10.0, "middle": 20.0}
    loss = {"long": 2.0, "short": 4.0, "middle": 3.0}
    got = rate_ci({"b": {0: loss}}, weights=tokens)
    mean = (2 * 30 + 4 * 10 + 3 * 20) / 60
    assert got.value == pytest.approx(mean)
    squares = sum((tokens[k] * (loss[k] - mean) / 60) ** 2 for k in tokens)
    assert got.se == pytest.approx(math.sqrt(squares * 3 / 2))


@pytest.mark.parametrize("weights", [{"p": 1.0}, {"p": 1.0, "q": 0.0}, {"p": 1.0, "q": -1.0}])
def test_an_item_without_weight_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="'q' has none"):
        rate_ci({"b": {0: {"p": 1.0, "q": 0.0}}}, weights=weights)
    with pytest.raises(ValueError, match="by item id"):
        rate_ci({"b": {0: [1.0, 0.0]}}, weights=weights)


def test_rows_of_both_orders_become_one_value_per_item() -> None:
    values, weights = by_item(["a", "b", "a", "b"], [1.0, 0.0, 0.0, 0.0], [1.0] * 4)
    assert values == {"a": 0.5, "b": 0.0}
    assert weights == {"a": 1.0, "b": 1.0}


def test_an_item_weighs_what_its_rows_do() -> None:
    rows = (["a", "b", "a", "a"], [1.0, 0.0, 0.0, 1.0], [1.0, 2.0, 1.0, 1.0])
    values, weights = by_item(*rows)
    assert values == pytest.approx({"a": 2 / 3, "b": 0.0})
    assert weights == pytest.approx({"a": 1.2, "b": 0.8})
    mean = sum(value * weight for _, value, weight in zip(*rows, strict=True)) / sum(rows[2])
    assert rate_ci({"base": {0: values}}, weights=weights).value == pytest.approx(mean)


# ------------------------------------------------------------------------------- what is not known


def test_what_cannot_be_estimated_is_left_out_and_said() -> None:
    run = [1.0, 0.0, 1.0, 1.0]
    assert rate_ci({"a": {0: run}}, over=ALL).over == ("items",)
    assert rate_ci({"a": {0: run}, "b": {0: run[::-1]}}, over=BOTH).over == ("items",)
    assert rate_ci({"a": {0: run}, "b": {0: run[::-1]}}, over=ALL).over == ALL
    assert rate_ci({"a": {0: run, 1: run[::-1]}}, over=ALL).over == BOTH
    assert rate_ci({"a": {0: 0.7, 1: 0.6}}, over=ALL).over == ("seeds",)


def test_a_single_rate_has_no_interval_and_shows_no_difference() -> None:
    got = rate_ci({"base-0": {0: 0.7}})
    assert (got.low, got.high, got.over, got.method) == (0.7, 0.7, (), "none")
    effect = paired_effect({"b": {0: 0.9}}, {"b": {0: 0.1}})
    assert (effect.value, effect.verdict) == (pytest.approx(0.8), "none shown")


def test_only_what_both_sides_have_is_paired_and_the_rest_is_counted() -> None:
    a = {"x": {0: {"p": 1.0, "q": 0.0, "r": 1.0}, 1: {"p": 1.0}}, "y": {0: {"p": 0.0}}}
    b = {"x": {0: {"p": 0.0, "q": 0.0, "s": 1.0}, 2: {"p": 1.0, "q": 1.0}}}
    effect = paired_effect(a, b)
    assert (effect.value, effect.n, effect.seeds, effect.bases) == (0.5, 2, 1, 1)
    assert effect.n_unpaired == 1 + 1 + 1 + 1 + 2  # r, run x 1, base y; s, run x 2


def test_a_difference_is_one_only_when_its_interval_excludes_zero() -> None:
    half = {"b": {0: [1.0, 0.0] * 40}}
    more = {"b": {0: [1.0, 0.0] * 30 + [1.0, 1.0] * 10}}
    few = {"b": {0: [1.0, 0.0] * 39 + [1.0, 1.0]}}
    assert paired_effect(more, half).verdict == "difference"
    assert paired_effect(half, more).verdict == "difference"
    assert paired_effect(few, half).verdict == "none shown"
    assert paired_effect(half, half).verdict == "none shown"


@pytest.mark.parametrize(
    "cells",
    [
        {},
        {"b": {}},
        {"b": {0: []}},
        {"b": {0: float("nan")}},
        {"b": {0: [[1.0], [2.0]]}},
        {"b": {0: 0.5, 1: [0.5]}},
        {"b": {0: {}}},
    ],
)
def test_what_has_no_mean_is_refused(cells: Values) -> None:
    with pytest.raises(ValueError, match="base|runs"):
        rate_ci(cells)


def test_a_rate_outside_its_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        rate_ci({"b": {0: [0.5, 1.5]}}, scale="rate")


@pytest.mark.parametrize("over", [(), ("tasks",)])
def test_an_interval_over_nothing_known_is_refused(over: tuple[Over, ...]) -> None:
    with pytest.raises(ValueError, match="allowed: items, seeds, bases"):
        rate_ci({"b": {0: [0.5, 1.0]}}, over=over)


@pytest.mark.parametrize(
    "other",
    [{"c": {0: [0.1, 0.2]}}, {"b": {1: [0.1, 0.2]}}, {"b": {0: [0.1]}}, {"b": {0: {"p": 0.1}}}],
)
def test_what_has_nothing_in_common_is_refused(other: Values) -> None:
    with pytest.raises(ValueError, match="common|same"):
        paired_effect({"b": {0: [0.1, 0.2]}}, other)


# ---------------------------------------------------------------------------------------- coverage


@pytest.mark.parametrize("over", [BOTH, ALL])
@pytest.mark.parametrize("rate", [0.5, 0.9])
def test_the_intervals_cover(rate: float, over: tuple[Over, ...]) -> None:
    """Loose bounds that a wrong formula misses: items alone would cover less than 85 % here."""
    rng = np.random.default_rng(5)
    experiments, bases, seeds, items = 300, 3, 3, 60
    hits = 0
    for _ in range(experiments):
        base = np.clip(rng.normal(rate, 0.05, (bases, 1, 1)), 0.01, 0.99)
        run = np.clip(base + rng.normal(0, 0.05, (bases, seeds, 1)), 0, 1)
        common = rng.random((1, 1, items)), rng.random((bases, seeds, items))
        use_common = rng.random((bases, seeds, items)) < 0.5
        values = (np.where(use_common, *common) < run).astype(float)
        cells = {f"b{b}": {s: values[b, s].tolist() for s in range(seeds)} for b in range(bases)}
        got = rate_ci(cells, over=over)
        truth = rate if over == ALL else float(base.mean())
        hits += got.low <= truth <= got.high
    assert 0.90 <= hits / experiments <= 0.99
