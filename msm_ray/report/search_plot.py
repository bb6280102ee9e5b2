"""What the figures of a search share: a colour scale, a frame with two axes, marks with names.

The scale is sequential, from pale yellow-green over blue to near black (after the YlGnBu scale of
ColorBrewer, Brewer 2003): its lightness falls all the way, so that it reads in grey and for the
colour-blind. The better a trial, the more it stands out from the paper; on dark paper the style
sheet turns the scale round, through the class names.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from msm_ray.report.figures import INK, MUTED, Axis, auto_axis, clip, line, svg, text
from msm_ray.report.lines import Doses
from msm_ray.report.search_found import Found, Measured, Objective, Trial, chosen
from msm_ray.report.text import esc, items, mapping, number, short_count

SHADES = ("#b9dfa6", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#253494", "#0b1a4f")
PAPER = 'class="hollow" fill="#ffffff" pointer-events="none"'
LEAST_TO_CUT = 8  # values from which on far outliers are put at the end of an axis
Place = tuple[float, float]


def fences(values: Sequence[float]) -> tuple[float, float]:
    """The range of ``values`` without far outliers: beyond 3 quartile distances (Tukey 1977).

    A trial that diverged would squeeze all others into one end of the axis.
    """
    every = sorted(values) or [0.0]
    if len(every) < LEAST_TO_CUT:
        return every[0], every[-1]
    first, _, third = statistics.quantiles(every, n=4)
    room = 3 * (third - first)
    inside = [v for v in every if first - room <= v <= third + room] if room > 0 else every
    return inside[0], inside[-1]


@dataclass(frozen=True)
class Scale:
    """The colours of an objective: the worst value is the first of `SHADES`."""

    objective: Objective
    low: float
    high: float

    def shade(self, value: float) -> int:
        """The index of the colour of ``value``."""
        if self.high <= self.low:
            return len(SHADES) // 2
        share = min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))
        share = share if self.objective.goal == "max" else 1 - share
        return min(len(SHADES) - 1, int(share * len(SHADES)))


def scale(found: Found) -> Scale | None:
    """The colours, one scale for all figures and the law's surface; None: nothing was measured."""
    first = found.first
    own = [t.values.get(first.name) for t in found.drawn] if first else []
    values = [m.value for m in own if m is not None]
    if first is None or not values:
        return None
    law = mapping(found.part.get("law"))
    predicted = [number(mapping(p).get("value")) for p in items(law.get("surface"))]
    ends = [*fences(values), *fences([v for v in predicted if v is not None] or values)]
    return Scale(first, min(ends), max(ends))


def fill(shade: int | None) -> str:
    """Attributes of a filled mark with an outline; None: without a value, hollow and grey."""
    if shade is None:
        return f'class="s-muted" fill="none" stroke="{MUTED}"'
    return f'class="q{shade} s-ink" fill="{SHADES[shade]}" stroke="{INK}"'


def dot(
    found: Found, trial: Trial, shade: int | None, at: Place, radius: float = 4.6, tag: str = ""
) -> str:
    """A trial's mark: a square of the small runs of a swarm, else a circle; hollow: not feasible.

    A trial without a value is a small cross.
    """
    (x, y), hint = at, f"<title>{esc(found.title(trial))}</title>"
    named = f' data-trial="{trial.number}"' if not tag else f' data-{tag}="{trial.number}"'
    if shade is None:
        r = radius * 0.7
        path = f"M{x - r:.1f},{y - r:.1f}l{2 * r:.1f},{2 * r:.1f}"
        path += f"m0,{-2 * r:.1f}l{-2 * r:.1f},{2 * r:.1f}"
        return f'<path d="{path}" {fill(None)} stroke-width="1.4"{named}>{hint}</path>'
    look, core = f'{fill(shade)} stroke-width="1"', ""
    if trial.feasible is False:
        core = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius * 0.5:.1f}" {PAPER}/>'
    if trial.phase == "swarm":
        r = radius * 0.85
        box = f'x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:.1f}" height="{2 * r:.1f}"'
        return f"<rect {box} {look}{named}>{hint}</rect>{core}"
    body = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" {look}{named}>{hint}</circle>'
    return body + core


def bar(start: Place, end: Place, width: float = 1.1) -> str:
    """An interval."""
    return line(*start, *end, MUTED, width).replace("/>", ' stroke-opacity="0.6"/>')


def ring(at: Place, kind: str) -> str:
    """Round the mark of a trial that is named: "best" a circle, "confirmed" a diamond."""
    x, y = at
    r = 12.6 if kind == "confirmed" else 8.4
    shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" fill="none"'
    if kind == "confirmed":
        corners = f"{x:.1f},{y - r:.1f} {x + r:.1f},{y:.1f} {x:.1f},{y + r:.1f} {x - r:.1f},{y:.1f}"
        shape = f'<polygon points="{corners}" fill="none"'
    elif kind == "predicted":
        shape = f'<path d="M{x - r:.1f},{y:.1f}h{2 * r:.1f}M{x:.1f},{y - r:.1f}v{2 * r:.1f}"'
    under = f'{shape} class="halo" stroke="#ffffff" stroke-width="4.4"/>'  # on dark cells too
    return f'{under}{shape} class="s-ink {kind}" stroke="{INK}" stroke-width="1.8"/>'


