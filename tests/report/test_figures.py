"""The figures: scales that hold the data, and nothing drawn outside."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.report.figures import (
    Curve,
    Dot,
    Row,
    auto_axis,
    clip,
    curves_figure,
    interval_figure,
    rate_axis,
)
from msm_ray.report.text import count, duration, fixed, interval, short_count

FINITE = st.floats(min_value=-1e6, max_value=1e6)


@given(st.lists(FINITE, max_size=8), st.none() | FINITE)
def test_an_axis_holds_its_data_and_has_a_few_round_ticks(
    values: list[float], reference: float | None
) -> None:
    axis = auto_axis(values, "x", reference)
    assert axis.low < axis.high
    assert all(axis.low <= v <= axis.high for v in values)
    assert 2 <= len(axis.ticks) <= 8
    assert all(axis.low - 1e-9 <= t <= axis.high + 1e-9 for t, _ in axis.ticks)


def test_ticks_are_written_with_the_digits_they_need() -> None:
    assert [w for _, w in auto_axis([0.0, 1.0], "x").ticks] == [
        "0.00",
        "0.25",
        "0.50",
        "0.75",
        "1.00",
    ]
    signed = auto_axis([-0.02, 0.02], "x", sign=True)
    assert [w for _, w in signed.ticks] == ["−0.02", "−0.01", "0.00", "+0.01", "+0.02"]


@pytest.mark.parametrize("narrow", [False, True])
def test_nothing_is_drawn_outside_the_figure(narrow: bool) -> None:
    rows = [
        Row("msm:" + "long-" * 20, ("sub",), 1.0, 0.9, 1.0, (Dot(0, 1.0, "t"), Dot(1, 0.0, "t"))),
        Row("b", ("one", "two"), None, None, None, (), starts_group=True),
        Row("c", (), 0.0, -0.5, 2.0, ()),
    ]
    figure = interval_figure(rows, rate_axis("share"), ["base-0", "base-1"], "label", narrow)
    width = float(re.search(r'viewBox="0 0 (\d+)', figure).group(1))  # type: ignore[union-attr]
    for name in ("x", "x1", "x2", "cx"):
        for x in re.findall(rf'\b{name}="(-?[\d.]+)"', figure):
            assert 0 <= float(x) <= width
    assert "not measured" in figure


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 20)), min_size=1, max_size=20))
def test_curves_are_drawn_from_any_points(points: list[tuple[float, float]]) -> None:
    losses = [v for _, v in points]
    figure = curves_figure([Curve(0, tuple(points), "t")], "arm", min(losses), max(losses))
    assert "nan" not in figure


def test_clip_keeps_both_ends() -> None:
    assert clip("short", 10) == "short"
    assert clip("msm:affordability+aft", 11) == "msm:a…y+aft"


def test_numbers_are_written_for_people() -> None:
    assert fixed(-0.001) == "0.00"
    assert fixed(-0.5, sign=True) == "−0.50"
    assert fixed(float("nan")) == fixed(None) == fixed("x") == fixed(True) == "not measured"
    assert interval([0.1, 0.25]) == "[0.10, 0.25]"
    assert interval([None, 1]) == interval(None) == interval([1]) == ""
    assert count(12480) == "12,480"
    assert [short_count(n) for n in (950, 12_500, 3_100_000)] == ["950", "12.5k", "3.1M"]
    assert [duration(s) for s in (0.2, 3, 42, 185, 7800)] == [
        "0.20 s",
        "3.0 s",
        "42 s",
        "3 min 05 s",
        "2 h 10 min",
    ]
