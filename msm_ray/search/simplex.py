"""Shares of a mixture from unit coordinates: Dirichlet, floors, ceilings, a grid. Pure numbers.

Shapes: ``n`` sources, in one order everywhere; shares are not negative and add up to one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

Vector = NDArray[np.float64]

EDGE = 1e-12  # quantiles of 0 and 1 are no finite numbers
CLOSE = 1e-9


def dirichlet(unit: Sequence[float], alpha: Sequence[float]) -> Vector:
    """Shares (n,) from coordinates (n,) in [0, 1]; uniform ones give Dirichlet(``alpha``) shares.

    Independent gamma(alpha_i) quantiles, divided by their sum (Devroye, Non-Uniform Random Variate
    Generation, 1986, ch. XI.4). With every alpha 1 they are exponentials, -log(1 - u), and the
    shares uniform on the simplex. A share grows with its own coordinate.
    """
    u = np.clip(np.asarray(unit, dtype=float), EDGE, 1 - EDGE)
    a = np.asarray(alpha, dtype=float)
    quantiles = -np.log1p(-u) if bool(np.all(a == 1)) else np.asarray(gammaincinv(a, u))
    total = float(quantiles.sum())
    if not total > 0:  # every quantile of small alphas is below the smallest number there is
        return np.asarray(a / a.sum())
    return np.asarray(quantiles / total)


def bounded(shares: Vector, floors: Sequence[float], ceilings: Sequence[float]) -> Vector:
    """The image of ``shares`` (n,) among those that keep floors and ceilings.

    x' = floor + (1 - sum of floors) x. Where ceilings cut into that smaller simplex, each point is
    drawn towards a point inside of what is allowed, by the ratio of the two distances to the edge
    in its direction: edges go to edges, and no mass collects at a ceiling. Without ceilings the
    uniform distribution stays uniform on the smaller simplex; with them it is denser near them.
    """
    low, high = np.asarray(floors, dtype=float), np.asarray(ceilings, dtype=float)
    room = 1 - float(low.sum())
    x = low + room * shares
    if bool(np.all(high >= low + room - CLOSE)):
        return np.asarray(x)
    if bool(np.any(high - low < CLOSE)) or float(high.sum()) - 1 < CLOSE or room < CLOSE:
        return _spilled(x, high)  # nothing lies inside
    inside = low + (high - low) * (room / float((high - low).sum()))
    way = x - inside
    down, up = way < -EDGE, way > EDGE
    to_floor = np.min((inside - low)[down] / -way[down], initial=np.inf)
    to_ceiling = np.min((high - inside)[up] / way[up], initial=np.inf)
    if not np.isfinite(to_floor):
        return np.asarray(inside)
    drawn = inside + way * min(1.0, to_ceiling / to_floor)
    return np.asarray(np.clip(drawn, low, high))


def _spilled(x: Vector, high: Vector) -> Vector:
    """What lies above a ceiling goes to the other sources, in proportion to their shares.

    Where they have none, to the room below their ceilings; at most n rounds, for each puts one more
    source at its ceiling.
    """
    for _ in range(len(x)):
        excess = float(np.maximum(x - high, 0).sum())
        if excess <= 0:
            break
        x = np.minimum(x, high)
        free = x < high
        to = np.where(free, x, 0.0)
        if not to.sum() > 0:
            to = np.where(free, high - x, 0.0)
        if not to.sum() > 0:  # every source is at its ceiling: they add up to one
            break
        x = x + excess * to / to.sum()
    return np.asarray(x)


def rounded(
    shares: Vector, floors: Sequence[float], ceilings: Sequence[float], parts: int
) -> tuple[int, ...]:
    """``shares`` in whole parts of ``parts``, by largest remainder within floors and ceilings."""
    least, most = unit_bounds(floors, ceilings, parts)
    exact = [float(s) * parts for s in shares]
    units = [min(max(math.floor(e), a), b) for e, a, b in zip(exact, least, most, strict=True)]
    while (missing := parts - sum(units)) != 0:
        step = 1 if missing > 0 else -1
        ends = most if missing > 0 else least
        room = [i for i in range(len(units)) if units[i] != ends[i]]
        i = max(room, key=lambda i: (step * (exact[i] - units[i]), -i))
        units[i] += step
    return tuple(units)


def unit_bounds(
    floors: Sequence[float], ceilings: Sequence[float], parts: int
) -> tuple[list[int], list[int]]:
    """Fewest and most of ``parts`` that each source may have."""
    return (
        [math.ceil(f * parts - CLOSE * parts) for f in floors],
        [math.floor(c * parts + CLOSE * parts) for c in ceilings],
    )


def centre(floors: Sequence[float], ceilings: Sequence[float]) -> Vector:
    """The bounded image of equal shares."""
    n = len(floors)
    return bounded(np.full(n, 1 / n), floors, ceilings)


def vertex(i: int, floors: Sequence[float], ceilings: Sequence[float]) -> Vector:
    """As much of source ``i`` as may be."""
    low, high = np.asarray(floors, dtype=float), np.asarray(ceilings, dtype=float)
    return _spilled(low + (1 - float(low.sum())) * np.eye(len(low))[i], high)


def latin(rng: np.random.Generator, n: int, dimensions: int) -> Vector:
    """A Latin hypercube (n, dimensions): each of n equal slices of each coordinate is hit once.

    Source: McKay, Beckman & Conover, Technometrics 21 (1979), 239-245.
    """
    from scipy.stats import qmc  # slow to import

    return np.asarray(qmc.LatinHypercube(dimensions, rng=rng).random(n))


def sobol(rng: np.random.Generator, n: int, dimensions: int) -> Vector:
    """The first n points (n, dimensions) of a scrambled Sobol sequence; a larger n continues it.

    Source: Owen, SIAM Journal on Numerical Analysis 34 (1997), 1884-1910.
    """
    from scipy.stats import qmc

    whole = math.ceil(math.log2(max(n, 2)))  # sequences are balanced at powers of two
    return np.asarray(qmc.Sobol(dimensions, rng=rng).random_base2(whole)[:n])
