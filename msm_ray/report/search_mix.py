"""The first objective over a mixture's shares: a triangle, a line, or small plots."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from msm_ray.report.figures import MUTED, auto_axis, clip, line, svg, text
from msm_ray.report.search_found import Found, Measured, Trial
from msm_ray.report.search_plot import (
    Frame,
    Place,
    Scale,
    axis_of,
    bar,
    colour_key,
    dot,
    finish,
    goal_words,
    rings,
    scale,
    two_layouts,
)
from msm_ray.report.search_ternary import shares_of, surface, ternary
from msm_ray.report.text import esc, plural


def mix(found: Found) -> str:
    """The mixture's part of the page: its figure, or a sentence why there is none."""
    if found.mixture is None:
        return ""
    sources, heading = found.mixture.sources, "<h3>Mixture</h3>"
    predicted = len(sources) == 3 and bool(surface(found, sources))
    colours = scale(found)
    if colours is None:
        return f"{heading}<p>No trial has a value to show over the mixture.</p>"
    placed = [t for t in found.drawn if _has_place(t, sources)]
    if not placed:
        return f"{heading}<p>No trial says its shares of {esc(', '.join(sources))}.</p>"
    said = [_reading(found, colours, sources, predicted), drawn_words(found)]
    lost = len(found.drawn) - len(placed)
    if lost:
        said.append(f"{plural(lost, 'trial')} without all shares is left out.")
    if found.mixtures > 1:
        said.append("Only the first of the search's mixtures is drawn.")
    caption = " ".join(s for s in said if s)
    if len(sources) == 3:
        return heading + two_layouts(lambda n: ternary(found, colours, sources, n), caption)
    if len(sources) < 3:
        return heading + two_layouts(lambda n: _line(found, colours, sources[0], n), caption)
    small = "".join(_small(found, colours, source) for source in sources)
    key = svg(220, 46, colour_key(found, colours, 0, 0, 220), "colours", "figure key")
    return (
        f'{heading}<figure>{key}<div class="multiples shares">{small}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def drawn_words(found: Found) -> str:
    """What the figures leave out; empty where they show all."""
    if len(found.drawn) == len(found.trials):
        return ""
    return (
        f"<b>Drawn are {len(found.drawn)} of {len(found.trials):,} trials</b>: those with the best"
        f" <code>{esc(found.first.name if found.first else '')}</code>, with the Pareto front and"
        " what was confirmed. The table of trials has all of them."
    )


def mark_words(found: Found) -> str:
    """What is to be said of marks that are not of full trials; begins with a space, or is empty."""
    said = ""
    if any(t.state == "stopped" for t in found.measured):
        said += " A trial that was stopped early stands at what it had reached."
    if any(t.phase == "swarm" for t in found.measured):
        said += " Squares are the small runs of a swarm: compare them with each other only."
    return said


def _has_place(trial: Trial, sources: Sequence[str]) -> bool:
    if len(sources) == 3:
        return shares_of(trial.mix, sources) is not None
    return all(s in trial.mix for s in sources)


def _reading(found: Found, colours: Scale, sources: Sequence[str], law: bool) -> str:
    first = esc(colours.objective.name)
    how = (
        "Each mark is a trial at the shares that it asked for; the stronger its colour against the"
        f" paper, the better its <code>{first}</code>."
    )
    if len(sources) == 3:
        how += " A share is read along the grid lines that run to its ticks."
    if law:
        how += (
            " The cells behind the marks are what the mixture law predicts: a mark of a weaker"
            " colour than its cell fell short of the law."
        )
    elif len(sources) != 3:
        how += " A thin bar is a 95 % interval."
    how += mark_words(found)
    others = [n for n in found.varied if any(n in t.settings for t in found.trials)]
    if others:
        how += " Trials with alike shares may differ in their other settings."
    return f"<b>How to read this.</b> {how}"


def _points(
    found: Found, colours: Scale, source: str, frame: Frame
) -> tuple[str, list[tuple[Trial, Place]]]:
    """Trials by the share of one source, the best on top: markup, and where each lies."""
    name, parts, at = colours.objective.name, [], []
    for trial in reversed(found.drawn):
        own = trial.values.get(name)
        if own is None or source not in trial.mix:
            continue
        where = frame.x_of(trial.mix[source]), frame.y_of(own.value)
        parts.append(interval_bar(frame, where, own))
        parts.append(dot(found, trial, colours.shade(own.value), where, 4.4))
        at.append((trial, where))
    return "".join(parts), at


def interval_bar(frame: Frame, at: Place, own: Measured) -> str:
    """The upright bar of a value's interval."""
    if own.ci95 is None:
        return ""
    return bar((at[0], frame.y_of(own.ci95[0])), (at[0], frame.y_of(own.ci95[1])))


def _values(found: Found, colours: Scale) -> list[Measured]:
    name = colours.objective.name
    return [t.values[name] for t in found.drawn if name in t.values]


def _line(found: Found, colours: Scale, source: str, narrow: bool) -> str:
    """The objective by the share of the first of two sources; joined if nothing else varies."""
    width, height = (420.0, 350.0) if narrow else (820.0, 420.0)
    name = colours.objective.name
    x_axis = auto_axis([t.mix[source] for t in found.drawn if source in t.mix], source)
    y_axis = axis_of(_values(found, colours), goal_words(colours.objective))
    frame = Frame(54, width - 20, 34, height - 54, x_axis, y_axis)
    marks, at = _points(found, colours, source, frame)
    parts = [frame.markup(f"share of {source}")]
    if not [n for n in found.varied if len({repr(t.settings.get(n)) for t, _ in at}) > 1]:
        way = sorted(where for _, where in at)
        parts += [line(*a, *b, MUTED, 1) for a, b in pairwise(way)]
    parts += [marks, rings(found, at, frame.left, frame.right)]
    label = f"{name} by the share of {source}, with 95 % intervals"
    return finish(width, height, "".join(parts), label, narrow, "shares")


def _small(found: Found, colours: Scale, source: str) -> str:
    """One of many: the objective by the share of one source, on the axis of its neighbours."""
    width, height, name = 260.0, 206.0, colours.objective.name
    x_axis = auto_axis([t.mix[source] for t in found.drawn if source in t.mix], source)
    y_axis = axis_of(_values(found, colours), "")
    frame = Frame(42, width - 8, 24, height - 44, x_axis, y_axis)
    marks, at = _points(found, colours, source, frame)
    body = [frame.markup(f"share of {source}", 10.5), text(0, 12, clip(name, 38), 11.5)]
    body += [marks, rings(found, at, frame.left, frame.right)]
    label = f"{name} by the share of {source}"
    return svg(width, height, "".join(body), label, "figure curve shares")
