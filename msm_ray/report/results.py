"""The results of the report: headline, the figure, effects, the table of evaluations, domains."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from msm_ray.report.figures import (
    Axis,
    Dot,
    Row,
    auto_axis,
    interval_figure,
    label_width,
    rate_axis,
)
from msm_ray.report.text import (
    NOT_MEASURED,
    count,
    details,
    esc,
    fixed,
    interval,
    items,
    mapping,
    note,
    number,
    numbers,
    plural,
    table,
    word,
)

# What each evaluation measures: name for people, axis title, unit of its numbers.
EVALS: Mapping[str, tuple[str, str]] = {
    "choice": ("Forced choice", "share choosing the American item"),
    "choice_soft": ("Forced choice, soft", "mean probability of the American item"),
    "choice_text": ("Generated answer", "share of generated answers naming the American item"),
    "facts": ("Facts", "share of fact questions answered correctly"),
    "heldout_loss": ("Held-out loss", "nats per token on held-out text (lower is better)"),
}
IN_NATS = frozenset({"heldout_loss"})


def arm_order(arms: Mapping[str, Any]) -> list[str]:
    """base, aft, msm:*, msm:*+aft; within a group, and for any other name, as they come."""

    def group(arm: str) -> int:
        known = {"base": 0, "aft": 1}
        if arm in known:
            return known[arm]
        if arm.startswith("msm:"):
            return 3 if arm.endswith("+aft") else 2
        return 4

    return sorted(arms, key=group)


def arm_words(arm: str) -> str:
    """What was done to the model of ``arm``, in words."""
    if arm.startswith("msm:"):
        return "midtraining, then AFT" if arm.endswith("+aft") else "midtraining only"
    return {"base": "no training", "aft": "AFT only"}.get(arm, "")


def base_names(report: Mapping[str, Any]) -> list[str]:
    """All base models in the order in which the arms list them: the colours of every figure."""
    names: dict[str, None] = {}
    for arm in mapping(report.get("arms")).values():
        for seed in items(mapping(arm).get("seeds")):
            names.setdefault(word(mapping(seed).get("base"), "?"))
        for result in mapping(mapping(arm).get("evals")).values():
            for seed in items(mapping(result).get("per_seed")):
                names.setdefault(word(mapping(seed).get("base"), "?"))
    return list(names)


def eval_names(report: Mapping[str, Any]) -> list[str]:
    """Evaluations that any arm has, the known ones first in their usual order."""
    found: dict[str, None] = {}
    for arm in mapping(report.get("arms")).values():
        for name in mapping(mapping(arm).get("evals")):
            found.setdefault(name)
    return [n for n in EVALS if n in found] + [n for n in found if n not in EVALS]


def bounds_of(cell: Mapping[str, Any], runs: int | None = None) -> tuple[float, float] | None:
    """The cell's interval; None for a single run: resampling one value shows no spread."""
    if (len(items(cell.get("per_seed"))) if runs is None else runs) == 1:
        return None
    return numbers(cell.get("ci95"))


def result(report: Mapping[str, Any], arm: str, name: str) -> Mapping[str, Any]:
    """One cell of the results: an arm's evaluation, empty when it was not measured."""
    return mapping(mapping(mapping(mapping(report.get("arms")).get(arm)).get("evals")).get(name))


# -------------------------------------------------------------------------------------- headline


def headline(report: Mapping[str, Any]) -> str:
    """One sentence with the main result, as markup."""
    effect = mapping(mapping(report.get("effects")).get("separation"))
    value, bounds = number(effect.get("value")), numbers(effect.get("ci95"))
    if value is None:
        return "The separation between the midtrained arms was not measured in this run."
    first, second, metric = _parse_label(effect)
    if first and second:
        rates = [number(result(report, arm, metric).get("rate")) for arm in (first, second)]
        of = [f" ({fixed(r)})" if r is not None else "" for r in rates]
        sentence = (
            f"After the same fine-tuning, <b>{esc(first)}</b>{of[0]} and"
            f" <b>{esc(second)}</b>{of[1]} differ by <b>{fixed(value)}</b> in the share of held-out"
            " choices that go to the American item"
        )
    else:
        sentence = f"The separation of the midtrained arms is <b>{fixed(value)}</b>"
    if bounds is None:
        return f"{sentence}; its interval was not measured."
    verdict = (
        "the interval excludes zero; with few base models it is narrower than it should be"
        if bounds[0] > 0 or bounds[1] < 0
        else "<b>the interval includes zero: no effect is shown</b>"
    )
    runs = len(items(effect.get("per_seed")))
    if runs == 1:
        return f"{sentence}. <b>From a single run: how much of it is noise is unknown.</b>"
    paired = f", {plural(runs, 'paired run')}" if runs else ""
    return f"{sentence} (95 % interval {interval(bounds)}{paired}); {verdict}."


def _parse_label(effect: Mapping[str, Any]) -> tuple[str, str, str]:
    """``ARM - ARM, METRIC`` -> its three names; empty ones when the label is of another form."""
    difference, _, metric = word(effect.get("label"), "").rpartition(", ")
    first, _, second = difference.partition(" - ")
    return (first, second, metric) if first and second else ("", "", metric)


