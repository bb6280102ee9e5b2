"""Numbers, names and markup for the report: everything that reaches the page is escaped here."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NOT_MEASURED = "not measured"


def esc(value: Any) -> str:
    """``value`` as text that is safe inside elements and in quoted attributes."""
    return html.escape(str(value), quote=True)


def breakable(name: str) -> str:
    """An arm's name as markup that may be broken into lines between its parts."""
    return re.sub(r"([:+@])", r"\1<wbr>", esc(name))


def word(value: Any, missing: str = NOT_MEASURED) -> str:
    """``value`` as plain text if it is a text or a number, else ``missing``; not escaped yet."""
    if isinstance(value, str) and value:
        return value
    x = number(value)
    if x is None:
        return missing
    return str(value)


def number(value: Any) -> float | None:
    """``value`` as a finite float; None for what is missing, not a number, nan or infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def numbers(values: Any) -> tuple[float, float] | None:
    """A pair of finite floats, such as an interval; None for anything else."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 2:
        return None
    low, high = number(values[0]), number(values[1])
    return None if low is None or high is None else (low, high)


def mapping(value: Any) -> Mapping[str, Any]:
    """``value`` if it is a mapping, else an empty one: a part of the report that is not there."""
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> Sequence[Any]:
    """``value`` if it is a list, else an empty one."""
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def fixed(value: Any, digits: int = 2, sign: bool = False) -> str:
    """``0.48``, with a true minus sign; "not measured" for what is missing."""
    x = number(value)
    if x is None:
        return NOT_MEASURED
    text = f"{x:+.{digits}f}" if sign else f"{x:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def interval(values: Any, digits: int = 2, sign: bool = False) -> str:
    """``[0.41, 0.55]``; empty for what is missing."""
    pair = numbers(values)
    if pair is None:
        return ""
    return f"[{fixed(pair[0], digits, sign)}, {fixed(pair[1], digits, sign)}]"


def count(value: Any) -> str:
    """``12,480``; "not measured" for what is missing."""
    x = number(value)
    return NOT_MEASURED if x is None else f"{x:,.0f}"


def short_count(value: Any) -> str:
    """``12.5k``, ``3.1M``: for axes and tiles."""
    x = number(value)
    if x is None:
        return NOT_MEASURED
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(x) >= scale:
            size = x / (1e3 if unit == "k" else scale)
            return f"{size:.3g}{unit}"
    return f"{x:,.0f}"


def duration(value: Any) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    x = number(value)
    if x is None:
        return NOT_MEASURED
    if x < 1:
        return f"{x:.2f} s"
    if x < 90:
        return f"{x:.0f} s" if x >= 10 else f"{x:.1f} s"
    whole = round(x)
    if whole < 5400:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plural(n: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    classes: str = "",
    first_is_name: bool = True,
) -> str:
    """An HTML table of cells that are markup already, in a box that scrolls when it is too wide."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = []
    for row in rows:
        cells = [f"<td>{cell}</td>" for cell in row]
        if first_is_name and cells:
            cells[0] = f'<th scope="row">{row[0]}</th>'
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table class="{classes}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def sortable(
    label: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str | tuple[str, float | str | None]]],
    classes: str = "",
    choose: Sequence[int] = (),
    attributes: str = "",
) -> str:
    """A table that the page's script sorts by a click on a heading and filters by what is typed.

    Without the script it is the table that `table` makes.

    Args:
        label: what the table holds, as plain text, for the filter and for those who cannot see it.
        rows: cells as markup, or (markup, what it is sorted by; None: last in either order).
        choose: columns with few different values, which get a list to choose one from.
        attributes: more attributes of the table.
    """
    top = "".join(
        f'<th scope="col"{" data-choose" if i in choose else ""}>{cell}</th>'
        for i, cell in enumerate(head)
    )
    body = []
    for row in rows:
        cells = []
        for i, cell in enumerate(row):
            markup, key = (cell, "") if isinstance(cell, str) else cell
            by = "" if isinstance(cell, str) else f' data-v="{esc(_key(key))}"'
            cells.append(
                f'<th scope="row"{by}>{markup}</th>' if i == 0 else f"<td{by}>{markup}</td>"
            )
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(label)}">'
        f'<table class="{classes}" data-sortable="{esc(label)}"{attributes}><thead><tr>{top}</tr>'
        f"</thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _key(key: float | str | None) -> str:
    """What the page's script sorts by."""
    if key is None:
        return ""
    return key if isinstance(key, str) else f"{key:.6g}"


def cut(content: str, length: int) -> str:
    """``content``, cut to ``length`` characters, with how many were left out."""
    if len(content) <= length:
        return content
    return f"{content[:length]}… ({count(len(content) - length)} more characters)"


def details(title: str, body: str, is_open: bool = False) -> str:
    """A part that opens on a click; ``title`` is plain text, ``body`` markup."""
    state = " open" if is_open else ""
    return f"<details{state}><summary>{esc(title)}</summary>{body}</details>"


def note(text: str) -> str:
    """The line that says how to read a part; ``text`` is markup."""
    return f'<p class="note"><b>How to read this.</b> {text}</p>'
