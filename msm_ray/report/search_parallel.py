"""All settings and objectives beside each other: a line through them for each trial."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msm_ray.report.figures import INK, MUTED, auto_axis, clip, line, text
from msm_ray.report.search_found import Dimension, Found, Trial, shown
from msm_ray.report.search_mix import drawn_words
from msm_ray.report.search_plot import (
    SHADES,
    Place,
    Scale,
    axis_of,
    colour_key,
    counted,
    finish,
    scale,
    share,
    two_layouts,
)
from msm_ray.report.text import esc, short_count

CROWDED = 125.0  # pixels between axes below which their names take two levels
MOST_BESIDE = 9  # axes that stand beside each other; more lie below each other
Ticks = tuple[tuple[float, str], ...]  # place on the axis, 0 to 1, and words


@dataclass(frozen=True)
class Lane:
    """One axis: its name in two parts, and where a trial lies on it (None: it has no value)."""

    above: str
    name: str
    ticks: Ticks
    place: Callable[[Trial], float | None]


def parallel(found: Found) -> str:
    """The part of the page: the figure, or a sentence why there is none."""
    heading, every = "<h3>All settings and objectives</h3>", lanes(found)
    if len(every) < 2:
        return f"{heading}<p>Fewer than two settings and objectives have values to draw.</p>"
    colours = scale(found)
    caption = (
        "<b>How to read this.</b> Each line is a trial, from its settings to what it measured,"
        " coloured by the first objective as above: the stronger, the better. The best trial lies"
        " on top, thick; dashed grey lines failed, are missing or have no value. Lines that"
        " bundle at one place of an axis before they reach good values say that this setting"
        f" matters. {drawn_words(found)}"
    )
    return heading + two_layouts(lambda n: _figure(found, every, colours, n), caption.strip())


# --------------------------------------------------------------------------------------- axes


def lanes(found: Found) -> list[Lane]:
    """An axis for each source of the mixture, each varied setting and each objective."""
    made = []
    if found.mixture is not None:
        for source in found.mixture.sources:
            if any(source in t.mix for t in found.drawn):
                low = found.mixture.floors.get(source, 0.0)
                high = found.mixture.ceilings.get(source, 1.0)
                made.append(_share_lane(source, low, high if high > low else low + 1.0))
    for dimension in found.dimensions:
        if any(dimension.setting in t.settings for t in found.drawn):
            made.append(_among(dimension) if dimension.values else _range(dimension))
    for objective in found.objectives:
        values = [t.values[objective.name] for t in found.drawn if objective.name in t.values]
        if values:
            better = "larger is better" if objective.goal == "max" else "smaller is better"
            axis = axis_of(values, "")
            ticks = tuple((share(axis, v), words) for v, words in axis.ticks)
            made.append(Lane(better, objective.name, ticks, _measure(objective.name, axis)))
    return made


def _measure(name: str, axis: Any) -> Callable[[Trial], float | None]:
    return lambda t: share(axis, t.values[name].value) if name in t.values else None


def _share_lane(source: str, low: float, high: float) -> Lane:
    def place(t: Trial) -> float | None:
        return _between(t.mix[source], low, high) if source in t.mix else None

    return Lane("share of", source, _round_ticks(low, high), place)


def _round_ticks(low: float, high: float) -> Ticks:
    inner = counted(auto_axis([low, high], "")).ticks
    return tuple((_between(v, low, high), w) for v, w in inner if low - 1e-9 <= v <= high + 1e-9)


def _between(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _names(setting: str) -> tuple[str, str]:
    head, _, tail = setting.rpartition(".")
    return head, tail


def _range(dimension: Dimension) -> Lane:
    low, high, is_log = dimension.low, dimension.high, dimension.log
    name = dimension.setting

    def at(value: float) -> float:
        if is_log:
            return _between(math.log(max(value, low)), math.log(low), math.log(high))
        return _between(value, low, high)

    def place(t: Trial) -> float | None:
        value = t.settings.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return at(value) if math.isfinite(value) else None

    if is_log:
        ticks = tuple((at(v), words) for v, words in log_ticks(low, high))
    else:
        ticks = _round_ticks(low, high)
    above, tail = _names(name)
    return Lane(f"{above}{', log' if is_log else ''}".lstrip(", "), tail, ticks, place)


def log_ticks(low: float, high: float, most: int = 6) -> list[tuple[float, str]]:
    """Ticks of a logarithmic axis: 1, 2, 5 in each decade, or decades alone where those are many.

    Always both ends.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    chosen = [low, high]
    for steps in ((1, 2, 5), (1, 3), (1,)):
        inner = [m * 10.0**d for d in decades for m in steps if low < m * 10.0**d < high]
        if len(inner) <= most:
            chosen += inner
            break
    else:
        chosen += inner[:: math.ceil(len(inner) / most)]
    span = math.log(high / low)
    ends = {low, high}
    kept = [
        v
        for v in sorted(set(chosen))
        if v in ends or all(abs(math.log(v / e)) > 0.09 * span for e in ends)
    ]
    return [(v, short_count(v) if v >= 1000 else f"{v:g}") for v in kept]


def _among(dimension: Dimension) -> Lane:
    keys = [json.dumps(v, sort_keys=True, default=str) for v in dimension.values]
    places = {key: (i + 0.5) / len(keys) for i, key in enumerate(keys)}
    step = math.ceil(len(keys) / 10)
    ticks = tuple(
        (places[key], shown(v)) for key, v in list(zip(keys, dimension.values, strict=True))[::step]
    )

    def place(t: Trial) -> float | None:
        if dimension.setting not in t.settings:
            return None
        own = json.dumps(t.settings[dimension.setting], sort_keys=True, default=str)
        return places.get(own)

    return Lane(*_names(dimension.setting), ticks, place)