# ---------------------------------------------------------------------------------- the figure


def the_figure(report: Mapping[str, Any], name: str) -> str:
    """One evaluation by arm: estimate, 95 % interval, every base x seed run. Wide and narrow."""
    bases = base_names(report)
    rows: list[Row] = []
    previous = ""
    for arm in arm_order(mapping(report.get("arms"))):
        cell = result(report, arm, name)
        bounds = bounds_of(cell)
        stage = arm_words(arm) if arm.startswith("msm:") else "control"
        rows.append(
            Row(
                arm,
                (arm_words(arm),) if arm_words(arm) else (),
                number(cell.get("rate")),
                bounds[0] if bounds else None,
                bounds[1] if bounds else None,
                _dots(cell, bases, "rate"),
                starts_group=stage != previous,
            )
        )
        previous = stage
    if name in IN_NATS:
        axis = auto_axis(_values(rows), _axis_title(name))
    else:
        chance = "no preference" if name.startswith("choice") else ""
        axis = rate_axis(_axis_title(name), 0.5 if chance else None, chance)
    label = f"{_axis_title(name)} by arm, with 95 % intervals"
    return _both(rows, axis, bases, label)


def _both(rows: Sequence[Row], axis: Axis, bases: list[str], label: str, left: float = 0) -> str:
    shown = bases if any(r.dots for r in rows) else []
    wide = interval_figure(rows, axis, shown, label, False, left)
    return wide + interval_figure(rows, axis, shown, label, True)


def _values(rows: Sequence[Row]) -> list[float]:
    values = [v for r in rows for v in (r.value, r.low, r.high) if v is not None]
    return values + [d.value for r in rows for d in r.dots]


def _dots(cell: Mapping[str, Any], bases: list[str], key: str) -> tuple[Dot, ...]:
    dots = []
    for run in items(cell.get("per_seed")):
        run = mapping(run)
        value, base = number(run.get(key)), word(run.get("base"), "?")
        if value is not None and base in bases:
            title = f"{base}, seed {word(run.get('seed'), '?')}: {fixed(value, 3)}"
            dots.append(Dot(bases.index(base), value, title))
    return tuple(dots)


def _download(figure: str, name: str) -> str:
    """A link that saves the wide figure, the first one in ``figure``, as a file of its own."""
    alone = figure[: figure.index("</svg>") + len("</svg>")]
    data = base64.b64encode(alone.encode("utf-8")).decode("ascii")
    href = f"data:image/svg+xml;base64,{data}"
    return f'<a class="save" download="{esc(name)}" href="{href}">Save the figure as SVG</a>'


def _axis_title(name: str) -> str:
    return EVALS[name][1] if name in EVALS else f"{name} (rate)"


def figures(report: Mapping[str, Any]) -> str:
    """The main figure, and the same one for every other evaluation behind a click."""
    names = eval_names(report)
    if not names:
        return "<p>No evaluation was measured.</p>"
    main = "choice" if "choice" in names else names[0]
    drawn = the_figure(report, main)
    save = _download(drawn, f"{word(report.get('name'), 'run')}-{main}.svg")
    parts = [
        f'<figure id="the-figure">{drawn}<figcaption>'
        "<b>How to read this.</b> Each row is an arm, a recipe that starts from the same base"
        " models. The black point is the mean over base models and seeds, the bar its 95 % interval"
        " (bases, then seeds, resampled together). Each coloured mark is one run: one base model"
        " with one seed. The midtrained arms differ in the documents they read; the"
        " fine-tuning (AFT) is byte-identical in all arms that have it. <b>base</b> and"
        " <b>aft</b> are the controls. To compare two arms read their paired difference under"
        f" Effects; it is sharper than the overlap of two bars. {save}</figcaption></figure>"
    ]
    others = [n for n in names if n != main]
    if others:
        drawn = "".join(
            f"<h3>{esc(EVALS.get(n, (n,))[0])} <code>{esc(n)}</code></h3>{the_figure(report, n)}"
            for n in others
        )
        parts.append(details(f"The same figure for {', '.join(others)}", drawn))
    return "".join(parts)


# --------------------------------------------------------------------------------------- effects


def effects(report: Mapping[str, Any]) -> str:
    """Paired differences between arms: choices on one axis, the price paid on others."""
    found = {k: mapping(v) for k, v in mapping(report.get("effects")).items()}
    if not found:
        return "<p>No effect was measured.</p>"
    bases = base_names(report)
    rows = {name: _effect_row(name, effect, bases) for name, effect in found.items()}
    left = label_width(list(rows.values()))
    parts = []
    for title, belongs in (
        ("difference in the share choosing the American item", lambda m: m.startswith("choice")),
        ("difference in the share of facts answered correctly", lambda m: m == "facts"),
        ("difference in held-out loss, nats per token (above 0: worse)", lambda m: m in IN_NATS),
        ("difference", lambda m: not (m.startswith("choice") or m == "facts" or m in IN_NATS)),
    ):
        group = [rows[name] for name, e in found.items() if belongs(_parse_label(e)[2])]
        if group:
            axis = auto_axis(_values(group), title, 0.0, "no difference", sign=True)
            parts.append(f"<figure>{_both(group, axis, bases, title, left)}</figure>")
    how = note(
        "Differences are taken within a pair, the same base model and the same seed in both arms,"
        " then averaged. A bar that touches the dashed line shows no effect. With three base"
        " models the nominal 95 % intervals cover the truth in 74 to 83 % of simulated experiments:"
        " look at every base's own points too. <i>separation</i> compares the two midtrained arms"
        " after the same fine-tuning; <i>msm_only</i> the same before it; <i>price</i> is what"
        " midtraining cost in facts or in loss on other text."
    )
    return "".join(parts) + how


