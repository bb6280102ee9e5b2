"""The tables of the report: evaluations by arm, by domain, and by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msm_ray.report.names import (
    EVALS,
    IN_NATS,
    arm_order,
    axis_title,
    bounds_of,
    counted_item,
    eval_names,
    eval_title,
    members,
    result,
    split,
)
from msm_ray.report.text import (
    NOT_MEASURED,
    breakable,
    count,
    details,
    esc,
    fixed,
    interval,
    items,
    mapping,
    note,
    number,
    sortable,
    word,
)

Cell = tuple[str, float | str | None]  # markup, and what a column is sorted by

# Of an evaluation, besides its rate: what every report shows in a place of its own.
KNOWN = frozenset({"rate", "ci95", "n", "per_seed", "by_domain", "by_order", "interval"})
COUNTS = ("unparsed", "refused", "failed", "judge_failed")  # answers without a value, by why
STOPPED = "stopped:"  # of a cell whose sampling goes on until enough is known
PLACES = ("first", "second", "third", "fourth")
ROWS_PRINTED = 20  # of a table by item, as the style sheet says


def _has(report: Mapping[str, Any], name: str) -> list[str]:
    """The arms that have an evaluation, in order."""
    return [a for a in arm_order(mapping(report.get("arms"))) if result(report, a, name)]


# --------------------------------------------------------------------------------------- by arm


def eval_table(report: Mapping[str, Any]) -> str:
    """Arms by evaluations: rate, interval, n; then whatever else an evaluation counts."""
    names = eval_names(report)
    if not names:
        return "<p>No evaluation was measured.</p>"
    head = [
        "arm",
        "models",
        *(f"{esc(eval_title(n))}<br><code>{esc(n)}</code>" for n in names),
    ]
    rows: list[list[str | Cell]] = []
    for arm in arm_order(mapping(report.get("arms"))):
        models = mapping(mapping(report.get("arms")).get(arm)).get("checkpoints")
        cells = [_cell(result(report, arm, n), 3 if n in IN_NATS else 2) for n in names]
        rows.append([f"<b>{esc(arm)}</b>", count(models), *cells])
    meanings = "; ".join(
        f"<code>{esc(n)}</code>: {esc(axis_title(n, counted_item(report)))}"
        for n in names
        if n in EVALS
    )
    return (
        sortable("Evaluations by arm", head, rows, "numbers")
        + note(
            "Mean over bases and seeds, its 95 % interval, and n, the number of items"
            f" answered by all the models together. {meanings}. Pairs are asked in both orders."
        )
        + _orders(report, names)
        + _others(report, names)
    )


def _cell(cell: Mapping[str, Any], digits: int) -> Cell:
    rate = number(cell.get("rate"))
    counts = [
        f'<small class="warn">{count(cell.get(k))} {k.replace("_", " ")}</small>'
        for k in COUNTS
        if cell.get(k)
    ]
    if rate is None:
        return "<br>".join([f'<span class="none">{NOT_MEASURED}</span>', *counts]), None
    parts = [f"<b>{fixed(rate, digits)}</b>"]
    if bounds := interval(bounds_of(cell), digits):
        parts.append(f"<small>{bounds}</small>")
    if len(items(cell.get("per_seed"))) == 1:
        parts.append("<small>one run</small>")
    if number(cell.get("n")) is not None:
        parts.append(f"<small>n = {count(cell.get('n'))}</small>")
    return "<br>".join([*parts, *counts]), rate


def _orders(report: Mapping[str, Any], names: Sequence[str]) -> str:
    """Rates by the place at which the option that counts is listed, and what place alone does."""
    found = {
        (a, n): cell
        for n in names
        for a in _has(report, n)
        if mapping((cell := result(report, a, n)).get("by_order"))
    }
    if not found:
        return ""
    most = max(len(mapping(cell["by_order"])) for cell in found.values())
    places = range(min(most, len(PLACES)))
    rows: list[list[str | Cell]] = []
    for (arm, name), cell in found.items():
        by_order = mapping(cell["by_order"])
        undecided = mapping(cell.get("undecided"))
        why = ", ".join(f"{count(n)} {k.replace('_', ' ')}" for k, n in undecided.items())
        rows.append(
            [
                f"<b>{esc(arm)}</b>",
                f"<code>{esc(name)}</code>",
                *(_with_n(mapping(by_order.get(str(place)))) for place in places),
                _with_n(mapping(cell.get("first_listed"))),
                esc(why),
            ]
        )
    head = ["arm", "evaluation", *(f"rate, listed {PLACES[p]}" for p in places)]
    head += ["first one is chosen", "undecided"]
    text = note(
        "The same questions with the option that counts in each place. <i>First one is chosen</i>:"
        " how often the option that is listed first is taken, whichever it is, of those decided;"
        " 0.5 of two options is no bias of position, and both orders together cancel one."
    )
    body = sortable("Rates by order", head, rows, "numbers", choose=(1,))
    return details("Position bias: rates by the order of the options", body + text)


def _with_n(cell: Mapping[str, Any]) -> Cell:
    rate = number(cell.get("rate"))
    if rate is None:
        return "", None
    return f"{fixed(rate)}<small>n = {count(cell.get('n'))}</small>", rate


def _others(report: Mapping[str, Any], names: Sequence[str]) -> str:
    """What evaluations measure beside their rate, such as a calibration error."""
    found = {(a, n): result(report, a, n) for n in names for a in _has(report, n)}
    plain = (str, int, float)
    columns = list(
        dict.fromkeys(
            k
            for cell in found.values()
            for k, v in cell.items()
            if k not in KNOWN and k not in COUNTS and isinstance(v, plain)
        )
    )
    if not columns:
        return ""
    rows: list[list[str | Cell]] = [
        [f"<b>{esc(a)}</b>", f"<code>{esc(n)}</code>", *(_plain(cell.get(c)) for c in columns)]
        for (a, n), cell in found.items()
        if any(c in cell for c in columns)
    ]
    head = ["arm", "evaluation", *(f"<code>{esc(c)}</code>" for c in columns)]
    body = sortable("Other measures", head, rows, "numbers", choose=(1,))
    return details("What else the evaluations measure", body)


def _plain(value: Any) -> Cell:
    x = number(value)
    if x is None:
        return esc(word(value, "")), word(value, "") or None
    return (count(x) if x == int(x) and abs(x) > 1 else fixed(x, 3)), x


# ------------------------------------------------------------------------------------ by domain


def domain_tables(report: Mapping[str, Any]) -> str:
    """Held-out domains by arms: the main evaluation, the others behind a click."""
    made = [
        (", ".join(part for part in (title, name) if part), name, body)
        for title, arms in _groups(report)
        for name in eval_names(report, arms)
        if (body := _domains(report, name, arms))
    ]
    if not made:
        return "<p>No evaluation was broken down by domain.</p>"
    (heading, main, first), others = made[0], made[1:]
    if any(STOPPED in body for _, _, body in made):
        first += note(
            f"<i>{STOPPED} narrow enough</i>: rollouts of that cell ended when the Wilson interval"
            " of its rate, of each checkpoint by itself and over its rollouts, was as narrow as the"
            " rule of the job asks; <i>cap</i>: at the most rollouts that it allows. The interval"
            " above is over items and seeds, and may be wider."
        )
    text = note(
        f"<code>{esc(main)}</code> in each domain that neither the documents"
        " nor the fine-tuning ever mentions. Tint grows with the distance from one half: orange"
        " below, blue above. An effect that sits in a few domains only is weaker evidence than"
        " the same mean spread over all of them."
    )
    more = "".join(details(f"By domain: {title}", body) for title, _, body in others)
    return (f"<h3>{esc(heading)}</h3>" if heading != main else "") + first + text + more


def _groups(report: Mapping[str, Any]) -> list[tuple[str, Sequence[str]]]:
    """Arms that stand in one table, with a title: those of each comparison of a suite, or all."""
    suite: list[tuple[str, Sequence[str]]] = [(m.title, m.arms) for m in members(report)]
    return suite or [("", arm_order(mapping(report.get("arms"))))]


def _domains(report: Mapping[str, Any], name: str, among: Sequence[str]) -> str:
    arms = [a for a in among if result(report, a, name)]
    domains: dict[str, None] = {}
    for arm in arms:
        for domain in mapping(result(report, arm, name).get("by_domain")):
            domains.setdefault(domain)
    rows: list[list[str | Cell]] = []
    for domain in domains:
        cells = [
            _tinted(mapping(mapping(found.get("by_domain")).get(domain)), name, found)
            for found in (result(report, a, name) for a in arms)
        ]
        rows.append([f"<b>{esc(domain)}</b>", *cells])
    if not rows:
        return ""
    head = ["domain", *(breakable(split(a, report)[0]) for a in arms)]
    return sortable(f"{name} by domain", head, rows, "numbers tinted")


def _tinted(cell: Mapping[str, Any], name: str, whole: Mapping[str, Any]) -> Cell:
    rate = number(cell.get("rate"))
    if rate is None:
        return f'<span class="none">{NOT_MEASURED}</span>', None
    own = {**cell, "interval": cell.get("interval", whole.get("interval"))}
    bounds = interval(bounds_of(own, len(items(whole.get("per_seed")))))
    small = f"<br><small>{bounds}</small>" if bounds else ""
    if stopped := word(cell.get("stopped"), ""):
        small += f"<br><small>{STOPPED} {esc(stopped)}</small>"
    hint = f' title="n = {count(cell.get("n"))}"' if number(cell.get("n")) is not None else ""
    tint = ""
    if name not in IN_NATS and 0 <= rate <= 1:
        side = "hi" if rate >= 0.5 else "lo"
        tint = f' class="tint {side}" style="--t:{abs(rate - 0.5) * 2:.2f}"'
    return f"<span{tint}{hint}><b>{fixed(rate)}</b>{small}</span>", rate


# -------------------------------------------------------------------------------------- by item


def item_tables(report: Mapping[str, Any]) -> str:
    """Single items by arms, one table an evaluation: what is shown of them is said."""
    every = mapping(report.get("items"))
    total = mapping(report.get("items_total"))
    parts: list[str] = []
    for name in [n for n in eval_names(report) if n in every] or list(every):
        for title, arms in _groups(report):
            rows = [mapping(r) for r in items(every.get(name))]
            rows = [r for r in rows if not arms or set(arms) & set(mapping(r.get("rates")))]
            if not rows:
                continue
            of = number(total.get(name))
            shown = f"{count(len(rows))}{f' of {count(of)}' if of else ''} items"
            heading = f"{f'{title}, ' if title else ''}{eval_title(name)} ({name}): {shown}"
            body = _item_table(report, name, rows, arms)
            parts.append(details(heading, body, not parts))
    if not parts:
        return "<p>No evaluation was broken down by item.</p>"
    text = note(
        "An item's number is the mean over the bases and seeds that answered it. Shown are the"
        " items on which the arms differ most, and items drawn at random: <i>differ</i> is a choice"
        " of extremes, and only the <i>random</i> ones say what is usual."
        f' <span class="printed">On paper a table has at most {ROWS_PRINTED} rows.</span>'
    )
    return text + "".join(parts)


def _item_table(
    report: Mapping[str, Any], name: str, rows: Sequence[Mapping[str, Any]], among: Sequence[str]
) -> str:
    found = {arm for row in rows for arm in mapping(row.get("rates"))}
    arms = [a for a in among if a in found] or sorted(found)
    chosen = any(row.get("chosen") for row in rows)
    head = ["item", "domain", *(["chosen"] if chosen else []), "prompt"]
    head += [breakable(split(a, report)[0]) for a in arms]
    digits = 3 if name in IN_NATS else 2
    made: list[list[str | Cell]] = []
    for row in rows:
        rates = mapping(row.get("rates"))
        made.append(
            [
                f"<code>{esc(word(row.get('id'), '?'))}</code>",
                esc(word(row.get("domain"), "")),
                *([esc(word(row.get("chosen"), ""))] if chosen else []),
                f"<small>{esc(word(row.get('prompt'), ''))}</small>",
                *(_rate(rates.get(arm), digits) for arm in arms),
            ]
        )
    choose = (1, 2) if chosen else (1,)
    return sortable(f"{name} by item", head, made, "numbers items", choose)


def _rate(value: Any, digits: int) -> str:
    return "" if number(value) is None else fixed(value, digits)
