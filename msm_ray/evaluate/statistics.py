"""Rates and paired effects over items, seeds and base models, with intervals that cover. Pure.

The design is crossed: every seed of a base model answers the same items. An interval therefore has
several sources of noise to hold, and says in :attr:`Interval.over` which ones it holds:

``items``
    other items of the same kind. The cluster is the item: its values from several orders, samples,
    seeds and bases are one draw. Needs values per item, and two items. Items that differ between
    bases need different ids.
``seeds``
    another training run of the same recipe on these base models. Needs two seeds of some base.
``bases``
    other base models like these. On request only, and it needs two bases. Two or three bases say
    little about the next one, and the interval is as wide as that is true. Without it the bases
    are these bases.

A source that was asked for and cannot be estimated is left out of ``over``, never guessed: with one
seed an interval is about these very weights, and whoever prints it has to say so.

The variance of the mean is that of a two-way random design, runs (or bases) by items: what the
items' means over runs make of it, and what the runs' means add::

    V = V_items + R,   R = max(0, V_runs - m V_noise)

``V_noise`` is the part of ``V_runs`` that items alone would make, and ``m`` the median of
chi-squared over its degrees of freedom: if runs do not differ, half of all experiments say so.
Items that some run lacks go through the same formula by their influence on the mean. The two parts
are known from different numbers of draws, so each has its own Student's t, and the squares are
added: half-width^2 = t_items^2 V_items + t_runs^2 R. (With the usual common degrees of freedom,
Satterthwaite's, two seeds that differ about as much as items make them cover 82-90 %.) With two
seeds of one base t_runs is 12.7: wide, as two runs say little about a third.
Sources: Searle, Casella & McCulloch, Variance Components (1992), chapter 4 (two-way crossed random
model); Cameron, Gelbach & Miller, Robust inference with multiway clustering, JBES 29 (2011),
238-249; Zou & Donner, Statistics in Medicine 27 (2008), 1693-1702 (adding squares of half-widths);
Miller, Adding error bars to evals, arXiv:2411.00640 (items as clusters, paired differences).

A rate's interval is Wilson's with the effective number of independent items, p (1 - p) / V + 1 (as
for surveys: Korn & Graubard, Survey Methodology 24 (1998), 193-201). It stays in [0, 1] and is
never of zero width; for one run of right-or-wrong items it is Wilson's own. A difference of rates
gets Agresti and Min's two pseudo-items (Statistics in Medicine 24 (2005), 729-740), for the same
reason.

How often the nominal 95 % cover (``benchmarks/evaluation/coverage.json``, 40 to 500 items): 95-96 %
over items; 95-98 % over items and seeds, 92-93 % where seeds differ by more than items make them
and a single base has two; 93-98 % over bases too. Always the lower where runs differ, the higher
where they do not: no interval with so few runs does both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from msm_ray.evaluate.crossed import Array, Cells, Table, common, table_of
from msm_ray.evaluate.intervals import score_interval, t_quantile, wilson

Over = Literal["items", "seeds", "bases"]
Scale = Literal["auto", "rate", "real"]
OVER: tuple[Over, ...] = ("items", "seeds", "bases")


@dataclass(frozen=True)
class Interval:
    """A mean over bases, seeds and items with its interval.

    Attributes:
        value: the mean over bases of the mean over seeds of the mean over items.
        low: lower end of the interval.
        high: upper end of the interval.
        n: item values, or runs where a run came as a single rate.
        items: different items; 0 where runs came as single rates.
        seeds: runs, over all bases.
        bases: base models.
        over: what the interval generalises to, of what was asked for. Empty: nothing can be
            estimated, and ``low == value == high``.
        se: standard error; 0 where nothing varies.
        df: degrees of freedom of what is known least (seeds or bases, or items); ``inf`` where the
            critical value is the normal one.
        method: ``wilson`` (one run of right-or-wrong items, or nothing varies), ``clustered``, or
            ``none``.
        n_unpaired: of a paired effect, values of either side that the other side lacks.
    """

    value: float
    low: float
    high: float
    n: int
    items: int
    seeds: int
    bases: int
    over: tuple[Over, ...]
    se: float
    df: float
    method: Literal["wilson", "clustered", "none"]
    n_unpaired: int = 0

    @property
    def verdict(self) -> Literal["difference", "none shown"]:
        """Of an effect: ``difference`` only where there is an interval and it excludes zero."""
        shown = bool(self.over) and (self.low > 0 or self.high < 0)
        return "difference" if shown else "none shown"


def rate_ci(
    cells: Cells,
    *,
    over: Sequence[Over] = ("items", "seeds"),
    level: float = 0.95,
    scale: Scale = "auto",
    weights: Mapping[str, float] | None = None,
) -> Interval:
    """The mean over bases of the mean over seeds, and its interval.

    Args:
        cells: base name -> seed -> values per item (id -> value; an item asked in several orders is
            one item with their mean, see :func:`by_item`), or a flat list of values in one order of
            items for all runs, or a single rate. Every base weighs the same, however many seeds it
            has; every seed of a base weighs the same, however many items it has. Seeds that share
            a checkpoint are equal and add nothing.
        over: what to generalise to; see the module. ``bases`` includes ``seeds``.
        level: nominal coverage.
        scale: ``rate`` for values in [0, 1], whose interval stays there; ``real`` for any other
            number (a loss, a grade); ``auto``: rates if all values lie in [0, 1].
        weights: what items weigh in a run's mean, by id (tokens of a text, say). Default: the same.

    Raises:
        ValueError: no base, a base without a seed, a run without items, a value that is not finite
            or outside its scale, runs given in different ways, or an unknown name in ``over``.
    """
    table = table_of(cells, weights)
    rate = _is_rate(table, scale)
    noise = _noise(table, over)
    p = table.value
    if not noise.over:
        return _interval(table, noise, p, p, "none")
    if not rate:
        half = noise.half_width(level)
        return _interval(table, noise, p - half, p + half, "clustered")
    if table.items and (noise.variance == 0 or table.right_or_wrong):
        low, high = wilson(p * table.items, table.items, level=level)
        return _interval(table, noise, low, high, "wilson")
    if noise.variance == 0:  # single rates that are equal
        return _interval(table, noise, p, p, "clustered")
    effective = p * (1 - p) / noise.variance + 1
    critical = noise.half_width(level) / math.sqrt(noise.variance)
    return _interval(table, noise, *score_interval(p, effective, critical), "clustered")


def paired_effect(
    cells_a: Cells,
    cells_b: Cells,
    *,
    over: Sequence[Over] = ("items", "seeds"),
    level: float = 0.95,
    scale: Scale = "auto",
    weights: Mapping[str, float] | None = None,
) -> Interval:
    """The mean of A - B over bases and seeds, each run of A against the run of B it is paired with.

    What both runs of a pair share (base, data order, items) cancels. Only runs that both sides
    have are used, and in them only items that both have; the values that are left out are counted
    in ``n_unpaired``. Arguments as for :func:`rate_ci`; ``scale`` is that of the sides.

    Raises:
        ValueError: no run in common or a pair of runs without a common item, lists of different
            lengths, and what :func:`rate_ci` refuses.
    """
    common_a, common_b, unpaired = common(cells_a, cells_b)
    a, b = table_of(common_a, weights), table_of(common_b, weights)
    rate = _is_rate(a, scale) and _is_rate(b, scale)
    table = Table(a.means_R - b.means_R, a.values_RI - b.values_RI, a.share_RI, a.groups)
    noise = _noise(table, over, pseudo=rate)
    half = noise.half_width(level)
    centre = table.value * noise.shrink
    low, high = min(centre - half, table.value), max(centre + half, table.value)
    if rate:
        low, high = max(low, -1.0), min(high, 1.0)
    method: Literal["clustered", "none"] = "clustered" if noise.over else "none"
    return _interval(table, noise, low, high, method, unpaired)


def by_item(
    ids: Sequence[str], values: Sequence[float], weights: Sequence[float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Rows of several orders or samples as items: their values, and what they weigh.

    An item's value is the mean of its rows by weight; it weighs what its rows do together, in units
    of the mean item. So the mean over items by weight is that over rows, however many rows each
    item has.
    """
    sums: dict[str, tuple[float, float]] = {}
    for name, value, weight in zip(ids, values, weights, strict=True):
        total, weighed = sums.get(name, (0.0, 0.0))
        sums[name] = total + value * weight, weighed + weight
    mean = math.fsum(weighed for _, weighed in sums.values()) / len(sums) if sums else 1.0
    return (
        {name: total / weighed for name, (total, weighed) in sums.items()},
        {name: weighed / mean for name, (_, weighed) in sums.items()},
    )


