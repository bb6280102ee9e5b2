"""A mixture of three sources as a triangle: trials by their shares, over the law's prediction.

The first source's share is 1 at the top, the second's at the lower left, the third's at the lower
right; ticks stand where their grid lines leave the triangle.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msm_ray.report.figures import INK, MUTED, clip, line, text
from msm_ray.report.search_found import Found, Trial
from msm_ray.report.search_plot import (
    SHADES,
    Place,
    Scale,
    colour_key,
    dot,
    finish,
    named,
    ring,
    rings,
)
from msm_ray.report.text import esc, items, mapping, number

Shares = tuple[float, float, float]
TICKS = (0.2, 0.4, 0.6, 0.8)
SLOPE = math.sqrt(3) / 2  # height of the triangle for a side of 1


@dataclass(frozen=True)
class Triangle:
    """Where shares lie, in pixels: ``left``, ``floor`` is the lower left corner."""

    left: float
    floor: float
    side: float

    def place(self, shares: Shares) -> Place:
        """The point of shares that sum to one."""
        first, _, third = shares
        return self.left + self.side * (third + first / 2), self.floor - self.side * SLOPE * first


def shares_of(mix: Mapping[str, Any], sources: Sequence[str]) -> Shares | None:
    """The shares of three sources, made to sum to one; None where one is missing or negative."""
    found = [number(mix.get(s)) for s in sources]
    own = [x for x in found if x is not None and x >= 0]
    total = sum(own)
    if len(own) != 3 or not 0.5 < total < 2:
        return None
    return own[0] / total, own[1] / total, own[2] / total


def ternary(found: Found, colours: Scale, sources: Sequence[str], narrow: bool) -> str:
    """The triangle in one layout."""
    width = 420.0 if narrow else 820.0
    shape = Triangle(52, 352, 316) if narrow else Triangle(96, 470, 470)
    parts = [_cells(found, colours, sources, shape), _grid(shape, sources, narrow)]
    at = [(t, shape.place(s)) for t in found.drawn if (s := shares_of(t.mix, sources))]
    for trial, where in reversed(at):  # the best on top
        own = trial.values.get(colours.objective.name)
        parts.append(dot(found, trial, colours.shade(own.value) if own else None, where, 5.2))
    parts.append(rings(found, at, 2, width - 2))
    predicted = predicted_shares(found, sources)
    if predicted:
        where = shape.place(predicted)
        near = any(math.dist(where, p) < 12 for t, p in at if t is found.best)
        parts.append(ring(where, "predicted"))
        # Its name would lie on the best trial's.
        parts.append("" if near else named([(where, "predicted best")], 2, width - 2))
    left, top = (52.0, 420.0) if narrow else (600.0, 40.0)
    room = 316.0 if narrow else 200.0
    parts.append(colour_key(found, colours, left, top, room))
    keys, used = _keys(found, bool(predicted), left, top + 66)
    parts.append(keys)
    height = top + 66 + used if narrow else 535.0
    label = f"{colours.objective.name} by the shares of {', '.join(sources)}"
    return finish(width, height, "".join(parts), label, narrow, "ternary")


def predicted_shares(found: Found, sources: Sequence[str]) -> Shares | None:
    """The mix that the law predicts to be the best."""
    law = mapping(found.part.get("law"))
    return shares_of(mapping(mapping(law.get("predicted")).get("mix")), sources)


def surface(found: Found, sources: Sequence[str]) -> list[tuple[Shares, float]]:
    """The law's predictions that have a place in the triangle and a value."""
    points = []
    for point in map(mapping, items(mapping(found.part.get("law")).get("surface"))):
        shares, value = shares_of(mapping(point.get("mix")), sources), number(point.get("value"))
        if shares is not None and value is not None:
            points.append((shares, value))
    return points


def _keys(found: Found, predicted: bool, x: float, y: float) -> tuple[str, float]:
    """What the marks mean, one below the other: markup and its height."""
    kinds: list[tuple[str, str]] = []
    if found.best:
        kinds.append((ring((x + 8, 0), "best"), "the best trial of the search"))
    if found.confirmed:
        kinds.append((ring((x + 8, 0), "confirmed"), "run again on fresh seeds"))
    if predicted:
        kinds.append((ring((x + 8, 0), "predicted"), "the law's best mix"))
    drawn: list[Trial] = found.drawn
    measured = [t for t in drawn if found.first and found.first.name in t.values]
    if any(t.phase == "swarm" for t in measured):
        mark = f'<rect x="{x + 4:.1f}" y="-4" width="8" height="8" class="s-ink" fill="none"'
        kinds.append((f'{mark} stroke="{INK}"/>', "a small run of the swarm"))
    if any(t.feasible is False for t in measured):
        mark = f'<circle cx="{x + 8:.1f}" cy="0" r="5" class="s-ink" fill="none"'
        kinds.append((f'{mark} stroke="{INK}" stroke-width="2"/>', "hollow: constraints not met"))
    if len(measured) < len(drawn):
        path = f'<path d="M{x + 4.5:.1f},-3.5l7,7m0,-7l-7,7" class="s-muted" fill="none"'
        kinds.append((f'{path} stroke="{MUTED}" stroke-width="1.4"/>', "no value: failed, missing"))
    parts = [
        f'<g transform="translate(0 {y + 26 * i:.1f})">{mark}'
        f"{text(x + 28, 4, words, 12.5, MUTED)}</g>"
        for i, (mark, words) in enumerate(kinds)
    ]
    return "".join(parts), 26.0 * len(kinds)


