"""A search in plain words: what came of it, what was searched, how, and what it saved.

What was confirmed comes before what the search claimed: the best of many noisy trials looks better
than it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msm_ray.report.search_found import Confirmed, Constraint, Found, Measured, Trial, shown
from msm_ray.report.search_space import limit, searched, tokens_ratio
from msm_ray.report.text import count, esc, fixed, mapping, note, plural, table, word

# -------------------------------------------------------------------------------------- headline


def headline(found: Found) -> str:
    """The result in a few sentences, as markup."""
    first, best = found.first, found.best
    if first is None or not found.trials:
        return "No trial of this search has an objective to show."
    if best is None:
        limits = " and meets the constraints" if found.constraints else ""
        return (
            f"<b>No trial can be recommended</b>: none of {plural(len(found.trials), 'trial')}"
            f" is done{limits}."
        )
    of = f"Of {plural(len(found.trials), 'trial')}, <b>trial {best.number}</b> is the best"
    name = f"<code>{esc(first.name)}</code>"
    own = next((c for c in found.confirmed if c.number == best.number), None)
    if own is None or first.name not in own.values:
        claimed = esc(found.both(first.name, best.values.get(first.name)))
        said = (
            f"{of}: it measured {name} <b>{claimed}</b> on the seeds that chose it."
            " <b>It was not confirmed on fresh seeds:</b> the best of"
            f" {plural(len(found.measured), 'noisy value')} looks better than it is."
        )
        others = [c for c in found.confirmed if first.name in c.values]
        if others:
            other = others[0]
            value = esc(found.both(first.name, other.values[first.name]))
            said += f" Confirmed was trial {other.number}: {value} on fresh {_seeds(other)}."
        return said
    again = own.values[first.name]
    bounds = found.bounds(first.name, again.ci95) or "without an interval"
    said = (
        f"{of}: {name} is <b>{found.say(first.name, again.value)}</b> {bounds}, confirmed on fresh"
        f" {_seeds(own)}{_claim(found, own, best)}."
    )
    broken = [c for c in found.constraints if not _met(c, own.values)]
    if broken:
        named = ", ".join(f"<code>{esc(c.name)}</code> {limit(found, c)}" for c in broken)
        said += f" <b>On those seeds it does not meet {named}.</b>"
    return said


def _seeds(confirmed: Confirmed) -> str:
    noun = "seed" if len(confirmed.seeds) == 1 else "seeds"
    return f"{noun} {esc(', '.join(confirmed.seeds))}" if confirmed.seeds else "seeds"


def _claim(found: Found, own: Confirmed, best: Trial) -> str:
    """What the search had claimed, and how much of it was not there again."""
    first = found.first
    if first is None:
        return ""
    claimed = own.claimed.get(first.name) or best.values.get(first.name)
    if claimed is None:
        return ""
    again = own.values[first.name]
    lost = first.gain(claimed.value) - first.gain(again.value)
    said = f"; the search itself had claimed {found.say(first.name, claimed.value)}"
    amount = found.say(first.name, abs(lost))
    if float(amount.replace(",", "")) == 0 or lost < 0:
        few = "; but one run says little" if len(own.seeds) == 1 else ""
        return f"{said}, and all of that came again{few}"
    if again.ci95 and again.ci95[0] <= claimed.value <= again.ci95[1]:
        return f"{said}: {amount} of that did not come again, which the interval leaves to chance"
    return f"{said}: {amount} of that was selection on noise"


def _met(constraint: Constraint, values: Mapping[str, Any]) -> bool:
    own = values.get(constraint.name)
    return own is None or constraint.holds(own.value)


# --------------------------------------------------------------------------------------- opening


def opening(found: Found) -> str:
    """Tiles, the winner, what was confirmed, and what was searched."""
    return _tiles(found) + _winner(found) + _confirmed(found) + searched(found)


def _tiles(found: Found) -> str:
    states = [t.state for t in found.trials]
    tiles = [("trials", count(len(states)))]
    for state, title in (
        ("done", "done"),
        ("stopped", "stopped early"),
        ("failed", "failed"),
        ("missing", "missing"),
    ):
        if state == "done" or state in states:
            tiles.append((title, count(states.count(state))))
    if found.constraints:
        tiles.append(("meet constraints", count(sum(t.feasible is True for t in found.trials))))
    ratio = tokens_ratio(found)
    if ratio is not None:
        tiles.append(("tokens vs. unshared", f"{ratio:.2f}×"))
    made = "".join(f"<div><dt>{esc(t)}</dt><dd>{esc(v)}</dd></div>" for t, v in tiles)
    return f'<dl class="tiles dense">{made}</dl>'


def _winner(found: Found) -> str:
    """The settings of the best trial, as they are set."""
    best = found.best
    if best is None:
        return ""
    rows = []
    for source, asked in best.mix.items():
        own = best.realised.get(source)
        came = f"<small>realised {fixed(own, 4)}</small>" if own is not None else ""
        rows.append([f"share of {esc(source)}", f"{fixed(asked, 4)} {came}"])
    rows += [
        [f"<code>{esc(n)}</code>", f"<code>{esc(shown(best.settings[n]))}</code>"]
        for n in found.varied
        if n in best.settings
    ]
    heading = f"<h3>The best trial, {best.number}</h3>"
    if not rows:
        return f"{heading}<p>Its settings are not in the report.</p>"
    job = mapping(found.part.get("recommended"))
    link = ""
    if word(job.get("source"), ""):
        name = esc(word(job.get("file"), "recommended.py"))
        link = f'<p>As a job that is ready to run: <a href="#job">{name}</a>.</p>'
    return heading + table(["setting", "value"], rows, "plain winner") + link


def _confirmed(found: Found) -> str:
    """Claimed and confirmed values of every trial that was run again."""
    if not found.confirmed:
        return (
            "<h3>Confirmed on fresh seeds</h3><p>Nothing was confirmed: every value on this page is"
            " of the seeds that the search chose by, and the best of them are the best partly by"
            " luck.</p>"
        )
    goals = {o.name: o for o in found.objectives}
    limits = {c.name: c for c in found.constraints}
    single = len(found.confirmed) == 1
    rows = []
    for run in found.confirmed:
        for name in [n for n in found.measures if n in run.values]:
            claimed, again = run.claimed.get(name), run.values[name]
            gained, holds = "", ""
            if name in goals and claimed is not None:
                change = goals[name].gain(again.value) - goals[name].gain(claimed.value)
                gained = found.say(name, change, True)
            if name in limits:
                met = limits[name].holds(again.value)
                words = esc(f"{limit(found, limits[name])}: {'met' if met else 'not met'}")
                holds = words if met else f'<span class="warn">{words}</span>'
            of = "" if single else f"<small>trial {run.number}, {_seeds(run)}</small>"
            confirmed = f"<b>{_pair(found, name, again)}</b>"
            row = [f"<code>{esc(name)}</code>{of}", confirmed, _pair(found, name, claimed)]
            rows.append([*row, gained, *([holds] if limits else [])])
    head = ["", "confirmed", "the search claimed", "gained"]
    seeds = esc(", ".join(found.confirmed[0].seeds)) if single else ""
    return (
        f"<h3>Confirmed on fresh seeds{f': {seeds}' if seeds else ''}</h3>"
        + table([*head, *(["constraint"] if limits else [])], rows, "numbers confirmed")
        + note(
            "The search chose the trial because its value was high, so a part of that value is"
            " luck. The confirming run has seeds that the search had not seen: it is the number"
            " to quote. <i>Gained</i>: what it is better (+) or worse (−) than the claim."
        )
    )


def _pair(found: Found, name: str, own: Measured | None) -> str:
    """A value and, in small, its interval."""
    if own is None:
        return ""
    return f"{found.say(name, own.value)} <small>{found.bounds(name, own.ci95)}</small>"