# ------------------------------------------------------------------------------------------ noise


@dataclass(frozen=True)
class _Noise:
    """Variance of the mean: what items make of it, and what runs (or bases) add.

    ``shrink``: what pseudo-items make of the mean.
    """

    over: tuple[Over, ...]
    items: float = 0.0
    items_df: float = math.inf
    runs: float = 0.0
    runs_df: float = math.inf
    shrink: float = 1.0

    @property
    def variance(self) -> float:
        return self.items + self.runs

    def half_width(self, level: float) -> float:
        probability = (1 + level) / 2
        of_items = t_quantile(probability, self.items_df) ** 2 * self.items
        return math.sqrt(of_items + t_quantile(probability, self.runs_df) ** 2 * self.runs)


def _noise(table: Table, over: Sequence[Over], *, pseudo: bool = False) -> _Noise:
    """The noise of the mean from those sources in ``over`` that can be estimated."""
    unknown = set(over) - set(OVER)
    if unknown or not over:
        named = ", ".join(sorted(unknown)) or "nothing"
        raise ValueError(f"over: {named}; allowed: {', '.join(OVER)}")
    items = _Noise(())
    if "items" in over and table.items > 1:
        items = _item_noise(table, pseudo)
    means, influence, groups = table.means_R, table.influence_RI, table.groups
    if "bases" in over and len(groups) > 1:
        names: tuple[Over, ...] = ("seeds", "bases")
        means = np.array([means[rows].mean() for rows in groups])
        influence = np.array([influence[rows].mean(axis=0) for rows in groups])
        groups = [np.arange(len(groups))]
    elif {"seeds", "bases"} & set(over) and len(means) > len(groups):
        names = ("seeds",)
    else:
        return items
    df = sum(len(rows) - 1 for rows in groups)
    between = sum(_squares(means[rows, None]) for rows in groups) / df
    if items.over:  # what the items make of it is counted with the items
        made = sum(_squares(influence[rows]) for rows in groups) / df
        median = (1 - 2 / (9 * df)) ** 3  # of chi-squared / df (Wilson & Hilferty, PNAS 17 (1931))
        between -= median * made * table.items / (table.items - 1)
    # One unit's variance, pooled over groups, by what units weigh in the mean.
    weight = sum(1 / len(rows) for rows in groups) / len(groups) ** 2
    return replace(items, over=items.over + names, runs=max(0.0, between) * weight, runs_df=df)


