"""Two reports side by side as a page: `msm compare RUN RUN --html FILE`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msm_ray.compare import SAID
from msm_ray.report.figures import Row, auto_axis, interval_figure
from msm_ray.report.html import page
from msm_ray.report.names import DIFFERENCE
from msm_ray.report.text import (
    details,
    esc,
    fixed,
    interval,
    mapping,
    note,
    numbers,
    plural,
    sortable,
    table,
    word,
)

Cell = tuple[str, float | str | None]


def render_comparison(found: Mapping[str, Any]) -> str:
    """The page for what `msm_ray.compare.comparison` found."""
    heads = [mapping(found[side]) for side in "ab"]
    title = " and ".join(f"{word(h.get('name'))} {word(h.get('fingerprint'), '')}" for h in heads)
    partial = [s.upper() for s, h in zip("ab", heads, strict=True) if not h.get("complete")]
    warning = (
        f'<div class="banner" role="alert"><b>Incomplete:</b> {" and ".join(partial)}. What is'
        " compared here is what is there.</div>"
        if partial
        else ""
    )
    rows = [
        [
            side.upper(),
            *(esc(word(h.get(k))) for k in ("name", "fingerprint", "finished")),
            f"{word(h.get('present'))} of {word(h.get('expected'))}",
        ]
        for side, h in zip("ab", heads, strict=True)
    ]
    only = "".join(
        f"<p>Only in {side.upper()}: {esc(', '.join(found[f'only_{side}']))}.</p>"
        for side in "ab"
        if found[f"only_{side}"]
    )
    effects = [{**r, "title": r["name"]} for r in found["effects"]]
    rates = [{**r, "title": f"{r['arm']}, {r['eval']}"} for r in found["rates"]]
    return page(
        esc(title),
        f'{warning}<header><p class="kicker">Two runs compared</p><h1>{esc(title)}</h1></header>'
        f"{table(['', 'run', 'fingerprint', 'finished', 'cells'], rows)}{only}"
        f'<section id="effects"><h2>Effects</h2>{_part(effects, "Effects", True)}</section>'
        f'<section id="settings"><h2>Settings that differ</h2>{_settings(found["settings"])}'
        f'</section><section id="rates"><h2>Rates by arm</h2>{_part(rates, "Rates", False)}'
        "</section>",
    )


def _settings(differing: Sequence[Mapping[str, Any]]) -> str:
    if not differing:
        return "<p>No setting differs.</p>"
    rows = [
        [f"<code>{esc(d['field'])}</code>", *(f"<code>{esc(_plain(d[s]))}</code>" for s in "ab")]
        for d in differing
    ]
    return sortable("Settings that differ", ["setting", "A", "B"], rows)


def _plain(value: Any) -> str:
    return "not there" if value is None else str(value)


def _part(rows: Sequence[Mapping[str, Any]], name: str, sign: bool) -> str:
    """The differences as a figure, and a table of all rows with what cannot be compared."""
    compared = [(r["title"], mapping(r["difference"])) for r in rows if "difference" in r]
    figure = ""
    if compared:
        lines = [_row(title, difference) for title, difference in compared]
        values = [v for r in lines for v in (r.value, r.low, r.high) if v is not None]
        axis = auto_axis(values, "B − A", 0.0, "no difference", sign=True)
        drawn = "".join(
            interval_figure(lines, axis, [], f"{name}: B − A", n) for n in (False, True)
        )
        figure = f"<figure>{drawn}</figure>"
        figure = figure if len(lines) <= 16 else details("The figure", figure)
    made: list[list[str | Cell]] = []
    for r in rows:
        sides = [_side(r[s], sign) for s in "ab"]
        if "difference" in r:
            d = r["difference"]
            value = f"<b>{fixed(d['value'], 3, True)}</b><br><small>"
            value += f"{interval(d['ci95'], 3, True) or 'no interval'}</small>"
            verdict = esc(f"{SAID[d['verdict']]}, {plural(d['pairs'], 'pair')}")
            kind = "" if d["verdict"] == DIFFERENCE else ' class="none"'
            last: list[str | Cell] = [(value, d["value"]), f"<span{kind}>{verdict}</span>"]
        else:
            why = f'<span class="none">not comparable: {esc(r["not_comparable"])}</span>'
            last = [("", None), why]
        made.append([esc(r["title"]), *sides, *last])
    if not made:
        return "<p>Nothing was measured.</p>"
    text = note(
        "B − A within pairs of the same base model and the same seed, over the same items. Grey:"
        " the interval holds zero, no difference is shown."
    )
    return (
        figure
        + sortable(name, ["", "A", "B", "B − A", "it shows"], made, "numbers compared")
        + text
    )


def _row(title: str, difference: Mapping[str, Any]) -> Row:
    bounds = numbers(difference.get("ci95"))
    low, high = bounds or (None, None)
    muted = difference.get("verdict") != DIFFERENCE
    return Row(title, (), difference["value"], low, high, (), muted=muted)


def _side(side: Mapping[str, Any] | None, sign: bool) -> Cell:
    if side is None:
        return '<span class="none">not measured</span>', None
    bounds = interval(side["ci95"], 3, sign)
    small = f"<br><small>{bounds}</small>" if bounds else ""
    return f"{fixed(side['value'], 3, sign)}{small}", side["value"]
