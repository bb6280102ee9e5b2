"""The effects of the report: paired differences between arms, and what each of them shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msm_ray.report.figures import Row, auto_axis, label_width
from msm_ray.report.names import (
    DIFFERENCE,
    IN_NATS,
    NO_INTERVAL,
    NONE_SHOWN,
    ONE_RUN,
    base_names,
    bounds_of,
    counted_item,
    effect_words,
    kind_of,
    members,
    parse_label,
    shows,
    sides,
    split,
)
from msm_ray.report.results import both, dots, values
from msm_ray.report.text import (
    NOT_MEASURED,
    esc,
    fixed,
    interval,
    items,
    mapping,
    note,
    number,
    numbers,
    sortable,
    word,
)

IN_WORDS = {
    DIFFERENCE: "a difference",
    NONE_SHOWN: "none shown: it holds zero",
    ONE_RUN: "unknown: one run",
    NO_INTERVAL: "unknown: no interval",
}

# What an interval generalizes to.
OVER = {"items": "other items", "seeds": "other seeds"}

READING = (
    "Differences are taken within a pair, the same base model and the same seed in both arms, then"
    " averaged. One is called a difference where its interval excludes zero. Grey: a bar that holds"
    " zero shows none, which is not the same as showing that there is none. Look at every base's"
    " own points too. <i>separation</i> compares the two midtrained arms after the same"
    " fine-tuning; <i>msm_only</i> the same before it; <i>price</i> is what midtraining"
    " cost in facts or in loss on other text."
)


def effects(report: Mapping[str, Any]) -> str:
    """Figures of all effects, by what they are measured in, and the table with what they show."""
    found = {k: mapping(v) for k, v in mapping(report.get("effects")).items()}
    if not found:
        return "<p>No effect was measured.</p>"
    drawn = _by_kind(report, found) if members(report) else _by_metric(report, found)
    return drawn + verdicts(report, found) + note(READING)


def _by_metric(report: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> str:
    """Choices on one axis, the price paid on others."""
    bases, item = base_names(report), counted_item(report)
    rows = {name: effect_row(name, effect, bases) for name, effect in found.items()}
    left = label_width(list(rows.values()))
    axes: dict[str, list[Row]] = {}
    for name, effect in found.items():
        axes.setdefault(_axis_title(parse_label(effect)[2], item), []).append(rows[name])
    return "".join(_drawn(group, title, bases, left) for title, group in axes.items())


def _axis_title(metric: str, item: str) -> str:
    """What a difference is measured in; evaluations whose names begin alike share an axis."""
    if metric.startswith("choice"):
        return f"difference in the share choosing the {item}"
    if metric == "facts":
        return "difference in the share of facts answered correctly"
    if metric in IN_NATS:
        return "difference in held-out loss, nats per token (above 0: worse)"
    family = metric.partition(":")[0]
    return f"difference: {family}" if family else "difference"


def _by_kind(report: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> str:
    """One figure for each effect of a suite, with a row for each of its comparisons."""
    bases = base_names(report)
    titles = {m.name: m.title for m in members(report)}
    kinds: dict[str, list[Row]] = {}
    for name, effect in found.items():
        bare, member = split(name, report)
        row = effect_row(titles.get(member, bare), effect, bases)
        kind = kind_of(name, effect, report) if member else "between the comparisons"
        kinds.setdefault(kind, []).append(row)
    return "".join(
        f"<h3><code>{esc(kind)}</code></h3>{_drawn(rows, f'{kind}: difference', bases)}"
        for kind, rows in kinds.items()
    )


def _drawn(rows: Sequence[Row], title: str, bases: Sequence[str], left: float = 0) -> str:
    axis = auto_axis(values(rows), title, 0.0, "no difference", sign=True)
    return f"<figure>{both(rows, axis, bases, title, left)}</figure>"


def effect_row(name: str, effect: Mapping[str, Any], bases: Sequence[str]) -> Row:
    """A row of an interval figure, greyed unless a difference is shown."""
    bounds = bounds_of(effect)
    first, second, shared = sides(effect)
    return Row(
        name,
        (first, f"− {second}, {shared}") if first else (),
        number(effect.get("value")),
        bounds[0] if bounds else None,
        bounds[1] if bounds else None,
        dots(effect, bases, "value"),
        muted=shows(effect) != DIFFERENCE,
    )


def verdicts(report: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> str:
    """Every effect with its interval and what it shows, in words."""
    rows: list[list[str | tuple[str, float | str | None]]] = []
    for name, effect in found.items():
        verdict, value = shows(effect), number(effect.get("value"))
        runs = len(items(effect.get("per_seed")))
        first, second, shared = sides(effect)
        of = f"{esc(first)} − {esc(second)}<small>{esc(shared)}</small>" if first else ""
        words, said = IN_WORDS[verdict], effect_words(split(name, report)[0])
        if runs == 1 and verdict in (DIFFERENCE, NONE_SHOWN):
            # Another training run may say otherwise.
            words += ", of this model" if said else ", of these two models"
        shown = f"<b>{words}</b>" if verdict == DIFFERENCE else f'<span class="none">{words}</span>'
        difference = fixed(value, 3, True) if value is not None else NOT_MEASURED
        bounds = interval(bounds_of(effect), 3, True) + _about(effect)
        rows.append(
            [
                f"<b>{esc(name)}</b>{f'<small>{esc(said)}</small>' if said else ''}",
                (difference, value),
                bounds,
                shown,
                str(runs),
                of,
            ]
        )
    head = ["effect", "difference", "95 % interval", "it shows", "pairs", "of"]
    return sortable("Effects", head, rows, "verdicts")


def _about(effect: Mapping[str, Any]) -> str:
    """What an effect's interval is about, and the one for base models that were not tried."""
    over = [OVER.get(word(name), word(name)) for name in items(effect.get("over"))]
    lines = [f"for {', '.join(over)}"] if over else []
    if bounds := interval(numbers(effect.get("ci95_new_bases")), 3, True):
        lines.append(f"{bounds} for other bases too")
    return "".join(f"<small>{esc(line)}</small>" for line in lines)