def _item_noise(table: Table, pseudo: bool) -> _Noise:
    """What items add to the variance of the mean, over all runs together."""
    n = table.items
    influence_BI = np.array([table.influence_RI[rows].mean(axis=0) for rows in table.groups])
    influence_I = influence_BI.mean(axis=0)
    squares = float(influence_I @ influence_I)
    if not pseudo:
        return _Noise(("items",), squares * n / (n - 1), n - 1)
    # Half an item at the largest difference seen, half a one at its opposite, and one at zero.
    mean = table.value
    largest = float(np.abs(n * influence_I + mean).max()) or 1.0
    shrink = n / (n + 2)
    squares = n**2 * squares + n * (mean - shrink * mean) ** 2
    squares += largest**2 + 2 * (shrink * mean) ** 2
    return _Noise(("items",), squares / (n + 2) ** 2, n - 1, shrink=shrink)


def _squares(x_RI: Array) -> float:
    """Squared deviations from the mean over rows, summed."""
    centred = x_RI - x_RI.mean(axis=0)
    return float((centred * centred).sum())


def _interval(
    table: Table,
    noise: _Noise,
    low: float,
    high: float,
    method: Literal["wilson", "clustered", "none"],
    unpaired: int = 0,
) -> Interval:
    return Interval(
        value=table.value,
        low=low,
        high=high,
        n=table.n,
        items=table.items,
        seeds=len(table.means_R),
        bases=len(table.groups),
        over=noise.over,
        se=math.sqrt(noise.variance),
        df=math.inf if method == "wilson" else min(noise.runs_df, noise.items_df),
        method=method,
        n_unpaired=unpaired,
    )


def _is_rate(table: Table, scale: Scale) -> bool:
    values = table.values_RI if table.items else table.means_R
    inside = bool(((values >= 0) & (values <= 1)).all())
    if scale == "rate" and not inside:
        raise ValueError("a value of a rate lies outside [0, 1]")
    return inside and scale != "real"
