"""The search's space: a full grid, and a best that NaN never is."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.errors import UserError
from msm_ray.search.space import Axis, best, grid

values = st.lists(
    st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4, unique=True
)


@given(st.lists(values, min_size=1, max_size=3))
def test_grid_is_every_combination_once(columns: list[list[float]]) -> None:
    axes = [Axis(f"a{i}", tuple(v)) for i, v in enumerate(columns)]
    points = grid(axes)
    assert len(points) == math.prod(len(v) for v in columns)
    assert len({tuple(p.values()) for p in points}) == len(points)
    assert all(p[a.setting] in a.values for p in points for a in axes)


def test_first_axis_is_slowest() -> None:
    points = grid([Axis("mix", (1.0, 2.0)), Axis("lr", (3.0, 4.0))])
    assert [p["mix"] for p in points] == [1.0, 1.0, 2.0, 2.0]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1))
def test_best_is_finite_and_largest(scores: list[float]) -> None:
    rows = [{"m": s, "i": i} for i, s in enumerate(scores)]
    finite = [s for s in scores if math.isfinite(s)]
    if not finite:
        with pytest.raises(ValueError, match="no trial"):
            best(rows, "m")
        return
    winner = best(rows, "m")
    assert winner["m"] == max(finite)
    assert winner["i"] == scores.index(max(finite))


@pytest.mark.parametrize("bad", [(), (1.0, 1.0), (math.nan,), (math.inf, 1.0)])
def test_wrong_axes_are_refused(bad: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="axis lr"):
        Axis("lr", bad)
