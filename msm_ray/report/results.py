"""The results of the report: headline, and the figure of arms with their intervals."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from msm_ray.report.figures import Axis, Dot, Row, auto_axis, interval_figure, rate_axis
from msm_ray.report.names import (
    DIFFERENCE,
    IN_NATS,
    NONE_SHOWN,
    ONE_RUN,
    arm_order,
    arm_words,
    axis_title,
    base_names,
    bounds_of,
    counted_item,
    effect_words,
    eval_names,
    eval_title,
    kind_of,
    members,
    parse_label,
    result,
    shows,
    split,
)
from msm_ray.report.text import (
    details,
    esc,
    fixed,
    interval,
    items,
    mapping,
    number,
    numbers,
    plural,
    word,
)

# Evaluations in which 0.5 means that neither of two options is preferred.
TWO_WAY = ("choice", "pairs", "opinions")

# -------------------------------------------------------------------------------------- headline


def headline(report: Mapping[str, Any]) -> str:
    """One sentence with the main result, as markup."""
    found = {k: mapping(v) for k, v in mapping(report.get("effects")).items()}
    if members(report) and found:
        return _suite_headline(report, found)
    name = _main(list(found))
    effect = found.get(name, {})
    value = number(effect.get("value"))
    if value is None:
        return "The separation between the midtrained arms was not measured in this run."
    sentence = _effect_sentence(report, name, effect, value)
    bounds = numbers(effect.get("ci95"))
    runs = len(items(effect.get("per_seed")))
    if shows(effect) == ONE_RUN:
        return f"{sentence}. <b>From a single run: how much of it is noise is unknown.</b>"
    if bounds is None:
        return f"{sentence}; its interval was not measured."
    verdict = "the interval excludes zero"
    if shows(effect) == NONE_SHOWN:
        verdict = "<b>the interval includes zero: no effect is shown</b>"
    paired = f", {plural(runs, 'paired run')}" if runs else ""
    over = [esc(word(source)) for source in items(effect.get("over"))]
    about = f" over {' and '.join(over)}" if over else ""
    if over == ["items"]:
        about += " only (what another seed would change is unknown)"
    return f"{sentence} (95 % interval {interval(bounds)}{about}{paired}); {verdict}."


def _main(names: Sequence[str]) -> str:
    """The effect that says most: a separation; what midtraining adds; else the first.

    A recipe's effects are called by their evaluation, too: ``separation:pairs:america``.
    """
    for pattern in (r"separation([-:]|$)", r"\w+_minus_aft(:|$)"):
        for name in names:
            if re.match(pattern, name):
                return name
    return next(iter(names), "")


def _effect_sentence(
    report: Mapping[str, Any], name: str, effect: Mapping[str, Any], value: float
) -> str:
    first, second, metric = parse_label(effect)
    if not first:
        return f"<b>{esc(name)}</b> is <b>{fixed(value)}</b>"
    if words := effect_words(name):
        return f"<b>{esc(first)}</b>: {esc(words)} differs by <b>{fixed(value)}</b>"
    rates = [number(result(report, arm, metric).get("rate")) for arm in (first, second)]
    of = [f" ({fixed(r)})" if r is not None else "" for r in rates]
    item = counted_item(report)
    what = (
        f"the share of held-out choices that go to the {item}"
        if metric == "choice"
        else axis_title(metric, item)
    )
    after = "After the same fine-tuning, " if re.match(r"separation([-:]|$)", name) else ""
    return (
        f"{after}<b>{esc(first)}</b>{of[0]} and <b>{esc(second)}</b>{of[1]} differ by"
        f" <b>{fixed(value)}</b> in {esc(what)}"
    )


def _suite_headline(report: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> str:
    """In how many comparisons of a suite the first effect is shown."""
    of = {name: (kind_of(name, e, report), split(name, report)[1]) for name, e in found.items()}
    count = Counter(kind for kind, member in of.values() if member)
    # One that most comparisons have, if there is one.
    most = [kind for kind, n in count.items() if 2 * n > len(members(report))]
    first = _main(most or list(count))
    said = {of[n][1]: shows(e) for n, e in found.items() if of[n][0] == first and of[n][1]}
    titles = {m.name: m.title for m in members(report)}
    shown = [titles.get(m, m) for m, verdict in said.items() if verdict == DIFFERENCE]
    rest = [titles.get(m, m) for m, verdict in said.items() if verdict != DIFFERENCE]
    if not said:
        return f"{plural(len(titles), 'comparison')}; no effect was measured within them."
    named = f": {esc(', '.join(shown))}" if shown else ""
    not_in = f"; not in {esc(', '.join(rest))}" if rest and shown else ""
    return (
        f"Of {plural(len(said), 'comparison')}, <b>{len(shown)}</b> show <code>{esc(first)}</code>"
        f" as a difference, its 95 % interval without zero{named}{not_in}."
    )


# ---------------------------------------------------------------------------------- the figure


def figures(report: Mapping[str, Any]) -> str:
    """The main figure, and the same one for every other evaluation behind a click."""
    names = eval_names(report)
    if not names:
        return "<p>No evaluation was measured.</p>"
    if members(report):
        return _suite_figures(report)
    main = "choice" if "choice" in names else names[0]
    drawn = arms_figure(report, main, arm_order(mapping(report.get("arms"))))
    save = _download(drawn, f"{word(report.get('name'), 'run')}-{main}.svg")
    parts = [
        f'<figure id="the-figure">{drawn}<figcaption>{_reading(report)} {save}</figcaption>'
        "</figure>"
    ]
    others = [n for n in names if n != main]
    if others:
        body = "".join(
            f"<h3>{esc(eval_title(n))} <code>{esc(n)}</code></h3>"
            + arms_figure(report, n, arm_order(mapping(report.get("arms"))))
            for n in others
        )
        parts.append(details(f"The same figure for {', '.join(others)}", body))
    return "".join(parts)


def _suite_figures(report: Mapping[str, Any]) -> str:
    """A figure for each comparison of a suite, on one scale; other evaluations behind a click."""
    parts, more = [], []
    for member in members(report):
        names = eval_names(report, member.arms)
        if not names:
            parts.append(f"<div><h3>{esc(member.title)}</h3><p>Nothing was measured.</p></div>")
            continue
        main = "choice" if "choice" in names else names[0]
        drawn = arms_figure(report, main, member.arms, member.name)
        parts.append(
            f"<div><h3>{esc(member.title)} <code>{esc(member.name)}</code></h3>{drawn}</div>"
        )
        others = "".join(
            f"<div><h4>{esc(eval_title(n))} <code>{esc(n)}</code></h4>"
            f"{arms_figure(report, n, member.arms, member.name)}</div>"
            for n in names
            if n != main
        )
        if others:
            body = f'<div class="members">{others}</div>'
            more.append(details(f"{member.title}: the other evaluations", body))
    return (
        f'<figure id="the-figure"><div class="members">{"".join(parts)}</div>'
        f"<figcaption>{_reading(report)}</figcaption></figure>{''.join(more)}"
    )


def _reading(report: Mapping[str, Any]) -> str:
    """How to read the figure of the arms."""
    intervals = {
        word(mapping(cell).get("interval"), "")
        for arm in mapping(report.get("arms")).values()
        for cell in mapping(mapping(arm).get("evals")).values()
    } - {""}
    how = ", ".join([*sorted(intervals), "of one run over the items only"])
    return (
        "<b>How to read this.</b> Each row is an arm, a recipe that starts from the same base"
        f" models. The black point is the mean over base models and seeds, the bar its 95 %"
        f" interval ({esc(how)}). Each coloured mark is one run: one base model with one seed. The"
        " midtrained arms differ in the documents they read; the fine-tuning (AFT) is"
        " byte-identical in all arms that have it. <b>base</b> and <b>aft</b> are the controls. To"
        " compare two arms read their paired difference under Effects; it is sharper than the"
        " overlap of two bars."
    )


def arms_figure(report: Mapping[str, Any], name: str, arms: Sequence[str], member: str = "") -> str:
    """One evaluation by arm: estimate, 95 % interval, every base x seed run.

    Wide and narrow, of which the page shows one; of a suite's ``member`` the narrow one alone.
    """
    bases = base_names(report)
    rows: list[Row] = []
    previous = ""
    for arm in arms:
        cell = result(report, arm, name)
        bounds = bounds_of(cell)
        stage = arm_words(arm) if arm.startswith("msm:") else "control"
        rows.append(
            Row(
                split(arm, report)[0],
                (arm_words(arm),) if arm_words(arm) else (),
                number(cell.get("rate")),
                bounds[0] if bounds else None,
                bounds[1] if bounds else None,
                dots(cell, bases, "rate"),
                starts_group=stage != previous,
            )
        )
        previous = stage
    every, title = values(rows), axis_title(name, counted_item(report, member))
    if name in IN_NATS or any(not 0 <= v <= 1 for v in every):
        axis = auto_axis(every, title)
    else:
        chance = "no preference" if name.startswith(TWO_WAY) else ""
        axis = rate_axis(title, 0.5 if chance else None, chance)
    label = f"{title} by arm, with 95 % intervals"
    if member:
        shown = bases if any(r.dots for r in rows) and len(bases) > 1 else []
        return interval_figure(rows, axis, shown, label, True).replace(
            'class="figure narrow"', 'class="figure"', 1
        )
    return both(rows, axis, bases, label)


def both(rows: Sequence[Row], axis: Axis, bases: Sequence[str], label: str, left: float = 0) -> str:
    """A figure in the wide and the narrow layout; the legend only where there are runs to tell."""
    shown = bases if any(r.dots for r in rows) else []
    wide = interval_figure(rows, axis, shown, label, False, left)
    return wide + interval_figure(rows, axis, shown, label, True)


def values(rows: Sequence[Row]) -> list[float]:
    """Everything that is drawn in ``rows``: what an axis has to hold."""
    found = [v for r in rows for v in (r.value, r.low, r.high) if v is not None]
    return found + [d.value for r in rows for d in r.dots]


def dots(cell: Mapping[str, Any], bases: Sequence[str], key: str) -> tuple[Dot, ...]:
    """The single runs of a cell or an effect; ``key`` is what their number is called."""
    found = []
    for run in items(cell.get("per_seed")):
        run = mapping(run)
        value, base = number(run.get(key)), word(run.get("base"), "?")
        if value is not None and base in bases:
            title = f"{base}, seed {word(run.get('seed'), '?')}: {fixed(value, 3)}"
            found.append(Dot(bases.index(base), value, title))
    return tuple(found)


def _download(figure: str, name: str) -> str:
    """A link that saves the wide figure, the first one in ``figure``, as a file of its own."""
    alone = figure[: figure.index("</svg>") + len("</svg>")]
    data = base64.b64encode(alone.encode("utf-8")).decode("ascii")
    href = f"data:image/svg+xml;base64,{data}"
    return f'<a class="save" download="{esc(name)}" href="{href}">Save the figure as SVG</a>'
