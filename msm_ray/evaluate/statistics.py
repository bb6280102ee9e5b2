"""Rates and effects over base models and seeds, with bootstrap intervals.

The data are nested: items within a run, runs (seeds) within a base model, base models within the
set of all base models that could have been trained. What varies most is the base (a world and an
initialisation), so items must not be treated as independent: the interval is a *hierarchical*
(cluster) bootstrap. One resample draws as many bases as there are, with replacement; within each
drawn base as many seeds as it has, with replacement; and, if asked, as many items within each drawn
seed. Its mean over drawn bases of the mean over drawn seeds is one value; the interval runs between
the 2.5 % and the 97.5 % quantile of 10,000 such values (percentile method).
Source: Davison & Hinkley, Bootstrap Methods and their Application (1997), section 3.8 (resampling
of hierarchical data, with replacement at every level) and section 5.3 (percentile limits).

Few bases: with b bases the resampled means vary less than a new set of b bases would, by about
sqrt((b - 1) / b), and the percentile interval uses no t quantile. Measured coverage of the nominal
95 % (``benchmarks/evaluation``): 0.55-0.69 with 2 bases, 0.74-0.83 with 3, 0.85-0.89 with 5,
0.90-0.93 with 10. An interval over three bases says what these bases say; look at every base's own
value beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
# One run's result: its rate; or one value per item, in an order; or one value per pair id.
Cell = float | Sequence[float] | Mapping[str, float]
Cells = Mapping[str, Mapping[int, Cell]]  # base name -> seed -> result

RESAMPLES = 10_000
_CHUNK = 2_000_000  # drawn numbers at a time when items are resampled (16 MB)


@dataclass(frozen=True)
class Interval:
    """A mean over bases with its percentile interval.

    ``n`` counts item values, or runs where a run came as a single rate.
    """

    value: float
    low: float
    high: float
    n: int
    bases: int


def rate_ci(
    cells: Cells,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
    items: bool = False,
) -> Interval:
    """The mean over bases of the mean over seeds, and its interval.

    Args:
        cells: base name -> seed -> rate, or values per item. Every base weighs the same, however
            many seeds it has; every seed of a base weighs the same, however many items it has.
        resamples: number of bootstrap resamples.
        seed: of the resampling; the same cells and seed give the same interval, whatever the order
            in which bases and seeds are given.
        level: nominal coverage.
        items: resample the items within each run too. It widens the interval by the noise of a
            finite test set; leave it out when the items are the whole population in question.

    Raises:
        ValueError: no base, a base without a seed, a run without items, or a value that is NaN.
    """
    runs = _runs(cells)
    draws = _draws(runs, resamples, seed, items)
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    value = float(np.mean([np.mean([run.mean() for run in base]) for base in runs]))
    count = sum(len(run) for base in runs for run in base)
    return Interval(value, float(low), float(high), count, len(runs))


def paired_effect(
    cells_a: Cells,
    cells_b: Cells,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
    items: bool = False,
) -> Interval:
    """The mean of A - B over bases and seeds, each run of A against the run of B it is paired with.

    Pairs stay together when bases, seeds and items are resampled, so what both runs of a pair share
    (base, data order, items) cancels. Arguments as for :func:`rate_ci`.

    Raises:
        ValueError: a base, seed or item that one side has and the other has not.
    """
    if _shape(cells_a) != _shape(cells_b):
        raise ValueError("A and B must have the same bases, seeds and items to be paired")
    paired = {
        base: {s: _difference(cells_a[base][s], cells_b[base][s]) for s in cells_a[base]}
        for base in cells_a
    }
    return rate_ci(paired, resamples=resamples, seed=seed, level=level, items=items)


def hierarchical_bootstrap(
    cells: Cells, *, resamples: int = RESAMPLES, seed: int = 0, items: bool = False
) -> Array:
    """The resampled means themselves, shape ``(resamples,)``; see :func:`rate_ci`."""
    return _draws(_runs(cells), resamples, seed, items)


# ------------------------------------------------------------------------------------- resampling


def _draws(runs: list[list[Array]], resamples: int, seed: int, items: bool) -> Array:
    rng = np.random.default_rng(seed)
    n_bases, n_seeds = len(runs), max(len(base) for base in runs)
    seeds_of = np.array([len(base) for base in runs])
    base_RB = rng.integers(0, n_bases, size=(resamples, n_bases))
    # Bases may have different numbers of seeds: draw a fraction, scale it by the base's own number.
    fraction_RBS = rng.random((resamples, n_bases, n_seeds))
    seed_RBS = np.minimum(
        fraction_RBS * seeds_of[base_RB][..., None], seeds_of[base_RB][..., None] - 1
    )
    seed_RBS = seed_RBS.astype(np.int64)
    counted_RBS = np.arange(n_seeds) < seeds_of[base_RB][..., None]
    if items:
        value_RBS = _item_means(runs, base_RB, seed_RBS, rng)
    else:
        means = np.zeros((n_bases, n_seeds))
        for b, base in enumerate(runs):
            means[b, : len(base)] = [run.mean() for run in base]
        value_RBS = means[base_RB[..., None], seed_RBS]
    per_base_RB = (value_RBS * counted_RBS).sum(axis=2) / seeds_of[base_RB]
    draws: Array = per_base_RB.mean(axis=1)
    return draws


def _item_means(
    runs: list[list[Array]],
    base_RB: npt.NDArray[np.int64],
    seed_RBS: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> Array:
    """For every drawn run the mean of as many items as it has, drawn with replacement."""
    value_RBS = np.zeros(seed_RBS.shape)
    for b, base in enumerate(runs):
        for s, run in enumerate(base):
            where = (base_RB[..., None] == b) & (seed_RBS == s)
            wanted = int(where.sum())
            means = np.empty(wanted)
            step = max(1, _CHUNK // len(run))
            for start in range(0, wanted, step):
                size = min(step, wanted - start)
                drawn = rng.integers(0, len(run), size=(size, len(run)))
                means[start : start + size] = run[drawn].mean(axis=1)
            value_RBS[where] = means
    return value_RBS


# ------------------------------------------------------------------------------------------ cells


def _runs(cells: Cells) -> list[list[Array]]:
    """Item values per run, bases and seeds in sorted order so that the given order is no matter."""
    if not cells:
        raise ValueError("no base to average over")
    runs = []
    for base in sorted(cells):
        if not cells[base]:
            raise ValueError(f"base {base!r} has no seed")
        runs.append([_values(base, seed, cells[base][seed]) for seed in sorted(cells[base])])
    return runs


def _values(base: str, seed: int, cell: Cell) -> Array:
    if isinstance(cell, Mapping):
        cell = [cell[key] for key in sorted(cell)]
    values = np.atleast_1d(np.asarray(cell, dtype=np.float64))
    if values.ndim != 1 or not len(values):
        raise ValueError(f"base {base!r}, seed {seed}: a rate or a flat list of values is needed")
    if not np.isfinite(values).all():
        raise ValueError(f"base {base!r}, seed {seed}: a value is not finite")
    return values


def _keys(cell: Cell) -> object:
    if isinstance(cell, Mapping):
        return sorted(cell)
    return np.shape(cell)


def _shape(cells: Cells) -> object:
    return {base: {seed: _keys(cell) for seed, cell in of.items()} for base, of in cells.items()}


def _difference(a: Cell, b: Cell) -> Cell:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return {key: a[key] - b[key] for key in a}
    difference: Sequence[float] = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)  # type: ignore[assignment]
    return difference
