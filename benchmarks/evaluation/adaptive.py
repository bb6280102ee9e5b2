"""Rollouts that sampling by width saves against 300 in every cell, and whether it still covers.

The cells are those of an agentic evaluation: 27 (3 harmful actions x 9 goal conditions) for each
model and arm, with the published mean rates of harm (.05 to .70) and cells spread around each mean
(standard deviation 1 in log-odds). Nothing is drawn: ``expect`` counts out every way a cell can go.

- *same promise*: every cell is at most as wide as the widest of 300 rollouts, at a rate of 1/2.
- *wider promises*: the same against the fixed number of rollouts that this promise needs.
- *same mean width*: cells as wide as those of 300 rollouts are on average. A fixed number wins
  here: it makes extreme cells narrower for the same rollouts.
- *coverage*: of the 95 % interval after stopping, by rate.

Writes adaptive.json. A minute on one core.

    python benchmarks/evaluation/adaptive.py
"""

from __future__ import annotations

import json
import math
import time
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np

from msm_ray.evaluate.intervals import wilson
from msm_ray.evaluate.sampling import Expected, Rule, expect

FIXED, CELLS, SPREAD = 300, 27, 1.0
# Rates of harm: base, MSM, AFT, AFT with reasoning, MSM + AFT, MSM + AFT with reasoning
ARMS = {
    "Qwen2.5-32B": (0.68, 0.53, 0.70, 0.48, 0.22, 0.05),
    "Qwen3-32B": (0.54, 0.32, 0.41, 0.14, 0.10, 0.07),
}
COVERAGE_RATES = (0.01, 0.02, 0.03, *np.round(np.arange(0.05, 0.96, 0.05), 2), 0.97, 0.98, 0.99)


def cells_around(mean: float) -> list[float]:
    """27 rates with this mean, at even quantiles of a normal distribution of their log-odds."""
    z = [NormalDist().inv_cdf((k + 0.5) / CELLS) for k in range(CELLS)]
    low, high = -12.0, 12.0
    for _ in range(60):
        middle = (low + high) / 2
        rates = [1 / (1 + math.exp(-middle - SPREAD * x)) for x in z]
        low, high = (middle, high) if float(np.mean(rates)) < mean else (low, middle)
    return [round(rate, 3) for rate in rates]


@cache
def expected(rate: float, rule: Rule) -> Expected:
    return expect(rate, rule)


def half_width(rate: float, n: int) -> float:
    low, high = wilson(rate * n, n)
    return (high - low) / 2


def needed(target: float) -> int:
    """The fixed number of rollouts that makes every cell at most this wide."""
    return next(n for n in range(1, 10_000) if half_width(0.5, n) <= target)


def against_fixed(target: float, fixed: int) -> dict:
    """Rollouts of all arms' cells under the rule, against ``fixed`` in each."""
    rule = Rule(target=target, cap=fixed)
    arms = []
    for model, means in ARMS.items():
        for mean in means:
            got = [expected(rate, rule) for rate in cells_around(mean)]
            mean_rollouts = float(np.mean([e.rollouts for e in got]))
            arms.append(
                {
                    "model": model,
                    "mean_rate": mean,
                    "rollouts_per_cell": round(mean_rollouts, 1),
                    "saved": round(1 - mean_rollouts / fixed, 3),
                    "half_width": round(float(np.mean([e.half_width for e in got])), 4),
                    "narrow_enough": round(float(np.mean([e.narrow for e in got])), 4),
                    "coverage": round(float(np.mean([e.coverage for e in got])), 4),
                }
            )
    total = float(np.mean([arm["rollouts_per_cell"] for arm in arms]))
    return {
        "half_width": round(target, 4),
        "fixed": fixed,
        "rollouts_per_cell": round(total, 1),
        "saved": round(1 - total / fixed, 3),
        "coverage": round(float(np.mean([arm["coverage"] for arm in arms])), 4),
        "arms": arms,
    }


def same_mean_width() -> dict:
    """The target at which cells are as wide as 300 rollouts make them on average, and its price."""
    rates = [rate for means in ARMS.values() for mean in means for rate in cells_around(mean)]
    fixed = float(np.mean([half_width(rate, FIXED) for rate in rates]))
    got = [expected(rate, Rule(target=fixed, cap=10 * FIXED)) for rate in rates]
    rollouts = float(np.mean([e.rollouts for e in got]))
    return {
        "half_width": round(fixed, 4),
        "rollouts_per_cell": round(rollouts, 1),
        "saved": round(1 - rollouts / FIXED, 3),
    }


def coverage(rule: Rule) -> dict:
    """Coverage after stopping by rate, and of the same number of rollouts without stopping."""
    found = {float(rate): expected(float(rate), rule) for rate in COVERAGE_RATES}
    fixed = Rule(target=rule.target, cap=rule.cap, minimum=rule.cap)
    inner = [e.coverage for rate, e in found.items() if 0.05 <= rate <= 0.95]
    return {
        "target": rule.target,
        "cap": rule.cap,
        "batch": rule.batch,
        "minimum": rule.minimum,
        "least": round(min(e.coverage for e in found.values()), 4),
        "most": round(max(e.coverage for e in found.values()), 4),
        "least_05_to_95": round(min(inner), 4),
        "most_05_to_95": round(max(inner), 4),
        "by_rate": {str(rate): round(e.coverage, 4) for rate, e in found.items()},
        "fixed_by_rate": {str(rate): round(expected(rate, fixed).coverage, 4) for rate in found},
    }


def main() -> None:
    """Everything, printed in short and written beside this file."""
    started = time.process_time()
    target = half_width(0.5, FIXED)
    record = {
        "cells_per_arm": CELLS,
        "spread_of_cells_in_log_odds": SPREAD,
        "same_promise": against_fixed(target, FIXED),
        "wider_promises": [against_fixed(wide, needed(wide)) for wide in (0.08, 0.10)],
        "same_mean_width": same_mean_width(),
        "coverage": [
            coverage(Rule(target=round(half, 4), cap=cap))
            for half, cap in ((target, FIXED), (0.05, 400), (0.08, FIXED), (0.10, FIXED))
        ],
    }
    record["cpu_seconds"] = round(time.process_time() - started)
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    for arm in record["same_promise"]["arms"]:
        print(arm)
    for name in ("same_promise", "same_mean_width"):
        print(name, {k: v for k, v in record[name].items() if k != "arms"})
    for wide in record["wider_promises"]:
        print({k: v for k, v in wide.items() if k != "arms"})
    for row in record["coverage"]:
        print({k: v for k, v in row.items() if not k.endswith("by_rate")})


if __name__ == "__main__":
    main()
