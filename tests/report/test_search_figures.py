"""The figures of a search: where known trials lie, what is counted, and what colours say."""

from __future__ import annotations

import math
import re
from importlib import resources
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_samples import FIRST, RANK, RATE, SECOND, SOURCES, search_part, several_sources

from msm_ray.report.search_front import front, rungs, staircase
from msm_ray.report.search_mix import mix
from msm_ray.report.search_parallel import lanes, log_ticks, parallel
from msm_ray.report.search_plot import SHADES, fences, named, scale
from msm_ray.report.search_read import read
from msm_ray.report.search_ternary import (
    SLOPE,
    Triangle,
    cell,
    shares_of,
    spacing,
    surface,
    ternary,
)


def figure(markup: str, name: str) -> str:
    """The wide figure of that name."""
    start = markup.index(f'class="figure wide {name}"')
    return markup[start : markup.index("</svg>", start)]


def of_mixes(*mixes: tuple[float, float, float], **more: Any) -> dict[str, Any]:
    """A search with a trial for each mix."""
    part = several_sources(3, len(mixes))
    part["space"][0]["sources"] = list(SOURCES)
    for trial, shares in zip(part["trials"], mixes, strict=True):
        trial["mix"] = dict(zip(SOURCES, shares, strict=True))
    return part | more


# ------------------------------------------------------------------------------------- ternary


def test_corners_middles_and_the_centre_lie_where_they_must() -> None:
    shape = Triangle(10, 100, 80)
    height = 80 * math.sqrt(3) / 2
    for shares, place in (
        ((1, 0, 0), (50, 100 - height)),
        ((0, 1, 0), (10, 100)),
        ((0, 0, 1), (90, 100)),
        ((0, 0.5, 0.5), (50, 100)),
        ((0.5, 0.5, 0), (30, 100 - height / 2)),
        ((0.5, 0, 0.5), (70, 100 - height / 2)),
        ((1 / 3, 1 / 3, 1 / 3), (50, 100 - height / 3)),
    ):
        assert shape.place(shares) == pytest.approx(place)


def test_trials_are_drawn_at_their_shares() -> None:
    mixes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.5, 0.5), (1 / 3,) * 3)
    drawn = figure(mix(read(of_mixes(*mixes))), "ternary")
    corners = re.search(r'triangle" points="([^"]*)"', drawn)
    assert corners is not None
    at = [tuple(map(float, p.split(","))) for p in corners.group(1).split()]
    marks = {
        int(n): (float(x), float(y))
        for x, y, n in re.findall(
            r'<circle cx="([\d.]+)" cy="([\d.]+)"[^>]*data-trial="(\d+)"', drawn
        )
    }
    assert [marks[i] for i in range(3)] == at
    middle = [(a + b) / 2 for a, b in zip(at[1], at[2], strict=True)]
    assert marks[3] == pytest.approx(middle, abs=0.1)
    centre = [sum(p[i] for p in at) / 3 for i in range(2)]
    assert marks[4] == pytest.approx(centre, abs=0.1)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_any_shares_lie_in_the_triangle_or_have_no_place(raw: list[float]) -> None:
    shares = shares_of(dict(zip(SOURCES, raw, strict=True)), SOURCES)
    if not 0.5 < sum(raw) < 2:
        assert shares is None
        return
    assert shares is not None
    assert sum(shares) == pytest.approx(1)
    x, y = Triangle(0, 0, 1).place(shares)
    assert -1e-9 <= -y <= SLOPE + 1e-9
    assert -y / SLOPE / 2 - 1e-9 <= x <= 1 + y / SLOPE / 2 + 1e-9


