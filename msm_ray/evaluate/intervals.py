"""Wilson's interval for a proportion, and the quantiles that intervals need. Pure."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np


def wilson(successes: float, n: float, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion; its width is never zero.

    Source: Wilson, JASA 22 (1927), 209-212; recommended for small n by Brown, Cai & DasGupta,
    Statistical Science 16 (2001), 101-133.

    Raises:
        ValueError: not ``0 <= successes <= n`` with ``n > 0``.
    """
    if not 0 <= successes <= n or n <= 0:
        raise ValueError(f"{successes} of {n} is no proportion")
    return score_interval(successes / n, n, normal_quantile((1 + level) / 2))


def score_interval(p: float, n: float, critical: float) -> tuple[float, float]:
    """The proportions that ``p`` is at most ``critical`` of their own standard errors away from.

    ``n`` is the (effective) number of independent tries and need not be whole.
    """
    q2 = critical**2
    centre = (p + q2 / (2 * n)) / (1 + q2 / n)
    half = critical / (1 + q2 / n) * math.sqrt(p * (1 - p) / n + q2 / (4 * n * n))
    # Rounding must not put an end beyond p itself where p is 0 or 1.
    return max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p))


@lru_cache(maxsize=64)
def normal_quantile(probability: float) -> float:
    """The standard normal quantile."""
    return NormalDist().inv_cdf(probability)


@lru_cache(maxsize=4096)
def t_quantile(probability: float, df: float) -> float:
    """Student's t quantile, for a probability above 1/2 and any real ``df >= 1``, to four digits.

    With t = sqrt(df) tan(a), the density of the angle a is proportional to cos(a)^(df - 1), smooth
    and bounded, and is summed up on a grid.
    """
    if df > 1e5:
        return normal_quantile(probability)
    widest = min(math.pi / 2, 12 / math.sqrt(df))
    angles = np.linspace(0, widest, 4001)
    density = np.cos(angles) ** (df - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    angle = float(np.interp(2 * probability - 1, mass / mass[-1], angles))
    return math.sqrt(df) * math.tan(angle)
