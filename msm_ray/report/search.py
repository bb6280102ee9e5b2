"""The trials of a search, for reports that a search has written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msm_ray.report.text import count, esc, fixed, items, mapping, note, number, table, word


def search(report: Mapping[str, Any]) -> str:
    """Trials, the best first: their settings, the metric that was sought, and its price."""
    found = mapping(report.get("search"))
    metric = word(found.get("metric"), "metric")
    trials = [mapping(t) for t in items(found.get("trials"))]
    trials.sort(key=lambda t: -(number(t.get(metric)) or 0.0) if metric in t else float("inf"))
    names = list(dict.fromkeys(n for t in trials for n in mapping(t.get("settings"))))
    measured = [n for n in (metric, "heldout_loss", "facts") if any(n in t for t in trials)]
    rows = [_row(i, trial, names, measured, metric) for i, trial in enumerate(trials)]
    # A trial is named by its settings, so the first column is the rank.
    head = ["", *(f"<code>{esc(n)}</code>" for n in names), *(esc(n) for n in measured), ""]
    parts = [table(head, rows, "numbers")]
    saved = _sharing(found)
    parts.append(
        note(
            f"Each row is one trial, the best <code>{esc(metric)}</code> first; the rest of this"
            " page is the best trial's. Trials share the stages that their settings leave"
            f" equal.{saved} The best of several noisy trials looks better than it is: run it"
            " again on other bases and seeds before relying on it."
        )
    )
    return "".join(parts)


def _row(
    rank: int, trial: Mapping[str, Any], names: list[str], measured: list[str], metric: str
) -> list[str]:
    settings = mapping(trial.get("settings"))
    values = [f"{x:g}" if (x := number(settings.get(n))) is not None else "" for n in names]
    if "error" in trial:
        failure = f'<span class="warn">failed: {esc(word(trial["error"]))}</span>'
        return [str(rank + 1), *values, *([""] * len(measured)), failure]
    value = number(trial.get(metric))
    width = 100 * min(1.0, max(0.0, value or 0.0))
    bar = f'<span class="bar"><i class="kept" style="width:{width:.0f}%"></i></span>'
    results = [fixed(trial.get(n), 3) for n in measured]
    if rank == 0 and results:
        results[0] = f"<b>{results[0]}</b>"
    return [str(rank + 1), *values, *results, bar]


def _sharing(found: Mapping[str, Any]) -> str:
    alone = mapping(found.get("stages_if_not_shared"))
    words = [
        f"{count(mapping(made).get('needed'))} {esc(kind)} stages instead of"
        f" {count(alone.get(kind))}"
        for kind, made in mapping(found.get("stages")).items()
    ]
    return f" Here: {', '.join(words)}." if words else ""