def _grid(shape: Triangle, sources: Sequence[str], narrow: bool) -> str:
    """Edges, grid lines with ticks, and the names of the sources."""
    parts: list[str] = []
    size = 11.0 if narrow else 12.0
    for t in TICKS:
        words = f"{t:g}"
        x, y = shape.place((t, 0, 1 - t))
        parts.append(line(*shape.place((t, 1 - t, 0)), x, y))
        parts.append(text(x + 6, y + 4, words, size, MUTED))
        x, y = shape.place((1 - t, t, 0))
        parts.append(line(x, y, *shape.place((0, t, 1 - t))))
        parts.append(text(x - 5, y - 4, words, size, MUTED, "end"))
        x, y = shape.place((0, 1 - t, t))
        parts.append(line(x, y, *shape.place((1 - t, 0, t))))
        parts.append(text(x - 5, y + 14, words, size, MUTED, "middle"))
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in (shape.place(c) for c in CORNERS))
    parts.append(
        f'<polygon class="s-ink triangle" points="{corners}" fill="none" stroke="{INK}"'
        ' stroke-width="1.3"/>'
    )
    names = [clip(s, 14 if narrow else 20) for s in sources]
    x, y = shape.place(CORNERS[0])
    parts.append(text(x, y - 8, f"all {names[0]}", 13, INK, "middle", 600))
    x, y = shape.place(CORNERS[1])
    # Under the corners, clear of the ticks, and never beyond the figure's edge.
    half = 3.9 * len(f"all {names[1]}")
    parts.append(text(max(x, half + 2), y + 33, f"all {names[1]}", 13, INK, "middle", 600))
    x, y = shape.place(CORNERS[2])
    parts.append(text(x, y + 33, f"all {names[2]}", 13, INK, "middle", 600))
    # Each edge's name, along it, in the sense in which its share grows.
    off = 34.0 if narrow else 40.0
    for name, middle, turn, (dx, dy) in (
        (f"← {names[0]}", (0.5, 0.0, 0.5), 60, (off * SLOPE, -off / 2)),
        (f"← {names[1]}", (0.5, 0.5, 0.0), -60, (-off * SLOPE, -off / 2)),
        (f"{names[2]} →", (0.0, 0.5, 0.5), 0, (0.0, off - 1)),
    ):
        x, y = shape.place(middle)
        turned = f'<g transform="translate({x + dx:.1f} {y + dy:.1f}) rotate({turn})">'
        parts.append(f"{turned}{text(0, 4, name, 12.5, MUTED, 'middle')}</g>")
    return "".join(parts)


CORNERS: tuple[Shares, Shares, Shares] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


# ------------------------------------------------------------------------- the law's surface


def _cells(found: Found, colours: Scale, sources: Sequence[str], shape: Triangle) -> str:
    """Predictions as hexagons round their points, cut at the edges; one path for each colour."""
    points = surface(found, sources)
    if not points:
        return ""
    radius = spacing([p for p, _ in points]) / math.sqrt(3)
    paths: dict[int, list[str]] = {}
    for shares, value in points:
        corners = [shape.place(c) for c in cell(shares, radius)]
        if len(corners) > 2:
            drawn = "L".join(f"{x:.1f},{y:.1f}" for x, y in corners)
            paths.setdefault(colours.shade(value), []).append(f"M{drawn}z")
    drawn = "".join(
        f'<path d="{"".join(d)}" class="q{shade} k{shade}" fill="{SHADES[shade]}"'
        f' stroke="{SHADES[shade]}" stroke-width="0.7"/>'
        for shade, d in sorted(paths.items())
    )
    said = f"<title>{esc(f'predicted {colours.objective.name}')}</title>"
    return f'<g class="surface" opacity="0.5" stroke-linejoin="round">{said}{drawn}</g>'


def spacing(points: Sequence[Shares]) -> float:
    """The distance of neighbours on a grid of shares, as a part of the triangle's side."""
    found = []
    for p in points[:40]:
        near = [d for q in points if (d := _apart(p, q)) > 1e-9]
        if near:
            found.append(min(near))
    return statistics.median(found) if found else 0.1


def _apart(p: Shares, q: Shares) -> float:
    """The distance in the plane of two points, in sides of the triangle."""
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) / 2)


def cell(shares: Shares, radius: float) -> list[Shares]:
    """The hexagon round a point, cut at the triangle (Sutherland and Hodgman 1974)."""
    corners: list[Shares] = []
    for i in range(6):
        angle = math.radians(90 + 60 * i)
        first = shares[0] + radius * math.sin(angle) / SLOPE
        third = shares[2] + radius * math.cos(angle) - radius * math.sin(angle) / SLOPE / 2
        corners.append((first, 1 - first - third, third))
    for i in range(3):
        kept: list[Shares] = []
        for before, after in zip(corners[-1:] + corners[:-1], corners, strict=True):
            if (before[i] >= 0) != (after[i] >= 0):
                at = before[i] / (before[i] - after[i])
                a, b, c = (u + at * (v - u) for u, v in zip(before, after, strict=True))
                kept.append((a, b, c))
            if after[i] >= 0:
                kept.append(after)
        corners = kept
        if not corners:
            break
    return corners
