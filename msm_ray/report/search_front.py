"""What trials gave against what they cost: the Pareto front, the cost, and the rungs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from msm_ray.report.figures import INK, MUTED, auto_axis, line
from msm_ray.report.lines import TICK_ROOM, doses
from msm_ray.report.search_found import Found, Objective, Trial
from msm_ray.report.search_mix import drawn_words, interval_bar, mark_words
from msm_ray.report.search_plot import (
    SHADES,
    Frame,
    Place,
    Scale,
    axis_of,
    bar,
    colour_key,
    counted,
    dot,
    fences,
    finish,
    goal_words,
    rings,
    scale,
    two_layouts,
)
from msm_ray.report.text import esc, plural

Placed = list[tuple[Trial, Place]]


def front(found: Found) -> str:
    """The first two objectives against each other; of one objective, it against the tokens."""
    if not found.objectives:
        return ""
    if len(found.objectives) == 1:
        return _cost(found)
    first, second = found.objectives[:2]
    heading = "<h3>Pareto front</h3>"
    colours = scale(found)
    both = [t for t in found.drawn if first.name in t.values and second.name in t.values]
    if colours is None or not both:
        return f"{heading}<p>No trial has a value of both {_code(first)} and {_code(second)}.</p>"
    more = len(found.objectives) - 2
    on_front = [t for t in both if t.number in found.front]
    stairs = staircase(on_front, first, second)
    said = [
        "<b>How to read this.</b> Each mark is a trial, its thin bars the 95 % intervals of both"
        " objectives. The line joins the trials that no other one beats in both; whether two"
        " neighbours on it truly differ is for the bars to say."
    ]
    if found.constraints:
        said.append("Hollow marks do not meet the constraints and cannot be on the front.")
    said.append(mark_words(found).strip())
    if not on_front:
        said.append("The report names no trial on the front.")
    if more:
        said.append(f"{plural(more, 'more objective')} are not in this figure.")
    said.append(drawn_words(found))
    outside = _outside(both, [first, second])
    caption = " ".join(s for s in [*said, outside] if s)
    return heading + two_layouts(lambda n: _front(found, both, stairs, colours, n), caption)


def _code(objective: Objective) -> str:
    return f"<code>{esc(objective.name)}</code>"


def staircase(trials: Sequence[Trial], first: Objective, second: Objective) -> list[Trial]:
    """The trials that no other of ``trials`` beats in both, by the second objective, best first."""
    gains = [
        (second.gain(t.values[second.name].value), first.gain(t.values[first.name].value), i)
        for i, t in enumerate(trials)
    ]
    found, top = [], float("-inf")
    for _, gain, i in sorted(gains, key=lambda g: (-g[0], -g[1])):
        if gain > top:
            found.append(trials[i])
            top = gain
    return found


def _front(
    found: Found, both: Sequence[Trial], stairs: Sequence[Trial], colours: Scale, narrow: bool
) -> str:
    first, second = found.objectives[:2]
    width, height = (420.0, 440.0) if narrow else (820.0, 500.0)
    y_axis = axis_of([t.values[first.name] for t in both], goal_words(first))
    x_axis = axis_of([t.values[second.name] for t in both], "")
    frame = Frame(56, width - 20, 92, height - 54, x_axis, y_axis)
    at = [
        (t, (frame.x_of(t.values[second.name].value), frame.y_of(t.values[first.name].value)))
        for t in both
    ]
    where = {t.number: place for t, place in at}
    parts = [colour_key(found, colours, frame.left, 0, 220), frame.markup(goal_words(second))]
    for trial, (x, y) in at:
        parts.append(interval_bar(frame, (x, y), trial.values[first.name]))
        if ci95 := trial.values[second.name].ci95:
            parts.append(bar((frame.x_of(ci95[0]), y), (frame.x_of(ci95[1]), y)))
    parts.append(_stairs([where[t.number] for t in stairs], frame, first, second))
    for trial, place in reversed(at):
        parts.append(dot(found, trial, colours.shade(trial.values[first.name].value), place, 5.2))
    parts.append(rings(found, at, frame.left, frame.right))
    label = f"{first.name} against {second.name}, with 95 % intervals and the Pareto front"
    return finish(width, height, "".join(parts), label, narrow, "pareto")


def _stairs(points: Sequence[Place], frame: Frame, first: Objective, second: Objective) -> str:
    """The edge of what is reached: from each point level to where the next one takes over."""
    if not points:
        return ""
    worst_x = frame.left if second.goal == "max" else frame.right
    worst_y = frame.floor if first.goal == "max" else frame.top
    way = [(points[0][0], worst_y), points[0]]
    for before, after in pairwise(points):
        way += [(after[0], before[1]), after]
    way.append((worst_x, points[-1][1]))
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in way)
    return (
        f'<polyline class="s-ink front" points="{joined}" fill="none" stroke="{INK}"'
        ' stroke-width="1.5"/>'
    )


def _outside(trials: Sequence[Trial], objectives: Sequence[Objective]) -> str:
    """A word on trials that stand at the end of an axis because they lie far outside of it."""
    far = set()
    for objective in objectives:
        values = [t.values[objective.name].value for t in trials]
        low, high = fences(values)
        far |= {t.number for t in trials if not low <= t.values[objective.name].value <= high}
    if not far:
        return ""
    verbs = ("lies", "stands") if len(far) == 1 else ("lie", "stand")
    return f"{plural(len(far), 'trial')} {verbs[0]} far outside and {verbs[1]} at the edge."


# --------------------------------------------------------------------------------- one objective


def _cost(found: Found) -> str:
    """The objective against the tokens that a trial's whole path trains on."""
    heading, objective = "<h3>What it costs</h3>", found.objectives[0]
    colours = scale(found)
    priced = [t for t in found.drawn if t.tokens is not None and objective.name in t.values]
    if colours is None or not priced:
        return f"{heading}<p>No trial has both a value and its number of tokens.</p>"
    caption = (
        "<b>How to read this.</b> Each mark is a trial: the tokens that its whole path trains on,"
        " also where another trial had trained a part of it already, and what it measured with"
        f" its 95 % interval.{mark_words(found)} {drawn_words(found)}"
        f" {_outside(priced, [objective])}"
    )
    return heading + two_layouts(lambda n: _cost_figure(found, priced, colours, n), caption.strip())


