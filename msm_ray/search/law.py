"""A mixture law: what many small runs say about the mix, and a method that searches by it. Pure.

A swarm of small runs over the space, surrogates of their value, the one whose error on trials that
it was not fitted to is smallest, and the mix where that predicts the best value. (RegMix, Liu et
al. 2024, arXiv 2407.01492; data mixing laws, Ye et al. 2024, arXiv 2403.16952.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from msm_ray.errors import UserError
from msm_ray.search.methods import Seen, Stratified, Suggestion, check_whole
from msm_ray.search.simplex import sobol
from msm_ray.search.space import Point, Space, with_settings
from msm_ray.search.surrogates import FITS, Array, Predict, features

FEWEST = 4  # trials below which there is nothing to validate on
FOLDS = 5


@dataclass(frozen=True)
class Optimum:
    """Where a law predicts the best value.

    ``interval``: of a run's value at ``point``, 95 %, from laws refitted to resampled trials, each
    of the kind that erred least on the trials its resample left out, with such an error added. It
    knows what trials say; beyond them (a vertex of the mixture that no trial came near) a law may
    be wrong by more, and the place was chosen for its high prediction: only runs with fresh seeds
    confirm it. ``spread``: how far the best points of the refitted laws lie from it on average, as
    the largest difference of a share or coordinate; ``ranges``: 95 % of them, by source and
    coordinate.
    """

    point: Point
    value: float
    interval: tuple[float, float]
    spread: float
    ranges: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Law:
    """A fitted surrogate, and what cross-validation said of each kind: ``r2``, ``rank``, ``rmse``.

    ``r2`` and ``rank`` (Spearman) are None where they are not defined.
    """

    kind: str
    cv: dict[str, dict[str, float | int | None]]
    X: Array = field(repr=False)
    y: Array = field(repr=False)
    seed: int
    fitted: Predict = field(repr=False, compare=False)

    def predict(self, X: Any) -> Array:
        """Values (m,) at features (m, d)."""
        return self.fitted(np.asarray(X, dtype=float))

    def _covered(self, space: Space, n: int, seed: int) -> tuple[list[Point], Array]:
        """Those of n points that trials speak for, and their features.

        Not further from the nearest trial than half of the trials are from theirs: a law that is
        fitted to the middle of a mixture is at its boldest, and wrong, in the corners beyond.
        """
        points, rows = _filled(_Named(repr(space), space), n, seed)
        among = np.abs(self.X[:, None] - self.X).max(axis=2)
        np.fill_diagonal(among, np.inf)
        away = np.min([np.abs(rows - row).max(axis=1) for row in self.X], axis=0)
        near = away <= np.median(among.min(axis=1))
        if not near.any():  # every trial stands where another one does
            return points, rows
        return [p for p, is_near in zip(points, near, strict=True) if is_near], rows[near]

    def best(self, space: Space, candidates: int, seed: int, resamples: int = 50) -> Optimum:
        """The predicted optimum of ``candidates`` points that fill the space, near trials only."""
        points, rows = self._covered(space, candidates, seed)
        found = self.predict(rows)
        top = int(np.argmax(found))
        rng = np.random.default_rng([seed, 1])
        values: list[float] = []
        tops: list[int] = []
        while len(values) < resamples:
            pick = rng.integers(len(self.y), size=len(self.y))
            left = np.setdiff1d(np.arange(len(self.y)), pick)
            if len(left) == 0 or len(self.y) - len(left) < FEWEST - 1:
                continue
            refitted = [FITS[kind](self.X[pick], self.y[pick], self.seed) for kind in self.cv]
            errors = [self.y[left] - predict(self.X[left]) for predict in refitted]
            least = min(range(len(errors)), key=lambda i: float(np.mean(errors[i] ** 2)))
            again = refitted[least](rows)
            values.append(float(again[top] + rng.choice(errors[least])))
            tops.append(int(np.argmax(again)))
        spread = float(np.abs(rows[tops] - rows[top]).max(axis=1).mean())
        low, high = (float(q) for q in np.quantile(values, [0.025, 0.975]))
        places = [_place(space, points[i]) for i in tops]
        ranges = {
            name: (float(a), float(b))
            for name in places[0]
            for a, b in [np.quantile([p[name] for p in places], [0.025, 0.975])]
        }
        return Optimum(points[top], float(found[top]), (low, high), spread, ranges)

    def proposals(
        self, space: Space, n: int, candidates: int, apart: float, seed: int
    ) -> list[Point]:
        """The best of ``candidates`` points, and the next best that differ from those before.

        By at least ``apart`` in a share or coordinate, as long as there are such; near trials only.
        """
        points, rows = self._covered(space, candidates, seed)
        order = [int(i) for i in np.argsort(-self.predict(rows), kind="stable")]
        chosen: list[int] = []
        for i in order:
            if len(chosen) < n and all(np.abs(rows[i] - rows[j]).max() >= apart for j in chosen):
                chosen.append(i)
        chosen += [i for i in order if i not in chosen]
        return [points[chosen[i % len(chosen)]] for i in range(n)]


def fit(X: Any, y: Any, kinds: Sequence[str] = tuple(FITS), seed: int = 0) -> Law:
    """The surrogate of ``kinds`` with the smallest cross-validated error, fitted to all trials.

    Args:
        X: (n, d), a row of features for each trial; y: (n,), larger is better.

    Raises UserError with fewer than four trials.
    """
    X, y = np.asarray(X, dtype=float), np.asarray(y, dtype=float)
    if len(y) < FEWEST:
        raise UserError(f"mixture law: {len(y)} trials have a value; allowed: {FEWEST} or more")
    folds = np.random.default_rng(seed).permutation(len(y)) % min(FOLDS, len(y))
    cv: dict[str, dict[str, float | int | None]] = {}
    errors: dict[str, float] = {}
    for kind in kinds:
        out = np.empty(len(y))
        for k in range(int(folds.max()) + 1):
            left_out = folds == k
            out[left_out] = FITS[kind](X[~left_out], y[~left_out], seed)(X[left_out])
        errors[kind] = float(np.mean((out - y) ** 2))
        about = float(np.var(y))
        cv[kind] = {
            "r2": 1 - errors[kind] / about if about > 0 else None,
            "rank": spearman(out, y),
            "rmse": float(np.sqrt(errors[kind])),
            "n": len(y),
        }
    chosen = min(kinds, key=lambda kind: errors[kind])
    return Law(chosen, cv, X, y, seed, FITS[chosen](X, y, seed))


def dense(space: Space, n: int, seed: int) -> list[Point]:
    """n points that fill the space evenly."""
    rows = sobol(np.random.default_rng([seed, 0]), n, len(space.coordinates))
    return [dict(zip(space.coordinates, map(float, row), strict=True)) for row in rows]


@dataclass(frozen=True)
class _Named:
    """A space, equal to another one that says the same: mappings in it have no hash."""

    text: str
    space: Space = field(compare=False)


@lru_cache(maxsize=4)
def _filled(named: _Named, n: int, seed: int) -> tuple[list[Point], Array]:
    """Points that fill a space and their features, the same for every proposal."""
    points = dense(named.space, n, seed)
    return points, np.array([features(named.space, p) for p in points])


def _place(space: Space, point: Point) -> dict[str, float]:
    """Shares by source and the other coordinates as they are."""
    mix = space.mix(space.settings(point))
    return mix | {c: u for c, u in point.items() if not c.startswith("mix.")}


# -------------------------------------------------------------------------------- rank correlation


def spearman(a: Any, b: Any) -> float | None:
    """Spearman's rank correlation; None where one side has no two different values."""
    from scipy.stats import rankdata

    x, y = rankdata(a), rankdata(b)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def rank_correlation(
    small: Sequence[float], large: Sequence[float], seed: int = 0, resamples: int = 2000
) -> dict[str, Any]:
    """Whether small runs order trials as large ones do: ``{"rank_correlation", "ci95", "n"}``.

    Pairs with a value that is no number are left out. The interval resamples pairs (percentiles);
    None where it is not defined, which it is for fewer than four pairs.
    """
    pairs = np.array([p for p in zip(small, large, strict=True) if np.all(np.isfinite(p))])
    n = len(pairs)
    if n < 2:
        return {"rank_correlation": None, "ci95": None, "n": n}
    whole = spearman(pairs[:, 0], pairs[:, 1])
    if whole is None:
        return {"rank_correlation": None, "ci95": None, "n": n}
    rng = np.random.default_rng(seed)
    again = [pairs[rng.integers(n, size=n)] for _ in range(resamples if n >= FEWEST else 0)]
    found = [r for p in again if (r := spearman(p[:, 0], p[:, 1])) is not None]
    ends = [float(q) for q in np.quantile(found, [0.025, 0.975])] if found else None
    return {"rank_correlation": whole, "ci95": ends, "n": n}


