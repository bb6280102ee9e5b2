"""Dose curves: a value with its interval by how much of something, as SVG, with its table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msm_ray.report.figures import INK, MUTED, SERIES, auto_axis, legend, line, marker, svg, text
from msm_ray.report.text import (
    esc,
    fixed,
    interval,
    items,
    mapping,
    note,
    number,
    numbers,
    short_count,
    sortable,
    word,
)

LOG_SPAN = 8.0  # an axis of doses that span more than this is logarithmic
TICK_ROOM = 54.0  # pixels between two ticks


@dataclass(frozen=True)
class Point:
    """One dose: ``x``, the value, its interval where there is one, and its own words."""

    x: float
    value: float
    ci95: tuple[float, float] | None
    label: str


@dataclass(frozen=True)
class Series:
    """One line, its points by dose."""

    name: str
    points: tuple[Point, ...]


def read_series(curve: Mapping[str, Any]) -> list[Series]:
    """The lines of one entry of a report's ``curves``; points without numbers are left out."""
    found = []
    for entry in (mapping(s) for s in items(curve.get("series"))):
        points = []
        for point in (mapping(p) for p in items(entry.get("points"))):
            x, value = number(point.get("x")), number(point.get("value"))
            if x is not None and value is not None:
                label = word(point.get("label"), "")
                points.append(Point(x, value, numbers(point.get("ci95")), label))
        if points:
            points.sort(key=lambda p: p.x)
            found.append(Series(word(entry.get("name"), "?"), tuple(points)))
    return found


def curves(report: Mapping[str, Any]) -> str:
    """Every dose curve, with its numbers below."""
    parts = []
    for curve in (mapping(c) for c in items(report.get("curves"))):
        series = read_series(curve)
        title = word(curve.get("title"), "Dose curve")
        if not series:
            parts.append(f"<h3>{esc(title)}</h3><p>No point of it was measured.</p>")
            continue
        x_title, y_title = word(curve.get("x_title"), "dose"), word(curve.get("y_title"), "value")
        drawn = "".join(
            line_figure(series, title, x_title, y_title, narrow) for narrow in (False, True)
        )
        parts.append(
            f"<h3>{esc(title)}</h3><figure>{drawn}</figure>"
            + _numbers(title, x_title, y_title, series)
        )
    if not parts:
        return "<p>No dose was varied in this run.</p>"
    return "".join(parts) + note(
        "A point is the mean over bases and seeds, its bar the 95 % interval; points of one line"
        " are joined for the eye only. Where doses span more than eight times the smallest, the"
        " axis is logarithmic; a dose of zero stands left of its break."
    )


def _numbers(title: str, x_title: str, y_title: str, series: Sequence[Series]) -> str:
    rows: list[list[str | tuple[str, float | str | None]]] = [
        [
            f"<b>{esc(s.name)}</b>",
            (short_count(p.x) if abs(p.x) >= 1000 else f"{p.x:g}", p.x),
            (fixed(p.value, 3), p.value),
            interval(p.ci95, 3) or "no interval",
            esc(p.label),
        ]
        for s in series
        for p in s.points
    ]
    head = ["", esc(x_title), esc(y_title), "95 % interval", ""]
    return sortable(title, head, rows, "numbers", (0,) if len(series) > 1 else ())


# ---------------------------------------------------------------------------------- the figure


@dataclass(frozen=True)
class Doses:
    """The horizontal axis: where a dose lies (0 to 1), and the ticks with their text."""

    place: Callable[[float], float]
    ticks: tuple[tuple[float, str], ...]
    is_log: bool
    break_at: float | None  # between zero and the logarithmic part


def doses(values: Sequence[float], most_ticks: int = 8) -> Doses:
    """The axis for ``values``: logarithmic where the positive ones span more than `LOG_SPAN`.

    Zero has no logarithm: it gets a place of its own at the left, behind a break. The ticks stand
    at doses that were measured, thinned out to ``most_ticks``.
    """
    every = sorted(set(values))
    positive = [v for v in every if v > 0]
    is_log = bool(positive) and every[0] >= 0 and positive[-1] / positive[0] > LOG_SPAN
    zero = is_log and every[0] == 0
    start = 0.13 if zero else 0.0

    def scaled(v: float) -> float:
        return math.log(v) if is_log else v

    ends = positive if is_log else every
    low, high = scaled(ends[0]), scaled(ends[-1])

    def place(v: float) -> float:
        if is_log and v <= 0:
            return 0.0
        share = 0.5 if high == low else (scaled(v) - low) / (high - low)
        return start + (1 - start) * min(1.0, max(0.0, share))

    chosen = every[:: max(1, math.ceil(len(every) / max(1, most_ticks)))]
    ticks: list[tuple[float, str]] = []
    for v in chosen:
        if not ticks or place(v) - place(ticks[-1][0]) >= 0.6 / max(1, most_ticks):
            ticks.append((v, short_count(v) if abs(v) >= 1000 else f"{v:g}"))
    return Doses(place, tuple(ticks), is_log, start / 2 if zero else None)