# ------------------------------------------------------------------------------------- figure


def _figure(found: Found, every: Sequence[Lane], colours: Scale | None, narrow: bool) -> str:
    """Axes side by side, or below each other on a phone and where there are many."""
    stacked = narrow or len(every) > MOST_BESIDE
    width, top = (420.0 if narrow else 820.0), 8.0
    parts: list[str] = []
    if colours is not None:
        parts.append(colour_key(found, colours, 20, 0, 220))
        top = 64.0
    if stacked:
        left, right, gap = 20.0, width - 20.0, 68.0
        height = top + gap * len(every) + 6

        def at(index: int, place: float) -> Place:
            return left + (right - left) * place, top + 26 + gap * index
    else:
        left = 64.0 if found.best is None else max(64.0, 14 + 7.4 * len(_name(found.best)))
        right = width - 74.0
        gap = (right - left) / (len(every) - 1)
        first = top + (84 if gap < CROWDED else 50)
        floor = first + 320
        height = floor + 16

        def at(index: int, place: float) -> Place:
            return left + gap * index, floor - (floor - first) * place

    for trial in reversed(found.drawn):
        if trial is not found.best:
            parts.append(_path(found, trial, every, at, colours, stacked))
    if found.best is not None:
        parts.append(_path(found, found.best, every, at, colours, stacked))
        place = every[0].place(found.best)
        if place is not None and not stacked:
            x, y = at(0, place)
            parts.append(text(x - 8, y + 4, _name(found.best), 12.5, INK, "end", 600))
    for i, lane in enumerate(every):
        parts.append(_axis(lane, i, at, gap, stacked, len(every)))
    label = f"{len(found.drawn)} trials through {', '.join(e.name for e in every)}"
    return finish(width, height, "".join(parts), label, narrow, "parallel")


def _name(best: Trial) -> str:
    return f"{best.number}: best"


def _axis(
    lane: Lane, index: int, at: Callable[[int, float], Place], gap: float, stacked: bool, of: int
) -> str:
    """One axis with its ticks and its name."""
    start, end = at(index, 0.0), at(index, 1.0)
    parts = [line(*start, *end, INK, 1.2)]
    for place, words in lane.ticks:
        x, y = at(index, place)
        if stacked:
            parts.append(line(x, y, x, y + 5, MUTED))
            anchor = "start" if place < 0.04 else "end" if place > 0.96 else "middle"
            parts.append(_halo(text(x, y + 18, clip(words, 12), 11.5, MUTED, anchor)))
        else:
            parts.append(line(x, y, x + 5, y, MUTED))
            room = int((gap - 10) / 6) if index < of - 1 else 10
            parts.append(_halo(text(x + 8, y + 4, clip(words, max(4, room)), 11, MUTED)))
    if stacked:
        said = f"{lane.name}   ({lane.above})" if lane.above else lane.name
        parts.append(_halo(text(start[0], start[1] - 8, clip(said, 52), 12.5, INK, weight=600)))
        return "".join(parts)
    # Where axes stand close, their names stand on two levels, alternately.
    crowded = gap < CROWDED
    room = max(8, int((2 * gap if crowded else gap) / 8.4))
    if crowded and index in (0, of - 1):  # at the figure's edge a name reaches to one side only
        room = int(room * 0.75)
    raised = 34 if crowded and index % 2 else 0
    x, y = end[0], end[1] - raised
    anchor = "start" if index == 0 else "end" if index == of - 1 else "middle"
    x += {"start": -44, "end": 62, "middle": 0}[anchor]
    parts.append(text(x, y - 26, clip(lane.above, room), 11, MUTED, anchor))
    parts.append(text(x, y - 11, clip(lane.name, room), 12.5, INK, anchor, 600))
    return "".join(parts)


def _halo(made: str) -> str:
    """A text that is legible on lines."""
    return made.replace(
        '"muted"', '"muted halo" paint-order="stroke" stroke="#ffffff" stroke-width="3"', 1
    ).replace('"ink"', '"ink halo" paint-order="stroke" stroke="#ffffff" stroke-width="3"', 1)


def _path(
    found: Found,
    trial: Trial,
    every: Sequence[Lane],
    at: Callable[[int, float], Place],
    colours: Scale | None,
    stacked: bool,
) -> str:
    """A trial's line, broken where it has no value."""
    pieces: list[list[Place]] = [[]]
    for i, lane in enumerate(every):
        place = lane.place(trial)
        if place is None:
            pieces.append([])
        else:
            pieces[-1].append(at(i, place))
    drawn = "".join("M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in p) for p in pieces if len(p) > 1)
    if not drawn:
        return ""
    best = trial is found.best
    own = trial.values.get(colours.objective.name) if colours else None
    hint = f'data-line="{trial.number}"><title>{esc(found.title(trial))}</title></path>'
    joined = f'd="{drawn}" fill="none" stroke-linejoin="round"'
    if own is None or colours is None:
        look = f'class="s-muted" stroke="{MUTED}" stroke-width="1" stroke-dasharray="4 4"'
        return f"<path {joined} {look} {hint}"
    shade = colours.shade(own.value)
    look = f'class="k{shade}" stroke="{SHADES[shade]}" stroke-width="{3.4 if best else 1.5}"'
    case = f'<path {joined} class="halo" stroke="#ffffff" stroke-width="6.5"/>' if best else ""
    return f"{case}<path {joined} {look} {hint}"