def named(marks: Sequence[tuple[Place, str]], left: float, right: float, taken: float = 14) -> str:
    """Names beside their marks, on the side where there is room, none on top of another."""
    parts: list[str] = []
    boxes: list[tuple[float, float, float]] = []
    for (x, y), words in sorted(marks, key=lambda m: m[0][1]):
        length = 6.9 * len(words)
        before = x + taken + length > right and x - taken - length >= left
        start = x - taken - length if before else min(x + taken, right - length)
        start, base = max(start, left), y - 7  # above lines that run level through the mark
        while any(abs(base - b) < 14 and start < e and s < start + length for s, e, b in boxes):
            base += 4
        boxes.append((start, start + length, base))
        anchor, at = ("end", x - taken) if before else ("start", start)
        made = text(at, base, words, 12.5, INK, anchor, 600)
        parts.append(
            made.replace(
                'class="ink"',
                'class="ink halo" paint-order="stroke" stroke="#ffffff" stroke-width="3.5"'
                ' stroke-linejoin="round"',
            )
        )
    return "".join(parts)


def rings(found: Found, places: Sequence[tuple[Trial, Place]], left: float, right: float) -> str:
    """The rings and names of the chosen trials among ``places``."""
    marks = [(t, at, chosen(found, t)) for t, at in places if chosen(found, t)]
    drawn = "".join(
        ring(at, kind) for _, at, words in marks for kind in ("best", "confirmed") if kind in words
    )
    return drawn + named([(at, words) for _, at, words in marks], left, right)


def colour_key(found: Found, colours: Scale, x: float, y: float, width: float) -> str:
    """The legend of the colours, 44 pixels high: from the lowest value to the highest."""
    name, steps = colours.objective.name, len(SHADES)
    turned = range(steps) if colours.objective.goal == "max" else reversed(range(steps))
    parts = [text(x, y + 11, clip(name, int(width / 8.6)), 12.5, INK, weight=600)]
    for i, shade in enumerate(turned):
        left = x + width * i / steps
        parts.append(
            f'<rect x="{left:.1f}" y="{y + 17:.1f}" width="{width / steps:.1f}" height="11"'
            f' class="q{shade}" fill="{SHADES[shade]}"/>'
        )
    ends = [found.say(name, colours.low), found.say(name, colours.high)]
    if colours.objective.goal == "max":
        ends[1] = f"better {ends[1]}"
    else:
        ends[0] = f"{ends[0]} better"
    parts.append(text(x, y + 41, ends[0], 11.5, MUTED))
    parts.append(text(x + width, y + 41, ends[1], 11.5, MUTED, "end"))
    return "".join(parts)


# ---------------------------------------------------------------------------------- two axes


@dataclass(frozen=True)
class Frame:
    """A plot's box in pixels, with its two axes."""

    left: float
    right: float
    top: float
    floor: float
    x: Axis | Doses
    y: Axis

    def x_of(self, value: float) -> float:
        """Where ``value`` lies; one outside the axis lies at its end."""
        return self.left + (self.right - self.left) * share(self.x, value)

    def y_of(self, value: float) -> float:
        """Where ``value`` lies; one outside the axis lies at its end."""
        return self.floor - (self.floor - self.top) * share(self.y, value)

    def markup(self, x_title: str, size: float = 12) -> str:
        """Grid, ticks and titles."""
        room = int((self.right - self.left) / (0.58 * size))
        y_title, x_title = clip(self.y.title, room + 4), clip(x_title, room)
        parts = [text(max(0.0, self.left - 46), self.top - 11, y_title, size + 0.5, INK)]
        for value, words in self.y.ticks:
            y = self.y_of(value)
            parts.append(line(self.left, y, self.right, y))
            parts.append(text(self.left - 7, y + 4, words, size, MUTED, "end"))
        parts.append(line(self.left, self.floor, self.right, self.floor, MUTED))
        for value, words in self.x.ticks:
            x = self.x_of(value)
            parts.append(line(x, self.floor, x, self.floor + 4, MUTED))
            parts.append(text(x, self.floor + 17, words, size, MUTED, "middle"))
        middle = (self.left + self.right) / 2
        parts.append(text(middle, self.floor + 36, x_title, size + 0.5, INK, "middle"))
        return "".join(parts)


def share(axis: Axis | Doses, value: float) -> float:
    """Where on its axis a value lies, 0 to 1."""
    if isinstance(axis, Doses):
        return 0.02 + 0.96 * axis.place(value)
    return min(1.0, max(0.0, (value - axis.low) / (axis.high - axis.low)))


def axis_of(measured: Sequence[Measured], title: str) -> Axis:
    """The axis of a measure: it holds the values, without far outliers, and their intervals."""
    low, high = fences([m.value for m in measured])
    inside = [m for m in measured if low <= m.value <= high]
    ends = [b for m in inside for b in (m.ci95 or ())]
    if ends:  # a single wide interval must not take the whole axis
        ends = list(fences(ends))
    return counted(auto_axis([low, high, *ends], title))


def counted(axis: Axis) -> Axis:
    """``axis``, its ticks as 60k and 3.1M where they are large."""
    if max(abs(axis.low), abs(axis.high)) < 1000:
        return axis
    return replace(axis, ticks=tuple((v, short_count(v)) for v, _ in axis.ticks))


def goal_words(objective: Objective) -> str:
    """An objective's name, and which way is better."""
    return f"{objective.name} ({'larger' if objective.goal == 'max' else 'smaller'} is better)"


def two_layouts(draw: Callable[[bool], str], caption: str) -> str:
    """A figure in its wide and narrow layout, of which the page shows one, and how to read it.

    Args:
        draw: the figure; True: for a phone's width.
        caption: markup.
    """
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure>{draw(False)}{draw(True)}{below}</figure>"


def finish(width: float, height: float, body: str, label: str, narrow: bool, name: str) -> str:
    """The figure in its layout's class; ``name`` finds it in the page."""
    return svg(width, height, body, label, f"figure {'narrow' if narrow else 'wide'} {name}")
