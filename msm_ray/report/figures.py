"""Figures as inline SVG: intervals by row, and small line charts.

Colours stand in the attributes, in the light palette, so that a figure copied out of the page is
complete; the page's style sheet overrides them for the dark theme through the class names.
Series colours are those of Okabe and Ito (2008), told apart by the colour-blind, and every series
has its own marker shape as well, for print without colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msm_ray.report.text import esc, fixed, interval

INK, MUTED, RULE = "#1c1c1a", "#6b6a64", "#d9d7cf"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#b0569a", "#b38600", "#3f9bd1", "#7a4b1e", "#555555")
FONT = "ui-sans-serif, system-ui, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Dot:
    """One run's value; ``series`` indexes the legend (the base model)."""

    series: int
    value: float
    title: str


@dataclass(frozen=True)
class Row:
    """One line of an interval figure. ``value`` None: nothing was measured.

    ``muted`` greys it: a difference that is not shown to be one.
    """

    label: str
    sublabels: tuple[str, ...]  # up to two lines below the label, in the wide layout
    value: float | None
    low: float | None
    high: float | None
    dots: tuple[Dot, ...]
    starts_group: bool = False
    muted: bool = False


@dataclass(frozen=True)
class Axis:
    """The horizontal axis: range, ticks with their text, title, and an optional reference line."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    title: str
    reference: float | None = None
    reference_label: str = ""
    digits: int = 2
    sign: bool = False


def auto_axis(
    values: Sequence[float],
    title: str,
    reference: float | None = None,
    reference_label: str = "",
    sign: bool = False,
) -> Axis:
    """An axis with round ticks around ``values`` (and the reference line, where there is one)."""
    every = [*values, *([reference] if reference is not None else [])] or [0.0, 1.0]
    low, high = min(every), max(every)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 0.1
    low, high = low - room, high + room
    raw = (high - low) / 5.5
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * magnitude >= raw) * magnitude
    digits = max(0, min(6, -math.floor(math.log10(step) + 1e-9) + (step / magnitude == 2.5)))
    first = math.ceil(low / step - 1e-9)
    ticks = [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return Axis(
        low,
        high,
        tuple((t, fixed(t, digits, sign)) for t in ticks),
        title,
        reference,
        reference_label,
        max(2, digits),
        sign,
    )


RATE_TICKS = tuple((t, f"{t:.2f}".rstrip("0").rstrip(".") or "0") for t in (0, 0.25, 0.5, 0.75, 1))


def rate_axis(title: str, reference: float | None = 0.5, reference_label: str = "") -> Axis:
    """The axis of a share, 0 to 1."""
    return Axis(0.0, 1.0, RATE_TICKS, title, reference, reference_label)


def text(
    x: float,
    y: float,
    content: str,
    size: float = 13,
    fill: str = INK,
    anchor: str = "start",
    weight: int = 400,
) -> str:
    """One line of SVG text; the class follows the colour, for the dark theme."""
    name = {INK: "ink", MUTED: "muted"}.get(fill, "")
    bold = f' font-weight="{weight}"' if weight != 400 else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{name}" font-size="{size}" fill="{fill}"'
        f' text-anchor="{anchor}"{bold}>{esc(content)}</text>'
    )


def line(
    x1: float, y1: float, x2: float, y2: float, colour: str = RULE, width: float = 1, dash: str = ""
) -> str:
    """A straight line; the class follows the colour, for the dark theme."""
    name = {INK: "s-ink", MUTED: "s-muted", RULE: "s-rule"}.get(colour, "")
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{name}"'
        f' stroke="{colour}" stroke-width="{width}"{dashes}/>'
    )


def marker(series: int, x: float, y: float, radius: float = 3.6, title: str = "") -> str:
    """The series' shape (circle, square, triangle, diamond, ...) in its colour."""
    colour, r = SERIES[series % len(SERIES)], radius
    style = f'class="c{series % len(SERIES)} halo" fill="{colour}" stroke="#ffffff"'
    hint = f"<title>{esc(title)}</title>" if title else ""
    shape = series % 4
    if shape == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" {style}>{hint}</circle>'
    corners = {
        1: ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
        2: ((0.0, -1.15), (1.1, 0.85), (-1.1, 0.85)),
        3: ((0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)),
    }[shape]
    points = " ".join(f"{x + dx * r:.1f},{y + dy * r:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" {style}>{hint}</polygon>'


def svg(width: float, height: float, body: str, label: str, classes: str) -> str:
    """A figure of ``width`` x ``height`` CSS pixels that shrinks with its column."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{classes}" role="img"'
        f' aria-label="{esc(label)}" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
        f' height="{height:.0f}" font-family="{FONT}">{body}</svg>'
    )


def legend(names: Sequence[str], x: float, y: float, room: float) -> tuple[str, float]:
    """Markers with the series' names, wrapped to ``room`` pixels; returns (markup, height)."""
    parts, left, top = [], x, y
    for i, name in enumerate(names):
        shown = clip(name, 26)
        need = 26 + 6.6 * len(shown)
        if left > x and left + need > x + room:
            left, top = x, top + 18
        parts.append(marker(i, left + 5, top - 4, 4.2))
        parts.append(text(left + 14, top, shown, 12, MUTED))
        left += need
    return "".join(parts), top - y + 18


def clip(name: str, length: int) -> str:
    """``name``, cut in its middle to ``length`` characters."""
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return f"{name[:head]}…{name[-(length - 1 - head) :]}"


def label_width(rows: Sequence[Row]) -> float:
    """Room for the rows' labels in the wide layout, in pixels.

    For the widest of the usual sans-serif faces: a label must never be cut by the figure's edge.
    """
    labels = [9.4 * len(r.label) for r in rows] + [6.9 * len(s) for r in rows for s in r.sublabels]
    return min(330.0, max(110.0, max(labels, default=0.0) + 20))


def _value_words(row: Row, axis: Axis) -> tuple[str, str]:
    """The estimate and its interval as text; for one run, which has none, that it is one."""
    words = fixed(row.value, axis.digits, axis.sign)
    if row.value is None:
        return words, ""
    if row.low is None or row.high is None:
        return words, "one run" if len(row.dots) == 1 else "no interval"
    return words, interval((row.low, row.high), axis.digits, axis.sign)


def _value_width(rows: Sequence[Row], axis: Axis) -> float:
    """Room for the estimates beside the plot, in pixels."""
    texts = [_value_words(r, axis) for r in rows]
    return max((9.2 * len(words) + 7.0 * len(bounds) for words, bounds in texts), default=0) + 26


def interval_figure(
    rows: Sequence[Row],
    axis: Axis,
    names: Sequence[str],
    label: str,
    narrow: bool,
    left: float = 0.0,
) -> str:
    """Estimate, 95 % interval and single runs, one row each, over a shared axis.

    Args:
        rows: top to bottom.
        names: the legend: names of the series that the dots belong to (may be empty).
        label: what the figure shows, for those who cannot see it.
        narrow: the layout for a phone's width: labels above the rows, else to their left.
        left: width of the labels' column, where figures share one; else `label_width` of the rows.
    """
    beside = not narrow
    width = 420.0 if narrow else 820.0
    left = (left or label_width(rows)) if beside else 22.0
    right = width - (_value_width(rows, axis) if beside else 22.0)
    top, bottom = 4.0, 46.0
    parts: list[str] = []
    if names:
        markup, used = legend(names, left, top + 12, right - left)
        parts.append(markup)
        top += used
    if axis.reference_label:
        top += 16
    taller = 12.0 if any(len(r.sublabels) > 1 for r in rows) else 0.0
    height_of_row = 46.0 + taller if beside else 58.0
    heights = [height_of_row + (10.0 if r.starts_group else 0.0) for r in rows]
    floor = top + sum(heights) + 4

    def x_of(value: float) -> float:
        share = (value - axis.low) / (axis.high - axis.low)
        return left + (right - left) * min(1.0, max(0.0, share))

    for value, words in axis.ticks:
        parts.append(line(x_of(value), top, x_of(value), floor))
        parts.append(text(x_of(value), floor + 17, words, 12, MUTED, "middle"))
    if axis.reference is not None:
        x = x_of(axis.reference)
        parts.append(line(x, top - 2, x, floor, MUTED, 1.2, "3 3"))
        if axis.reference_label:
            half = 3.3 * len(axis.reference_label)
            x = min(max(x, half), width - half)
            parts.append(text(x, top - 7, axis.reference_label, 11, MUTED, "middle"))
    parts.append(text((left + right) / 2, floor + 36, axis.title, 12.5, INK, "middle"))
    y = top
    for row, height in zip(rows, heights, strict=True):
        if row.starts_group and row is not rows[0]:
            parts.append(line(0 if beside else left, y + 5, width - 4, y + 5, MUTED, 0.5))
        y += 10.0 if row.starts_group else 0.0
        parts.append(_row(row, axis, y, left, right, width, beside, x_of, len(names)))
        y += height - (10.0 if row.starts_group else 0.0)
    kind = "narrow" if narrow else "wide"
    return svg(width, floor + bottom, "".join(parts), label, f"figure {kind}")


def _row(
    row: Row,
    axis: Axis,
    y: float,
    left: float,
    right: float,
    width: float,
    beside: bool,
    x_of: Callable[[float], float],
    series: int,
) -> str:
    """One row: label, estimate in words, interval bar, and below it a dot for every run."""
    parts: list[str] = []
    words, bounds = _value_words(row, axis)
    ink = MUTED if row.muted else INK
    if beside:
        first = y + (12 if len(row.sublabels) > 1 else 18)
        label = clip(row.label, int((left - 18) / 9.4))
        parts.append(text(left - 16, first, label, 14, ink, "end", 600))
        for i, words_below in enumerate(row.sublabels):
            below = clip(words_below, int((left - 18) / 6.9))
            parts.append(text(left - 16, first + 15 + 13.5 * i, below, 11.5, MUTED, "end"))
        if row.value is None:
            parts.append(text(right + 14, y + 18, words, 12.5, MUTED))
        else:
            parts.append(text(right + 14, y + 18, words, 14, ink, weight=600))
            parts.append(text(right + 18 + 9.2 * len(words), y + 18, bounds, 12, MUTED))
        bar = y + 14
    else:
        spare = int((right - left - 7.4 * (len(words) + len(bounds)) - 12) / 8.4)
        parts.append(text(left, y + 12, clip(row.label, spare), 13, ink, weight=600))
        end = text(right, y + 12, f"{words} {bounds}".strip(), 12.5, ink, "end")
        parts.append(end)
        bar = y + 27
    if row.value is None:
        return "".join(parts)
    if row.low is not None and row.high is not None:
        parts.append(line(x_of(row.low), bar, x_of(row.high), bar, ink, 2.6))
        for edge in (row.low, row.high):
            parts.append(line(x_of(edge), bar - 4, x_of(edge), bar + 4, ink, 1.6))
    parts.append(
        f'<circle cx="{x_of(row.value):.1f}" cy="{bar:.1f}" r="5.2"'
        f' class="{"muted" if row.muted else "ink"} halo" fill="{ink}" stroke="#ffffff"'
        ' stroke-width="1.2"/>'
    )
    lane = min(5.5, 15.0 / max(1, series))
    for dot in row.dots:
        offset = (dot.series - (series - 1) / 2) * lane
        parts.append(marker(dot.series, x_of(dot.value), bar + 16 + offset, 3.4, dot.title))
    return "".join(parts)


@dataclass(frozen=True)
class Curve:
    """One line of a chart; ``series`` gives its colour."""

    series: int
    points: tuple[tuple[float, float], ...]
    title: str


def curves_figure(
    curves: Sequence[Curve], title: str, low: float, high: float, digits: int = 2
) -> str:
    """A small chart of loss by step; ``low`` and ``high`` are shared with its neighbours."""
    width, height = 250.0, 158.0
    left, right, top, floor = 40.0, width - 10.0, 26.0, height - 30.0
    steps = [p[0] for c in curves for p in c.points]
    start, last = min(steps, default=0.0), max(steps, default=1.0)
    length = (last - start) or 1.0
    span = (high - low) or 1.0
    parts = [text(0, 13, clip(title, 34), 12.5, INK, weight=600)]
    for value in (low, (low + high) / 2, high):
        y = floor - (floor - top) * (value - low) / span
        parts.append(line(left, y, right, y))
        parts.append(text(left - 5, y + 4, fixed(value, digits), 10.5, MUTED, "end"))
    for step, anchor in ((start, "start"), (last, "end")):
        x = left + (right - left) * (step - start) / length
        parts.append(text(x, floor + 14, f"{step:,.0f}", 10.5, MUTED, anchor))
    parts.append(text((left + right) / 2, floor + 14, "step", 10.5, MUTED, "middle"))
    for curve in curves:
        where = [
            (left + (right - left) * (s - start) / length, floor - (floor - top) * (v - low) / span)
            for s, v in curve.points
        ]
        if len(where) == 1:
            parts.append(marker(curve.series, *where[0], 3, curve.title))
            continue
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
        colour = SERIES[curve.series % len(SERIES)]
        parts.append(
            f'<polyline points="{points}" class="l{curve.series % len(SERIES)}" fill="none"'
            f' stroke="{colour}" stroke-width="1.4" stroke-linejoin="round" opacity="0.85">'
            f"<title>{esc(curve.title)}</title></polyline>"
        )
    return svg(width, height, "".join(parts), f"{title}: loss by step", "figure curve")
