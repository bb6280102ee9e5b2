"""Results of runs as one crossed table: runs as rows, items as columns. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
# One run's result: its rate; or one value per item, in an order; or one value per item id.
Cell = float | Sequence[float] | Mapping[str, float]
Cells = Mapping[str, Mapping[int, Cell]]  # base name -> seed -> result


@dataclass(frozen=True)
class Table:
    """Runs as rows, items as columns: values (0 where there is none) and shares in the run's mean.

    Runs that came as single rates have no columns. ``groups`` holds the rows of each base.
    """

    means_R: Array
    values_RI: Array
    share_RI: Array
    groups: list[npt.NDArray[np.int64]]

    @property
    def items(self) -> int:
        """How many different items there are."""
        return int(self.values_RI.shape[1])

    @property
    def n(self) -> int:
        """Item values, or runs where these came as single rates."""
        return int((self.share_RI > 0).sum()) if self.items else len(self.means_R)

    @property
    def value(self) -> float:
        """The mean over bases of the mean over their runs."""
        return float(np.mean([self.means_R[rows].mean() for rows in self.groups]))

    @property
    def influence_RI(self) -> Array:
        """How far each item moves its run's mean; each row sums to zero."""
        influence: Array = self.share_RI * (self.values_RI - self.means_R[:, None])
        return influence

    @property
    def right_or_wrong(self) -> bool:
        """Whether every value is 0 or 1, the same in all runs, and every item weighs the same."""
        first = self.values_RI[0]
        hard = bool(((first == 0) | (first == 1)).all() and (self.values_RI == first).all())
        return hard and bool(np.ptp(self.share_RI) == 0)


def table_of(cells: Cells, weights: Mapping[str, float] | None) -> Table:
    """Bases and seeds in sorted order, so that the order they are given in is no matter.

    Raises:
        ValueError: see :func:`msm_ray.evaluate.statistics.rate_ci`.
    """
    if not cells:
        raise ValueError("no base to average over")
    runs: list[tuple[str, Cell]] = []
    groups = []
    for base in sorted(cells):
        if not cells[base]:
            raise ValueError(f"base {base!r} has no seed")
        groups.append(np.arange(len(runs), len(runs) + len(cells[base])))
        runs += [(f"base {base!r}, seed {s}", cells[base][s]) for s in sorted(cells[base])]
    kinds = sorted({_kind(cell) for _, cell in runs})
    if len(kinds) > 1:
        raise ValueError(f"runs are given in different ways: {', '.join(kinds)}")
    if weights is not None and kinds != ["values by id"]:
        raise ValueError("weights are by item id, so the values must be too")
    found = [_values(where, cell) for where, cell in runs]
    if kinds == ["a rate"]:
        none = np.zeros((len(runs), 0))
        return Table(np.concatenate(found), none, none, groups)
    names = [list(cell) for _, cell in runs if isinstance(cell, Mapping)]
    column = {name: i for i, name in enumerate(sorted(set().union(*names)))}
    if weights is not None and (without := [n for n in column if not weights.get(n, 0) > 0]):
        raise ValueError(f"weights: item {without[0]!r} has none above zero")
    width = len(column) or max(len(values) for values in found)
    values_RI, share_RI = np.zeros((2, len(runs), width))
    for r, values in enumerate(found):
        at = [column[name] for name in names[r]] if names else slice(len(values))
        values_RI[r, at] = values
        share_RI[r, at] = 1.0 if weights is None else [weights[n] for n in names[r]]
    total_R = share_RI.sum(axis=1)
    means_R = (share_RI * values_RI).sum(axis=1) / total_R
    return Table(means_R, values_RI, share_RI / total_R[:, None], groups)


def _kind(cell: Cell) -> str:
    if isinstance(cell, Mapping):
        return "values by id"
    return "a list of values" if np.ndim(cell) else "a rate"


def _values(where: str, cell: Cell) -> Array:
    given = list(cell.values()) if isinstance(cell, Mapping) else cell
    values = np.atleast_1d(np.asarray(given, dtype=np.float64))
    if values.ndim > 1 or not len(values):
        raise ValueError(f"{where}: a rate or a flat list of values is needed")
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: a value is not finite")
    return values


def common(cells_a: Cells, cells_b: Cells) -> tuple[Cells, Cells, int]:
    """Both sides with what the other side has too, and how many values that leaves out.

    Raises:
        ValueError: see :func:`msm_ray.evaluate.statistics.paired_effect`.
    """
    kept_a: dict[str, dict[int, Cell]] = {}
    kept_b: dict[str, dict[int, Cell]] = {}
    used = 0
    for base in cells_a.keys() & cells_b.keys():
        for seed in cells_a[base].keys() & cells_b[base].keys():
            a, b = cells_a[base][seed], cells_b[base][seed]
            where = f"base {base!r}, seed {seed}"
            if isinstance(a, Mapping) and isinstance(b, Mapping):
                keys = a.keys() & b.keys()
                if not keys:
                    raise ValueError(f"{where}: A and B have no item in common")
                a, b = {key: a[key] for key in keys}, {key: b[key] for key in keys}
            elif _kind(a) != _kind(b) or _count(a) != _count(b):
                raise ValueError(f"{where}: A and B are not lists of the same items")
            used += _count(a)
            kept_a.setdefault(base, {})[seed] = a
            kept_b.setdefault(base, {})[seed] = b
    if not used:
        raise ValueError("A and B have no base and seed in common, so nothing is paired")
    total = sum(
        _count(run) for side in (cells_a, cells_b) for of in side.values() for run in of.values()
    )
    return kept_a, kept_b, total - 2 * used


def _count(cell: Cell) -> int:
    return len(cell) if isinstance(cell, Mapping) else int(np.size(cell))