def test_shares_that_are_missing_or_negative_have_no_place() -> None:
    assert shares_of({"spec": 0.5, "chats": 0.5}, SOURCES) is None
    assert shares_of({"spec": 0.7, "chats": 0.5, "replay": -0.2}, SOURCES) is None
    part = of_mixes((0.2, 0.3, 0.5), (0.2, 0.3, 0.5))
    del part["trials"][1]["mix"]["replay"]
    assert "1 trial without all shares is left out" in mix(read(part))
    del part["trials"][0]["mix"]["replay"]
    assert "No trial says its shares" in mix(read(part))


def test_the_marks_of_a_ternary_plot_are_counted_and_named() -> None:
    found = read(search_part())
    for narrow in (False, True):
        colours = scale(found)
        assert colours is not None
        drawn = ternary(found, colours, SOURCES, narrow)
        assert drawn.count("data-trial=") == 24
        assert len(re.findall(r"<path[^>]*data-trial", drawn)) == 2  # failed, missing
        hollow = sum(t.feasible is False for t in found.trials)
        assert drawn.count('r="2.6" class="hollow"') == hollow
        legend = 1
        for kind in ("best", "confirmed", "predicted"):
            assert drawn.count(f'class="s-ink {kind}"') == 1 + legend
        assert ">12: best, confirmed<" in drawn
        assert ">predicted best<" in drawn


def test_cells_tile_the_triangle() -> None:
    grid = [s for s, _ in surface(read(search_part()), SOURCES)]
    assert len(grid) == 21 * 22 / 2
    assert spacing(grid) == pytest.approx(1 / 20)
    areas, radius = 0.0, spacing(grid) / math.sqrt(3)
    for shares in grid:
        corners = cell(shares, radius)
        assert all(-1e-9 <= x <= 1 + 1e-9 for c in corners for x in c)
        points = [Triangle(0, 0, 1).place(c) for c in corners]
        pairs = zip(points, points[1:] + points[:1], strict=True)
        areas += abs(sum(a * d - b * c for (a, b), (c, d) in pairs)) / 2
    assert areas == pytest.approx(math.sqrt(3) / 4)  # no gap, no overlap, nothing outside


def test_the_surface_is_there_with_the_law_only() -> None:
    part = search_part()
    drawn = figure(mix(read(part)), "ternary")
    cells = re.findall(r'<path d="(M[^"]*z)" class="q\d', drawn)
    assert sum(d.count("M") for d in cells) == 231
    part["law"]["surface"] = []
    drawn = figure(mix(read(part)), "ternary")
    assert 'class="surface"' not in drawn
    assert "cells behind the marks" not in mix(read(part))


# ------------------------------------------------------------------------------------- colours


