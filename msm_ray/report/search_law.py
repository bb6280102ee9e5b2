"""The mixture law: how well its surrogates predict, what they predict to be best, and proxies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msm_ray.report.search_found import Found, Measured, shown
from msm_ray.report.text import (
    count,
    esc,
    fixed,
    interval,
    items,
    mapping,
    note,
    number,
    numbers,
    table,
    word,
)

SAME_SHARE = 0.005  # shares of a trial that differ by less are those of the prediction


def law(found: Found) -> str:
    """Cross-validated errors, and the predicted best beside what was measured there."""
    own = mapping(found.part.get("law"))
    if not own:
        return ""
    return "<h3>Mixture law</h3>" + _surrogates(own) + _predicted(found, own)


def _surrogates(own: Mapping[str, Any]) -> str:
    chosen = word(own.get("surrogate"), "")
    rows, poor = [], False
    for name, entry in mapping(own.get("cv")).items():
        cv = mapping(entry)
        r2 = number(cv.get("r2"))
        poor |= name == chosen and r2 is not None and r2 <= 0
        rows.append(
            [
                f"<b>{esc(name)}</b>, used" if name == chosen else esc(name),
                fixed(r2, 3),
                fixed(cv.get("rmse"), 4),
                fixed(cv.get("rank"), 3),
                count(cv.get("n")),
            ]
        )
    if not rows:
        return "<p>The law's cross-validated error is not in the report.</p>"
    warning = (
        '<p class="warn">On trials that it had not seen, the law predicts no better than their'
        " mean. Do not rely on its surface.</p>"
        if poor
        else ""
    )
    head = ["surrogate", "R²", "RMSE", "rank correlation", "n"]
    return (
        table(head, rows, "numbers")
        + warning
        + note(
            "Cross-validated: each trial is predicted by a surrogate that was fitted without it."
            " R²: 1 is perfect, 0 is no better than the mean of all. The rank correlation says"
            " whether good and bad mixes are told apart, which is what a choice needs."
        )
    )


def _predicted(found: Found, own: Mapping[str, Any]) -> str:
    """The prediction, with its interval, against the confirming run of the same mix."""
    said, first = mapping(own.get("predicted")), found.first
    value = number(said.get("value"))
    if value is None or first is None:
        return "<p>The law predicted no best mix.</p>"
    ci95 = numbers(said.get("ci95"))
    bounds = found.bounds(first.name, ci95) or "without an interval"
    mix = ", ".join(
        f"{esc(s)} {x:.4g}"
        for s, v in mapping(said.get("mix")).items()
        if (x := number(v)) is not None
    )
    settings = ", ".join(
        f"<code>{esc(n)} = {esc(shown(v))}</code>"
        for n, v in mapping(said.get("settings")).items()
        if n in found.varied
    )
    at = "; ".join(part for part in (mix, settings) if part)
    sentence = (
        f"Predicted best{f' ({at})' if at else ''}: <code>{esc(first.name)}</code>"
        f" <b>{found.say(first.name, value)}</b> {bounds}."
    )
    return f"<p>{sentence} {_measured(found, said, ci95)}</p>"


def _measured(found: Found, said: Mapping[str, Any], ci95: tuple[float, float] | None) -> str:
    """What real runs of the predicted mix measured."""
    first = found.first
    if first is None:
        return ""
    for run in found.confirmed:
        trial = found.of(run.number)
        if first.name in run.values and trial is not None and _same(trial.mix, said):
            again = run.values[first.name]
            words = _inside(again, ci95)
            measured = found.both(first.name, again)
            return (
                f"The confirming run of it (trial {run.number}) measured <b>{measured}</b>{words}."
            )
    for trial in found.measured:
        if trial.phase != "swarm" and _same(trial.mix, said):
            own = trial.values[first.name]
            measured = found.both(first.name, own)
            return (
                f"Trial {trial.number}, of the same mix, measured {measured}"
                f"{_inside(own, ci95)}; it was not confirmed on fresh seeds."
            )
    return "No run of that mix was measured: it is a prediction only."


def _same(mix: Mapping[str, float], said: Mapping[str, Any]) -> bool:
    wanted = {s: number(x) for s, x in mapping(said.get("mix")).items()}
    return bool(wanted) and all(
        x is not None and abs(mix.get(s, 9.0) - x) <= SAME_SHARE for s, x in wanted.items()
    )


def _inside(own: Measured, ci95: tuple[float, float] | None) -> str:
    if ci95 is None:
        return ""
    holds = ci95[0] <= own.value <= ci95[1]
    return ", inside the predicted interval" if holds else ", <b>outside the predicted interval</b>"


def proxies(found: Found) -> str:
    """How well small runs rank what large ones rank."""
    rows = [
        [
            f"{esc(word(p.get('small')))} for {esc(word(p.get('large')))}",
            f"{fixed(p.get('rank_correlation'), 2)} {interval(p.get('ci95'), 2)}",
            count(p.get("n")),
        ]
        for p in map(mapping, items(found.part.get("proxies")))
    ]
    if not rows:
        return ""
    head = ["small runs for large ones", "rank correlation, 95 % interval", "trials in both"]
    return (
        "<h3>Small runs for large ones</h3>"
        + table(head, rows, "numbers")
        + note(
            "Reported, not assumed: the same mixes were run small and large, and their ranks"
            " compared. Where the interval holds zero, the small runs are not shown to say"
            " anything about the large ones."
        )
    )
