"""The `search` part of a report.json as plain values: what is missing or broken is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msm_ray.report.search_found import (
    Confirmed,
    Constraint,
    Dimension,
    Found,
    Measured,
    Mixture,
    Objective,
    Rung,
    Trial,
)
from msm_ray.report.text import items, mapping, number, numbers, word

STATES = ("done", "stopped", "failed", "missing")


def read(part: Mapping[str, Any]) -> Found:
    """What a search found, its trials ranked: full trials before small ones, feasible first."""
    objectives = tuple(
        Objective(word(o.get("name")), "min" if o.get("goal") == "min" else "max")
        for o in map(mapping, items(part.get("objectives")))
        if o.get("name")
    )
    constraints = tuple(
        Constraint(word(c.get("name")), number(c.get("at_least")), number(c.get("at_most")))
        for c in map(mapping, items(part.get("constraints")))
        if c.get("name")
    )
    spaces = [mapping(s) for s in items(part.get("space"))]
    mixes = [m for m in map(_mixture, spaces) if m is not None]
    dimensions = tuple(d for d in map(_dimension, spaces) if d is not None)
    trials = [_trial(i, mapping(t)) for i, t in enumerate(items(part.get("trials")))]
    first = objectives[0] if objectives else None

    def place(t: Trial) -> tuple[bool, bool, bool, bool, float, int]:
        own = t.values.get(first.name) if first else None
        gain = first.gain(own.value) if first and own else 0.0
        return own is None, t.state != "done", t.phase == "swarm", not_met(t), -gain, t.number

    def not_met(t: Trial) -> bool:
        return t.feasible is False

    trials.sort(key=place)
    best = part.get("best")
    confirmed = []
    for entry in map(mapping, items(part.get("confirmed"))):
        seeds = tuple(word(s) for s in items(entry.get("seeds")))
        claimed, values = _measured(entry.get("claimed")), _measured(entry.get("values"))
        if isinstance(entry.get("number"), int) and values:
            confirmed.append(Confirmed(entry["number"], seeds, claimed, values))
    return Found(
        part,
        objectives,
        constraints,
        mixes[0] if mixes else None,
        len(mixes),
        dimensions,
        tuple(trials),
        tuple(n for n in items(part.get("front")) if isinstance(n, int)),
        next((t for t in trials if t.number == best), None),
        tuple(confirmed),
    )


def _mixture(space: Mapping[str, Any]) -> Mixture | None:
    sources = tuple(dict.fromkeys(word(s) for s in items(space.get("sources"))))
    if space.get("kind") != "mixture" or not sources:
        return None
    settings = {k: word(v, "") for k, v in mapping(space.get("settings")).items()}
    return Mixture(sources, settings, _shares(space.get("floors")), _shares(space.get("ceilings")))


def _dimension(space: Mapping[str, Any]) -> Dimension | None:
    name, low, high = word(space.get("setting"), ""), number(space.get("low")), space.get("high")
    if not name or space.get("kind") == "mixture":
        return None
    if values := items(space.get("values")):
        return Dimension(name, 0.0, 0.0, False, tuple(values))
    top = number(high)
    if low is None or top is None or not low < top:
        return None
    return Dimension(name, low, top, bool(space.get("log")) and low > 0, ())


def _trial(index: int, entry: Mapping[str, Any]) -> Trial:
    own = entry.get("number")
    rungs = [
        Rung(steps, value)
        for r in map(mapping, items(entry.get("rungs")))
        if (steps := number(r.get("steps"))) is not None
        and (value := number(r.get("value"))) is not None
    ]
    feasible, state = entry.get("feasible"), word(entry.get("state"), "")
    return Trial(
        own if isinstance(own, int) and not isinstance(own, bool) else index,
        word(entry.get("phase"), "search"),
        state if state in STATES else "missing",
        mapping(entry.get("settings")),
        _shares(entry.get("mix")),
        _shares(entry.get("realised")),
        _measured(entry.get("values")),
        feasible if isinstance(feasible, bool) else None,
        tuple(sorted(rungs, key=lambda r: r.steps)),
        number(entry.get("seconds")),
        number(entry.get("tokens")),
        number(entry.get("tokens_new")),
        number(entry.get("stages")),
        number(entry.get("stages_new")),
        word(entry.get("error"), ""),
    )


def _measured(values: Any) -> dict[str, Measured]:
    found = {}
    for name, entry in mapping(values).items():
        value = number(mapping(entry).get("value"))
        if value is not None:
            found[name] = Measured(value, numbers(mapping(entry).get("ci95")))
    return found


def _shares(values: Any) -> dict[str, float]:
    found = {name: number(x) for name, x in mapping(values).items()}
    return {name: x for name, x in found.items() if x is not None}