def line_figure(
    series: Sequence[Series], title: str, x_title: str, y_title: str, narrow: bool
) -> str:
    """One line per series with its intervals; ``narrow`` is the layout for a phone's width."""
    width, height = (420.0, 330.0) if narrow else (820.0, 400.0)
    left, right, floor = 54.0, width - 22.0, height - 52.0
    parts: list[str] = []
    top = 26.0
    if len(series) > 1:
        markup, used = legend([s.name for s in series], left, 14, right - left)
        parts.append(markup)
        top = used + 22
        floor += used
        height += used
    points = [p for s in series for p in s.points]
    spread = [b for p in points for b in (p.ci95 or ())]
    y_axis = auto_axis([p.value for p in points] + spread, y_title)
    x_axis = doses([p.x for p in points], int((right - left) / TICK_ROOM))

    def x_of(value: float) -> float:
        return left + 10 + (right - left - 20) * x_axis.place(value)

    def y_of(value: float) -> float:
        return floor - (floor - top) * (value - y_axis.low) / (y_axis.high - y_axis.low)

    parts.append(text(left - 44, top - 10, y_title, 12.5, INK))
    for value, words in y_axis.ticks:
        parts.append(line(left, y_of(value), right, y_of(value)))
        parts.append(text(left - 7, y_of(value) + 4, words, 12, MUTED, "end"))
    parts.append(line(left, floor, right, floor, MUTED))
    for value, words in x_axis.ticks:
        parts.append(line(x_of(value), floor, x_of(value), floor + 4, MUTED))
        parts.append(text(x_of(value), floor + 18, words, 12, MUTED, "middle"))
    if x_axis.break_at is not None:
        x = left + 10 + (right - left - 20) * x_axis.break_at
        parts.append(text(x, floor + 4.5, "//", 12, MUTED, "middle"))
    scale = f"{x_title} (logarithmic)" if x_axis.is_log else x_title
    parts.append(text((left + right) / 2, floor + 38, scale, 12.5, INK, "middle"))
    for i, one in enumerate(series):
        parts.append(_line(i, len(series), one, x_of, y_of))
    kind = "narrow" if narrow else "wide"
    label = f"{title}: {y_title} by {x_title}, with 95 % intervals"
    return svg(width, height, "".join(parts), label, f"figure {kind}")


def _line(
    index: int,
    of: int,
    series: Series,
    x_of: Callable[[float], float],
    y_of: Callable[[float], float],
) -> str:
    """One series; intervals of several at one dose stand beside each other."""
    colour, kind = SERIES[index % len(SERIES)], index % len(SERIES)
    shift = (index - (of - 1) / 2) * 3.0
    where = [(x_of(p.x) + shift, y_of(p.value)) for p in series.points]
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
    parts = [
        f'<polyline points="{joined}" class="l{kind}" fill="none" stroke="{colour}"'
        ' stroke-width="1.6" stroke-linejoin="round"/>'
    ]
    for (x, y), point in zip(where, series.points, strict=True):
        if point.ci95 is not None:
            low, high = y_of(point.ci95[0]), y_of(point.ci95[1])
            for x1, y1, x2, y2 in (
                (x, low, x, high),
                (x - 4, low, x + 4, low),
                (x - 4, high, x + 4, high),
            ):
                parts.append(
                    f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
                    f' class="l{kind}" stroke="{colour}" stroke-width="1.4"/>'
                )
        said = f"{series.name}, {point.label or f'{point.x:g}'}: {fixed(point.value, 3)}"
        parts.append(marker(index, x, y, 4.4, f"{said} {interval(point.ci95, 3)}".strip()))
    return "".join(parts)
