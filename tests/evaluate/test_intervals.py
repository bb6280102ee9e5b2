from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_ray.evaluate.intervals import normal_quantile, score_interval, t_quantile, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(
    successes: int, n: int, low: float, high: float
) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_rate_within_its_bounds(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert high - low > 0
    mirrored = wilson(n - successes, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson(successes, n)


def test_the_ends_of_a_score_interval_are_its_critical_value_away() -> None:
    low, high = score_interval(0.3, 50, 2.2)
    for end in (low, high):
        assert abs(0.3 - end) == pytest.approx(2.2 * math.sqrt(end * (1 - end) / 50))


@pytest.mark.parametrize(
    ("probability", "df", "t"),
    [
        # Tables of Student's t
        (0.975, 1, 12.7062),
        (0.975, 2, 4.3027),
        (0.975, 3, 3.1824),
        (0.975, 10, 2.2281),
        (0.975, 39, 2.0227),
        (0.975, 120, 1.9799),
        (0.95, 4, 2.1318),
        (0.995, 2, 9.9248),
    ],
)
def test_t_quantiles_are_those_of_the_tables(probability: float, df: float, t: float) -> None:
    assert t_quantile(probability, df) == pytest.approx(t, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.floats(1, 1e6), st.floats(1.001, 3))
def test_t_falls_with_its_degrees_of_freedom_to_the_normal(df: float, times: float) -> None:
    assert t_quantile(0.975, df) >= t_quantile(0.975, df * times) - 1e-4
    assert t_quantile(0.975, df) >= normal_quantile(0.975) - 1e-4
