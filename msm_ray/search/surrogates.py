"""Surrogates of a trial's value over a space: fitted to few noisy trials, asked for many. Pure.

Shapes: ``X`` (n, d): a row of :func:`features` for each trial; ``y`` (n,): values, larger is
better. A fit returns a function from (m, d) to (m,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from msm_ray.search.dimensions import slice_of
from msm_ray.search.mixture import AnyMix
from msm_ray.search.space import Space

Array = NDArray[np.float64]
Predict = Callable[[Array], Array]

STARTS = 6
RIDGES = np.logspace(-6, 1, 15)  # relative to the number of trials
TREES = 100


def features(space: Space, point: Mapping[str, float]) -> list[float]:
    """What surrogates see of a point: shares of every source, coordinates, one-hot choices."""
    found: list[float] = []
    for d in space.dimensions:
        if isinstance(d, AnyMix):
            found += d.mix(d.settings(point)).values()
        elif d.choices:
            chosen = slice_of(point[d.setting], d.choices)
            found += [float(i == chosen) for i in range(d.choices)]
        else:
            found.append(point[d.setting])
    return found


def fit_log_linear(X: Array, y: Array, seed: int) -> Predict:
    """y = c + k exp(t . x): the law of data mixtures of Ye et al. 2024 (arXiv 2403.16952).

    It rises or falls along every straight line, so it has no optimum inside a mixture. Fitted by
    least squares from several starts of ``t``, with c and k solved for at each.
    """
    from scipy.optimize import least_squares

    rng = np.random.default_rng(seed)
    n, d = X.shape
    middle = X.mean(axis=0)  # keeps exp(...) near 1 and k its own size
    weak = 1e-3 * max(float(y.std()), 1e-9) * np.sqrt(n)  # shares add up to 1: t is not unique

    def curve(t: Array, at: Array) -> Array:
        return np.asarray(np.exp(np.clip((at - middle) @ t, -30, 30)))

    def solved(t: Array) -> Array:
        columns = np.column_stack([np.ones(n), curve(t, X)])
        return np.asarray(np.linalg.lstsq(columns, y, rcond=None)[0])

    def residuals(t: Array) -> Array:
        c, k = solved(t)
        return np.concatenate([c + k * curve(t, X) - y, weak * t])

    starts = rng.normal(size=(STARTS, d)) * np.logspace(-0.5, 1, STARTS)[:, None]
    fits = [least_squares(residuals, start, max_nfev=40) for start in starts]
    t = min(fits, key=lambda fit: fit.cost).x
    c, k = solved(t)
    # Far beyond the trials an exponential says anything: it may go on as far again as they reach.
    low, high = curve(t, X).min(), curve(t, X).max()
    reach = high - low
    return lambda at: np.asarray(c + k * np.clip(curve(t, at), low - reach, high + reach))


def fit_quadratic(X: Array, y: Array, seed: int) -> Predict:
    """Ridge on coordinates, their products and squares; its strength by generalised validation.

    Over shares these are Scheffé's quadratic mixture polynomials (J. R. Stat. Soc. B 20, 1958):
    a square of a share is the share less its products with the others. Golub, Heath & Wahba,
    Technometrics 21 (1979), for the strength.
    """
    pairs = list(combinations_with_replacement(range(X.shape[1]), 2))

    def expanded(at: Array) -> Array:
        products = [at[:, i] * at[:, j] for i, j in pairs]
        return np.column_stack([at, *products])

    Z = expanded(X)
    mean, scale = Z.mean(axis=0), Z.std(axis=0)
    scale[scale < 1e-12] = 1.0
    u, s, vt = np.linalg.svd((Z - mean) / scale, full_matrices=False)
    level, n = float(y.mean()), len(y)
    along = u.T @ (y - level)

    def validation(ridge: float) -> float:
        shrink = s**2 / (s**2 + ridge * n)
        left = (y - level) - u @ (shrink * along)
        freedom = n - 1 - float(shrink.sum())
        return float(left @ left) / max(freedom, 0.5) ** 2

    ridge = min(RIDGES, key=validation)
    weights = vt.T @ (s / (s**2 + ridge * n) * along)
    return lambda at: np.asarray(level + (expanded(at) - mean) / scale @ weights)


def fit_boosted(X: Array, y: Array, seed: int) -> Predict:
    """Gradient-boosted shallow trees (Friedman, Annals of Statistics 29, 2001), as in RegMix.

    Any shape, in steps: it says nothing beyond what the trials covered.
    """
    from sklearn.ensemble import GradientBoostingRegressor

    model = GradientBoostingRegressor(
        n_estimators=TREES, learning_rate=0.08, max_depth=2, subsample=0.8, random_state=seed
    )
    model.fit(X, y)
    return lambda at: np.asarray(model.predict(at))


FITS: dict[str, Callable[[Array, Array, int], Predict]] = {
    "log-linear": fit_log_linear,
    "quadratic": fit_quadratic,
    "boosted": fit_boosted,
}