# ------------------------------------------------------------------------------------------ method


@lru_cache(maxsize=4)
def _fit(
    rows: tuple[tuple[float, ...], ...],
    values: tuple[float, ...],
    kinds: tuple[str, ...],
    seed: int,
) -> Law:
    """The same law for every proposal."""
    return fit(rows, values, kinds, seed)


@dataclass(frozen=True)
class MixtureLaw:
    """``swarm`` small runs, a law of them, and ``propose`` full runs where it predicts the best.

    ``proxy``: the settings of a small run's budget, such as ``{"midtrain.tokens": 20_000}``; the
    swarm's points are stratified and, in a mixture, Dirichlet with its ``alpha``. The proposals
    wait until the swarm has ended. They are the best of those of ``candidates`` points that the
    swarm's trials speak for, and the next best that differ from those before by at least ``apart``
    in a share or coordinate. Only the first objective counts, and only trials that were done.
    Without a ``proxy`` the swarm's runs are full ones as well, and their phase says so.

    ``check_points``: so many of the swarm's points are run in full as well, whatever they found:
    whether small runs order mixes as large ones do is then measured, and not assumed.
    """

    swarm: int
    proxy: Mapping[str, Any] = field(default_factory=dict)
    propose: int = 3
    candidates: int = 2048
    surrogates: tuple[str, ...] = tuple(FITS)
    apart: float = 0.1
    check_points: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "proxy", dict(self.proxy))
        object.__setattr__(self, "surrogates", tuple(self.surrogates))
        for name, least in (("swarm", FEWEST), ("propose", 1), ("candidates", 2)):
            check_whole("mixture law", name, getattr(self, name), least)
        if self.propose > self.candidates:
            raise UserError(
                f"mixture law: propose is {self.propose}; allowed: at most {self.candidates}, "
                "the number of candidates"
            )
        check_whole("mixture law", "check_points", self.check_points, 0)
        if self.check_points > self.swarm:
            raise UserError(
                f"mixture law: check_points is {self.check_points}; allowed: at most {self.swarm}, "
                "the swarm"
            )
        unknown = [s for s in self.surrogates if s not in FITS]
        if unknown or not self.surrogates:
            raise UserError(
                f"mixture law: surrogates are {self.surrogates}; allowed: {', '.join(FITS)}"
            )
        if not 0 <= self.apart < 1:
            raise UserError(f"mixture law: apart is {self.apart}; allowed: from 0, below 1")

    @property
    def name(self) -> str:
        return "mixture law"

    @property
    def trials(self) -> int:
        """The swarm, the points of it that are run in full, and the proposals."""
        return self.swarm + self.check_points + self.propose

    def count(self, space: Space) -> int:
        return self.trials

    def check(self, space: Space, job: Any) -> None:
        if both := [name for name in self.proxy if name in space.names]:
            raise UserError(f"mixture law: proxy sets {both[0]}, which the space varies")
        if self.proxy:
            space.check(with_settings(job, self.proxy))

    @property
    def grows(self) -> bool:
        """Swarm and proposals are what they are for their numbers."""
        return False

    def independent(self, number: int) -> bool:
        """The proposals are not."""
        return number < self.swarm + self.check_points

    def suggest(
        self, space: Space, number: int, seen: Sequence[Seen], seed: int
    ) -> Suggestion | None:
        swarm = Stratified(self.swarm)
        if number < self.swarm:
            point = swarm.suggest(space, number, seen, seed).point
            return Suggestion(point, "swarm" if self.proxy else "full", extra=self.proxy)
        if number < self.swarm + self.check_points:
            again = (number - self.swarm) * self.swarm // self.check_points
            return Suggestion(swarm.suggest(space, again, seen, seed).point, phase="check")
        law = self.law(space, seen, seed)
        if law is None:
            return None
        found = law.proposals(space, self.propose, self.candidates, self.apart, seed)
        return Suggestion(found[number - self.swarm - self.check_points], phase="full")

    def law(self, space: Space, seen: Sequence[Seen], seed: int) -> Law | None:
        """The law of the swarm; None before all of it has ended.

        Raises UserError when fewer than four of its trials have a value.
        """
        swarm = sorted((s for s in seen if s.number < self.swarm), key=lambda s: s.number)
        if len(swarm) < self.swarm or any(s.state == "running" for s in swarm):
            return None
        usable = [s for s in swarm if s.finite]
        rows = tuple(tuple(features(space, s.point)) for s in usable)
        return _fit(rows, tuple(s.values[0] for s in usable if s.values), self.surrogates, seed)

    def described(
        self,
        space: Space,
        seen: Sequence[Seen],
        seed: int,
        goal: Literal["max", "min"] = "max",
        surface: int = 200,
    ) -> dict[str, Any] | None:
        """The law as a report has it: cross-validation, the predicted best, a surface over mixes.

        Args:
            goal: of the first objective; its values are given as they were measured.
            surface: points of the surface, everything but the mix as it is at the predicted best.
        """
        law = self.law(space, seen, seed)
        if law is None:
            return None
        sign = 1.0 if goal == "max" else -1.0
        best = law.best(space, self.candidates, seed)
        settings = space.settings(best.point)
        points: list[Point] = []
        if space.mix(settings):
            rest = {c: u for c, u in best.point.items() if not c.startswith("mix.")}
            points = [p | rest for p in dense(space, surface, seed)]
        values = law.predict([features(space, p) for p in points]).tolist() if points else []
        return {
            "surrogate": law.kind,
            "cv": law.cv,
            "predicted": {
                "settings": settings,
                "mix": space.mix(settings),
                "value": sign * best.value,
                "ci95": sorted(sign * end for end in best.interval),
                "spread": best.spread,
                "ranges": {name: list(ends) for name, ends in best.ranges.items()},
            },
            "surface": [
                {"mix": space.mix(space.settings(p)), "value": sign * v}
                for p, v in zip(points, values, strict=True)
            ],
        }
