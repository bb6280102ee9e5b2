"""Effects in a comparison, between arms or between evaluations: paired differences, intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from msm_ray.artifact import Record
from msm_ray.cells import Cell, ItemValues, interval_facts, measured, options_of, over_bases
from msm_ray.evaluate.crossed import Cells
from msm_ray.evaluate.statistics import paired_effect

# What is compared: (evaluation, arm, arm that is subtracted), and the latter's evaluation where it
# is another one. Their items are paired by their ids.
Contrast = tuple[str, str, str] | tuple[str, str, str, str]


def effects(
    cells: Sequence[Cell],
    records: Mapping[str, Record],
    items: ItemValues,
    compared: Mapping[str, Contrast],
) -> dict[str, Any]:
    """The report's effects, over the seeds and items that both sides have.

    Args:
        compared: by the effects' names.
    """
    found: dict[str, Any] = {}
    for name, (metric, arm_a, arm_b, *other) in compared.items():
        metric_b = other[0] if other else metric
        a = measured(cells, records, items, arm_a, metric)
        b = measured(cells, records, items, arm_b, metric_b)
        if a.items is None or b.items is None:
            a, b = (dataclasses.replace(side, items=None) for side in (a, b))
        pairs = [
            (x, s)
            for x, s in _distinct(cells, (arm_a, metric), (arm_b, metric_b))
            if s in a.runs.get(x, {})
            and s in b.runs.get(x, {})
            and _comparable(a.runs[x][s], b.runs[x][s])
        ]
        if not pairs:
            continue
        left, right = _only(a.runs, pairs), _only(b.runs, pairs)
        options = options_of(a, b)
        interval = paired_effect(left, right, **options)
        rates = [_rates(cells, records, *side) for side in ((arm_a, metric), (arm_b, metric_b))]
        found[name] = {
            "value": interval.value,
            **interval_facts(interval),
            **over_bases(paired_effect, left, right, **options),
            "verdict": interval.verdict,
            "n_unpaired": interval.n_unpaired,
            "label": f"{arm_a} - {arm_b}, {' - '.join([metric, *other])}",
            "per_seed": [
                {"base": x, "seed": s, "value": rates[0][x, s] - rates[1][x, s]} for x, s in pairs
            ],
        }
    return found


def _distinct(
    cells: Sequence[Cell], a: tuple[str, str], b: tuple[str, str]
) -> list[tuple[str, int]]:
    """Runs (base, seed) of two sides (arm, evaluation); of those that are one and the same, one.

    Seeds share a model that was not trained: compared with itself it says nothing of other seeds.
    """
    stages = [
        {(c.base, c.seed): c.stage.id for c in cells if c.arm == arm and name in c.evals}
        for arm, name in (a, b)
    ]
    both = [run for run in stages[0] if run in stages[1]]
    once = {(stages[0][run], stages[1][run]): run for run in reversed(both)}
    return [run for run in both if run in once.values()]


def _comparable(a: Any, b: Any) -> bool:
    """Whether two runs have an item in common; rates always have."""
    return not isinstance(a, Mapping) or bool(a.keys() & b.keys())


def _only(runs: Cells, pairs: Sequence[tuple[str, int]]) -> Cells:
    """The runs (base, seed) alone."""
    kept: dict[str, dict[int, Any]] = {}
    for base, seed in pairs:
        kept.setdefault(base, {})[seed] = runs[base][seed]
    return kept


def _rates(
    cells: Sequence[Cell], records: Mapping[str, Record], arm: str, name: str
) -> dict[tuple[str, int], float]:
    """An arm's rate by base and seed."""
    return {
        (c.base, c.seed): records[c.stage.id].facts["evals"][name]["rate"]
        for c in cells
        if c.arm == arm and c.has(records, name)
    }


def compared_arms(
    names: Sequence[str], kinds: Sequence[tuple[str, str, str, str]]
) -> dict[str, tuple[str, str, str]]:
    """The effects of ``names`` (values): name -> (evaluation, arm, arm that is subtracted).

    With more than two values, each further pair has the same effects under ``NAME:A-B``.

    Args:
        kinds: (name, evaluation, arm, arm that is subtracted), with {a} and {b} for two values.
    """
    pairs = list(combinations(names, 2)) or [(name, "") for name in names]
    found: dict[str, tuple[str, str, str]] = {}
    for a, b in pairs:
        for name, metric, first, second in kinds:
            if not b and "{b}" in name + first + second:
                continue
            arms = first.format(a=a, b=b), second.format(a=a, b=b)
            full = name.format(a=a, b=b)
            if (a, b) != pairs[0] and full == name and "{" in first + second:
                full = f"{name}:{a}-{b}"
            found.setdefault(full, (metric, *arms))
    return found
