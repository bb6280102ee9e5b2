"""What a report opens with when something is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msm_ray.report.text import count, esc, items, mapping, number, plural, word

LINES = 40  # of what is missing; the rest is counted


def is_whole(report: Mapping[str, Any]) -> bool:
    """Whether nothing is missing and nothing went wrong."""
    return report.get("complete") is True and not items(report.get("problems"))


def banner(report: Mapping[str, Any]) -> str:
    """The warning over a report that is not whole: problems, then what is missing by checkpoint."""
    if is_whole(report):
        return ""
    cells = mapping(report.get("cells"))
    there, wanted = number(cells.get("present")), number(cells.get("expected"))
    problems = [word(p, "a problem without a word") for p in items(report.get("problems"))]
    missing = _grouped(report)
    said = f"{count(there)} of {count(wanted)} cells are there."
    if there is not None and there == wanted and problems and not missing:
        said = f"all {count(wanted)} cells are there, and {plural(len(problems), 'problem')}."
    listed = "".join(f"<li>{esc(line)}</li>" for line in (problems + missing)[:LINES])
    left = len(problems) + len(missing) - LINES
    more = f"<li>and {count(left)} more, all in report.json</li>" if left > 0 else ""
    return (
        f'<div class="banner" role="alert"><b>Incomplete:</b> {said}'
        " Do not compare arms until this is mended; the same command continues the run."
        f"{f'<ul>{listed}{more}</ul>' if listed else ''}</div>"
    )


def _grouped(report: Mapping[str, Any]) -> list[str]:
    """Missing cells as lines: whole arms first, then checkpoints with what they lack."""
    missing = items(mapping(report.get("cells")).get("missing"))
    lines: list[str] = []
    by_arm: dict[str, dict[str, list[str]]] = {}
    for cell in missing:
        known = mapping(cell)
        if not known:
            lines.append(word(cell))
            continue
        run = [word(known.get("base"), ""), word(known.get("seed"), "")]
        run[1] = f"seed {run[1]}" if run[1] else ""
        runs = by_arm.setdefault(word(known.get("arm"), ""), {})
        runs.setdefault(", ".join(w for w in run if w), []).append(word(known.get("eval"), ""))
    for arm, runs in by_arm.items():
        entry = mapping(mapping(report.get("arms")).get(arm))
        seeds = len(items(entry.get("seeds")))
        if not mapping(entry.get("evals")) and len(runs) == seeds > 1:
            lines.append(f"{arm}: the whole arm, all {seeds} runs")
            continue
        for where, evals in runs.items():
            lines.append(", ".join(w for w in (arm, where, *evals) if w))
    return lines