def _cost_figure(found: Found, priced: Sequence[Trial], colours: Scale, narrow: bool) -> str:
    objective = found.objectives[0]
    width, height = (420.0, 360.0) if narrow else (820.0, 420.0)
    y_axis = axis_of([t.values[objective.name] for t in priced], goal_words(objective))
    x_axis = counted(auto_axis([t.tokens for t in priced if t.tokens is not None], ""))
    frame = Frame(56, width - 20, 34, height - 54, x_axis, y_axis)
    parts, at = [frame.markup("tokens trained on a trial's whole path")], []
    for trial in reversed(priced):
        own = trial.values[objective.name]
        where = frame.x_of(trial.tokens or 0.0), frame.y_of(own.value)
        parts.append(interval_bar(frame, where, own))
        parts.append(dot(found, trial, colours.shade(own.value), where, 5.2))
        at.append((trial, where))
    parts.append(rings(found, at, frame.left, frame.right))
    label = f"{objective.name} by tokens trained"
    return finish(width, height, "".join(parts), label, narrow, "cost-of")


# ------------------------------------------------------------------------------------- rungs


def rungs(found: Found) -> str:
    """The first objective by optimizer steps, where trials were looked at more than once."""
    if not any(len(t.rungs) > 1 for t in found.trials):
        return ""
    heading = "<h3>Rungs</h3>"
    several = [t for t in found.drawn if t.rungs]
    first, colours = found.first, scale(found)
    if first is None or not several:
        return f"{heading}<p>No trial that is drawn has rungs.</p>"
    stopped = sum(t.state == "stopped" for t in several)
    caption = (
        f"<b>How to read this.</b> Each line is a trial, looked at after so many optimizer steps."
        f" {plural(stopped, 'line')} ended in an upright tick: stopped there, behind others at the"
        " same step; a mark is the end of a trial that went on. Whether a stopped one would have"
        f" crossed others later was not measured. {drawn_words(found)}"
    )
    return heading + two_layouts(
        lambda n: _rungs_figure(found, several, first, colours, n), caption.strip()
    )


def _rungs_figure(
    found: Found, several: Sequence[Trial], first: Objective, colours: Scale | None, narrow: bool
) -> str:
    width, height = (420.0, 360.0) if narrow else (820.0, 420.0)
    y_axis = auto_axis(fences([r.value for t in several for r in t.rungs]), goal_words(first))
    steps = [r.steps for t in several for r in t.rungs]
    x_axis = doses(steps, int((width - 76) / TICK_ROOM))
    frame = Frame(56, width - 20, 34, height - 54, x_axis, counted(y_axis))
    parts = [frame.markup("optimizer steps" + (" (logarithmic)" if x_axis.is_log else ""))]
    at: Placed = []
    for trial in reversed(several):
        way = [(frame.x_of(r.steps), frame.y_of(r.value)) for r in trial.rungs]
        shade = colours.shade(trial.rungs[-1].value) if colours else 0
        look = f'class="k{shade}" stroke="{SHADES[shade]}"'
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in way)
        parts.append(
            f'<polyline points="{joined}" fill="none" {look} stroke-width="1.8"'
            f' stroke-linejoin="round" data-rungs="{trial.number}">'
            f"<title>{esc(found.title(trial))}</title></polyline>"
        )
        x, y = way[-1]
        if trial.state == "stopped":
            parts.append(line(x, y - 7, x, y + 7, INK, 2).replace('"s-ink"', '"s-ink stopped"'))
        elif trial.state == "done":
            parts.append(dot(found, trial, shade, (x, y), 4.2, "end"))
        else:
            parts.append(line(x - 4, y - 4, x + 4, y + 4, MUTED, 1.6))
        at.append((trial, (x, y)))
    parts.append(rings(found, at, frame.left, frame.right))
    label = f"{first.name} by optimizer steps, one line for each trial"
    return finish(width, height, "".join(parts), label, narrow, "rungs")
