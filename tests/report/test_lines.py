"""Dose curves: where doses lie on their axis, and that nothing is drawn outside."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.report.lines import Point, Series, curves, doses, line_figure, read_series

DOSES = st.lists(st.floats(1e-6, 1e12), min_size=1, max_size=12, unique=True)


@given(DOSES)
def test_doses_keep_their_order_and_lie_within_the_axis(values: list[float]) -> None:
    axis = doses(values)
    places = [axis.place(v) for v in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= p <= 1 for p in places)
    assert axis.is_log == (max(values) / min(values) > 8)
    assert {v for v, _ in axis.ticks} <= set(values)


def test_an_axis_is_logarithmic_only_where_doses_span_much() -> None:
    linear, wide = doses([100, 400, 800]), doses([100, 1_000, 10_000])
    assert not linear.is_log
    assert linear.place(450) == 0.5
    assert wide.is_log
    assert wide.place(1_000) == pytest.approx(0.5)
    assert [w for _, w in wide.ticks] == ["100", "1,000", "10k"]


def test_a_dose_of_zero_stands_behind_a_break() -> None:
    axis = doses([0, 1_000, 10_000, 100_000])
    assert axis.is_log
    assert axis.place(0) == 0
    assert axis.break_at is not None
    assert 0 < axis.break_at < axis.place(1_000)
    assert doses([0, 5]).break_at is None


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(-5, 5)), min_size=1, max_size=15))
def test_nothing_is_drawn_outside_the_figure(points: list[tuple[float, float]]) -> None:
    own = tuple(Point(x, v, (v - 0.1, v + 0.2), "") for x, v in sorted(points))
    for narrow in (False, True):
        made = line_figure([Series("a", own), Series("b" * 40, own)], "t", "x", "y", narrow)
        assert "nan" not in made
        width, height = map(float, re.findall(r"viewBox=\"0 0 (\d+) (\d+)\"", made)[0])
        for name, most in (("x", width), ("x1", width), ("cx", width), ("y1", height)):
            for value in re.findall(rf'\b{name}="(-?[\d.]+)"', made):
                assert 0 <= float(value) <= most


def test_points_without_numbers_are_left_out_and_a_curve_without_points_says_so() -> None:
    points = [{"x": 2, "value": None}, {"x": 3, "value": 0.5, "ci95": [0.4, None]}, {"x": 1}]
    read = read_series({"series": [{"name": "s", "points": points}, {"name": "none"}]})
    assert read == [Series("s", (Point(3.0, 0.5, None, ""),))]
    shown = curves({"curves": [{"title": "T", "series": []}]})
    assert "No point of it was measured" in shown
    assert "no interval" in curves({"curves": [{"series": [{"name": "s", "points": points}]}]})