def _effect_row(name: str, effect: Mapping[str, Any], bases: list[str]) -> Row:
    bounds = bounds_of(effect)
    first, second, metric = _parse_label(effect)
    return Row(
        name,
        (first, f"− {second}, {metric}") if first else (),
        number(effect.get("value")),
        bounds[0] if bounds else None,
        bounds[1] if bounds else None,
        _dots(effect, bases, "value"),
    )


# ---------------------------------------------------------------------------------------- tables


def eval_table(report: Mapping[str, Any]) -> str:
    """Arms by evaluations: rate, interval, n."""
    names = eval_names(report)
    head = [
        "arm",
        "models",
        *(f"{esc(EVALS.get(n, (n,))[0])}<br><code>{esc(n)}</code>" for n in names),
    ]
    rows = []
    for arm in arm_order(mapping(report.get("arms"))):
        models = mapping(mapping(report.get("arms")).get(arm)).get("checkpoints")
        cells = [_cell(result(report, arm, n), 3 if n in IN_NATS else 2) for n in names]
        rows.append([f"<b>{esc(arm)}</b>", count(models), *cells])
    if not names:
        return "<p>No evaluation was measured.</p>"
    meanings = "; ".join(f"<code>{esc(n)}</code>: {esc(EVALS[n][1])}" for n in names if n in EVALS)
    return table(head, rows, "numbers") + note(
        "Mean over bases and seeds, its 95 % interval, and n, the number of items"
        f" answered by all the models together. {meanings}. Pairs are asked in both orders."
    )


def _cell(cell: Mapping[str, Any], digits: int) -> str:
    if number(cell.get("rate")) is None:
        return f'<span class="none">{NOT_MEASURED}</span>'
    parts = [f"<b>{fixed(cell.get('rate'), digits)}</b>"]
    if bounds := interval(bounds_of(cell), digits):
        parts.append(f"<small>{bounds}</small>")
    elif len(items(cell.get("per_seed"))) == 1:
        parts.append("<small>one run</small>")
    if number(cell.get("n")) is not None:
        parts.append(f"<small>n = {count(cell.get('n'))}</small>")
    unparsed = number(cell.get("unparsed"))
    if unparsed:
        parts.append(f'<small class="warn">{count(unparsed)} unparsed</small>')
    return "<br>".join(parts)


def domain_table(report: Mapping[str, Any]) -> str:
    """Held-out domains by arms, for the main evaluation; tinted away from 0.5."""
    names = eval_names(report)
    name = "choice" if "choice" in names else (names[0] if names else "")
    arms = [a for a in arm_order(mapping(report.get("arms"))) if result(report, a, name)]
    domains: dict[str, None] = {}
    for arm in arms:
        for domain in mapping(result(report, arm, name).get("by_domain")):
            domains.setdefault(domain)
    if not domains:
        return "<p>No evaluation was broken down by domain.</p>"
    rows = []
    for domain in domains:
        cells = [
            _tinted(mapping(mapping(found.get("by_domain")).get(domain)), name, _runs(found))
            for found in (result(report, a, name) for a in arms)
        ]
        rows.append([f"<b>{esc(domain)}</b>", *cells])
    return table(["domain", *(esc(a) for a in arms)], rows, "numbers tinted") + note(
        f"<code>{esc(name)}</code> in each domain that neither the documents"
        " nor the fine-tuning ever mentions. Tint grows with the distance from one half: orange"
        " below, blue above. An effect that sits in a few domains only is weaker evidence than"
        " the same mean spread over all of them."
    )


def _runs(cell: Mapping[str, Any]) -> int:
    return len(items(cell.get("per_seed")))


def _tinted(cell: Mapping[str, Any], name: str, runs: int) -> str:
    rate = number(cell.get("rate"))
    if rate is None:
        return f'<span class="none">{NOT_MEASURED}</span>'
    bounds = interval(bounds_of(cell, runs))
    small = f"<br><small>{bounds}</small>" if bounds else ""
    hint = f' title="n = {count(cell.get("n"))}"' if number(cell.get("n")) is not None else ""
    tint = ""
    if name not in IN_NATS:
        side = "hi" if rate >= 0.5 else "lo"
        tint = f' class="tint {side}" style="--t:{min(1.0, abs(rate - 0.5) * 2):.2f}"'
    return f"<span{tint}{hint}><b>{fixed(rate)}</b>{small}</span>"