def _light(colour: str) -> float:
    """Relative luminance (WCAG 2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_grow_darker_on_light_paper_and_lighter_on_dark() -> None:
    style = resources.files("msm_ray.report").joinpath("page.css").read_text(encoding="utf-8")
    dark = dict(re.findall(r"svg \.q(\d) { fill: (#\w{6}); }", style))
    lines = dict(re.findall(r"svg \.k(\d) { stroke: (#\w{6}); }", style))
    assert dark == lines
    for colours, paper in (
        (list(SHADES), "#fdfdfb"),
        ([dark[str(i)] for i in range(7)], "#16181b"),
    ):
        away = [abs(_light(c) - _light(paper)) for c in colours]
        assert len(away) == len(SHADES)
        assert all(b - a > 0.02 for a, b in pairwise(away)), colours


@pytest.mark.parametrize("goal", ["max", "min"])
def test_the_better_a_trial_the_later_its_colour(goal: str) -> None:
    part = of_mixes(*[(0.2, 0.3, 0.5)] * 20)
    part["objectives"][0]["goal"] = goal
    found = read(part)
    colours = scale(found)
    assert colours is not None
    shades = [colours.shade(t.values[FIRST].value) for t in found.measured]  # best first
    assert shades == sorted(shades, reverse=True)
    assert shades[0] == len(SHADES) - 1
    assert shades[-1] == 0
    drawn = figure(mix(found), "ternary")
    key = re.findall(r'height="11" class="q(\d)"', drawn)
    assert key == [str(i) for i in (range(7) if goal == "max" else reversed(range(7)))]
    assert (">better 0." in drawn) == (goal == "max")


def test_a_diverged_trial_does_not_squeeze_the_others() -> None:
    values = [1.0 + i / 100 for i in range(20)]
    assert fences(values) == (1.0, 1.19)
    assert fences([*values, 900.0]) == (1.0, 1.19)
    assert fences([1.0, 900.0]) == (1.0, 900.0)  # of few values none is called an outlier
    assert fences([1.0] * 19 + [5.0]) == (1.0, 5.0)
    part = search_part()
    next(t for t in part["trials"] if t["state"] == "done")["values"][SECOND]["value"] = 900.0
    shown = front(read(part))
    assert "1 trial lies far outside and stands at the edge" in shown
    assert "900" in shown  # in what is said of the mark, not as a place on an axis
    assert "900" not in re.sub(r"<title>.*?</title>", "", shown, flags=re.DOTALL)


def test_names_of_marks_do_not_lie_on_each_other() -> None:
    made = named([((50.0, 50.0), "one mark"), ((52.0, 51.0), "another")], 0, 400)
    first, second = map(float, re.findall(r' y="([\d.]+)"', made))
    assert abs(first - second) >= 14
    assert 'text-anchor="end"' in named([((390.0, 50.0), "at the right edge")], 0, 400)


# ------------------------------------------------------------------------- mixtures of other size


def test_two_sources_have_a_line_and_many_have_small_plots() -> None:
    two = figure(mix(read(several_sources(2))), "shares")
    assert two.count("data-trial=") == 24
    assert len(re.findall(r'class="s-muted"[^>]*stroke-width="1"/>', two)) >= 23  # joined
    part = several_sources(2)
    for i, trial in enumerate(part["trials"]):
        trial["settings"] = {"rate": i}
    joined = len(re.findall(r'class="s-muted"[^>]*stroke-width="1"/>', two))
    loose = figure(mix(read(part)), "shares")
    assert len(re.findall(r'class="s-muted"[^>]*stroke-width="1"/>', loose)) == joined - 23
    many = mix(read(several_sources(5)))
    assert many.count('class="figure curve shares"') == 5
    assert many.count("data-trial=") == 5 * 24


# ------------------------------------------------------------------------ parallel coordinates


def test_lanes_are_settings_then_objectives_and_logarithmic_where_the_space_says_so() -> None:
    found = read(search_part())
    every = {lane.name: lane for lane in lanes(found)}
    assert list(every) == [*SOURCES, "learning_rate", "rank", FIRST, SECOND]
    low, middle, high = (
        every["learning_rate"].place(t)
        for t in read(_with_rates(5e-5, math.sqrt(5e-5 * 1e-3), 1e-3)).trials[:3]
    )
    assert (low, middle, high) == pytest.approx((0, 0.5, 1))
    assert [w for _, w in every["learning_rate"].ticks] == [
        "5e-05",
        "0.0001",
        "0.0002",
        "0.0005",
        "0.001",
    ]
    assert [w for _, w in every["rank"].ticks] == ["8", "32", "64"]
    assert "log" in every["learning_rate"].above


def _with_rates(*rates: float) -> dict[str, Any]:
    part = search_part()
    ranked = [t.number for t in read(part).trials]
    for number, rate in zip(ranked, rates, strict=False):
        part["trials"][number]["settings"][RATE] = rate
    return part


@given(st.floats(1e-9, 1e9), st.floats(1.01, 1e12))
def test_logarithmic_ticks_are_few_ordered_and_hold_both_ends(low: float, ratio: float) -> None:
    high = low * ratio
    values = [v for v, _ in log_ticks(low, high)]
    assert values == sorted(values)
    assert values[0] == low
    assert values[-1] == high
    assert 2 <= len(values) <= 9


def test_every_trial_has_a_line_the_best_on_top_and_failed_ones_dashed() -> None:
    found = read(search_part())
    drawn = figure(parallel(found), "parallel")
    numbers = re.findall(r'data-line="(\d+)"', drawn)
    assert sorted(map(int, numbers)) == list(range(24))
    assert numbers[-1] == "12"
    assert numbers[-2] == str(found.measured[1].number)
    dashed = re.findall(r'stroke-dasharray="4 4" data-line="(\d+)"', drawn)
    assert sorted(map(int, dashed)) == [7, 19]
    assert 'stroke-width="3.4"' in drawn


def test_a_line_is_broken_where_a_trial_has_no_value() -> None:
    part = search_part()
    del part["trials"][0]["settings"][RANK]
    drawn = figure(parallel(read(part)), "parallel")
    own = re.search(r'<path d="([^"]*)"[^>]*data-line="0"', drawn)
    assert own is not None
    assert own.group(1).count("M") == 2


# -------------------------------------------------------------------------------------- fronts


def test_the_front_is_a_staircase_through_the_trials_that_none_beats() -> None:
    found = read(search_part())
    first, second = found.objectives
    stairs = staircase([t for t in found.trials if t.number in found.front], first, second)
    assert {t.number for t in stairs} == set(found.front)
    drawn = figure(front(found), "pareto")
    line = re.search(r'front" points="([^"]*)"', drawn)
    assert line is not None
    points = [tuple(map(float, p.split(","))) for p in line.group(1).split()]
    for (x1, y1), (x2, y2) in pairwise(points):
        assert x1 == x2 or y1 == y2
        assert x2 >= x1  # the loss grows to the right,
        assert y2 <= y1  # and what is had for it grows upwards
    assert len(points) == 2 * len(stairs) + 1
    # From a trial the edge runs level, then up: it never promises what neither neighbour reached.
    assert all(points[i][1] == points[i + 1][1] for i in range(1, len(points), 2))
    assert drawn.count("data-trial=") == 22
    assert drawn.count('stroke-opacity="0.6"') == 44


@pytest.mark.parametrize(("goals", "expected"), [("max min", [3, 1]), ("min max", [2, 0])])
def test_trials_that_another_one_beats_are_no_step(goals: str, expected: list[int]) -> None:
    part = of_mixes(*[(0.2, 0.3, 0.5)] * 4)
    part["objectives"] = [
        {"name": name, "goal": goal} for name, goal in zip("ab", goals.split(), strict=True)
    ]
    values = [(0.3, 0.9), (0.9, 0.5), (0.2, 0.6), (0.5, 0.4)]
    for trial, (a, b) in zip(part["trials"], values, strict=True):
        trial["values"] = {"a": {"value": a}, "b": {"value": b}}
    found = read(part)
    stairs = staircase(found.trials, *found.objectives)
    assert sorted(t.number for t in stairs) == sorted(expected)
    assert len(stairs) < len(found.trials)


def test_of_one_objective_the_cost_is_drawn() -> None:
    shown = front(read(several_sources(3)))
    assert "What it costs" in shown
    assert figure(shown, "cost-of").count("data-trial=") == 24
    assert re.findall(r">(\d+k)<", figure(shown, "cost-of"))
    part = several_sources(3)
    for trial in part["trials"]:
        del trial["tokens"]
    assert "No trial has both a value and its number of tokens" in front(read(part))


def test_stopped_trials_end_in_a_tick() -> None:
    found = read(search_part())
    drawn = figure(rungs(found), "rungs")
    stopped = sum(t.state == "stopped" for t in found.trials)
    assert drawn.count('class="s-ink stopped"') == stopped == 5
    assert drawn.count("data-rungs=") == 22
    assert drawn.count("data-end=") == 17
    assert re.findall(r">(\d+)<", drawn) == ["40", "80", "160"]
