"""How often a "95 %" hierarchical bootstrap interval contains the truth, by number of bases.

Each simulated experiment draws bases, and seeds within bases, around a known mean; the question is
how often the interval of ``rate_ci`` contains that mean. Beside it the classical interval for a
mean of few values, Student's t over the bases' means. Writes coverage.json. Two minutes, one core.

    python benchmarks/evaluation/coverage.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from msm_ray.evaluate.statistics import rate_ci

EXPERIMENTS, RESAMPLES = 2000, 1000
T_975 = {2: 12.706, 3: 4.303, 5: 2.776, 10: 2.262, 20: 2.093}  # Student's t, bases - 1 degrees
Draw = Callable[[np.random.Generator, int, int], np.ndarray]


def normal(seed_sd: float) -> Draw:
    """Bases N(0, 1) around the truth 0, seeds N(0, seed_sd) around their base."""

    def draw(rng: np.random.Generator, bases: int, seeds: int) -> np.ndarray:
        return rng.normal(0, 1, (bases, 1)) + rng.normal(0, seed_sd, (bases, seeds))

    return draw


def separations(rng: np.random.Generator, bases: int, seeds: int) -> np.ndarray:
    """Bounded and skewed, as separations of choice rates are: Beta(4, 1.3), seeds N(0, .06)."""
    base = rng.beta(4, 1.3, (bases, 1)) - 4 / 5.3
    return base + rng.normal(0, 0.06, (bases, seeds))


def measure(name: str, draw: Draw, bases: int, seeds: int) -> dict[str, float | int | str]:
    """Coverage and median width of both intervals over ``EXPERIMENTS`` experiments."""
    rng = np.random.default_rng(bases * 100 + seeds)
    hits, hits_t, widths, widths_t = 0, 0, [], []
    for experiment in range(EXPERIMENTS):
        values = draw(rng, bases, seeds)
        cells = {f"b{b}": dict(enumerate(row)) for b, row in enumerate(values.tolist())}
        got = rate_ci(cells, resamples=RESAMPLES, seed=experiment)
        hits += got.low <= 0 <= got.high
        widths.append(got.high - got.low)
        means = values.mean(axis=1)
        half = T_975[bases] * means.std(ddof=1) / np.sqrt(bases)
        hits_t += abs(means.mean()) <= half
        widths_t.append(2 * half)
    return {
        "values": name,
        "bases": bases,
        "seeds": seeds,
        "coverage": hits / EXPERIMENTS,
        "width": round(float(np.median(widths)), 3),
        "coverage_t": int(hits_t) / EXPERIMENTS,
        "width_t": round(float(np.median(widths_t)), 3),
    }


def main() -> None:
    """All settings, printed and written beside this file."""
    sources: list[tuple[str, Draw]] = [
        ("normal, seeds sd 0.3", normal(0.3)),
        ("normal, seeds sd 1.0", normal(1.0)),
        ("separations (skewed)", separations),
    ]
    made = []
    for name, draw in sources:
        for bases, seeds in ((2, 2), (3, 1), (3, 2), (5, 2), (10, 2), (20, 2)):
            made.append(measure(name, draw, bases, seeds))
            print(made[-1], flush=True)
    record = {"experiments": EXPERIMENTS, "resamples": RESAMPLES, "nominal": 0.95, "results": made}
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
