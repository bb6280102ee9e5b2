"""Mixture laws: what each surrogate can say, errors on what was left out, and the method."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_ray.errors import UserError
from msm_ray.search.law import MixtureLaw, dense, fit, rank_correlation, spearman
from msm_ray.search.methods import Seen
from msm_ray.search.space import Among, Mixture, Real, Space
from msm_ray.search.surrogates import FITS, features

MIX = Mixture({"spec": "spec_share", "chats": "chat_share"}, rest="replay")
SPACE = Space((MIX, Real("rate", 1e-4, 1e-2, log=True)))


@dataclass(frozen=True)
class Job:
    spec_share: float = 0.1
    chat_share: float = 0.1
    rate: float = 1e-3
    tokens: int = 60_000

    def __post_init__(self) -> None:
        if self.tokens < 100:
            raise UserError(f"tokens is {self.tokens}; allowed: 100 or more")


def peak(row: Any) -> float:
    """Best at spec .6, chats .1, replay .3 and a middling rate: inside the simplex."""
    spec, chats, _, rate = row
    return float(1 - 2 * (spec - 0.6) ** 2 - 3 * (chats - 0.1) ** 2 - 0.3 * (rate - 0.5) ** 2)


def slope(row: Any) -> float:
    spec, chats, _, rate = row
    return float(2 - 1.5 * math.exp(-2 * spec + 0.5 * chats - 0.3 * rate))


def sampled(of: Any, n: int, noise: float, seed: int = 0) -> tuple[Any, Any]:
    X = np.array([features(SPACE, p) for p in dense(SPACE, n, seed)])
    y = np.array([of(row) for row in X])
    return X, y + np.random.default_rng(seed).normal(0, noise, len(y))


def test_features_are_shares_coordinates_and_choices() -> None:
    space = Space((*SPACE.dimensions, Among("kind", ("a", "b", "c"))))
    point = dict.fromkeys(space.coordinates, 0.5)
    assert features(space, point) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.5, 0, 1, 0], abs=1e-3)


@pytest.mark.parametrize(("kind", "of"), [("log-linear", slope), ("quadratic", peak)])
def test_a_surrogate_finds_its_own_shape(kind: str, of: Any) -> None:
    X, y = sampled(of, 40, 0.0)
    predict = FITS[kind](X, y, 0)
    new, truth = sampled(of, 200, 0.0, seed=9)
    assert np.abs(predict(new) - truth).max() < 0.02


def test_the_exponential_goes_no_further_beyond_the_trials_than_they_reach() -> None:
    """Twelve noisy trials on a line, and a question far outside of it."""
    rng = np.random.default_rng(0)
    X = np.column_stack([np.linspace(0.4, 0.5, 12), rng.random(12)])
    y = rng.normal(size=12)
    fitted = FITS["log-linear"](X, y, 0)
    inside = fitted(X)
    far = fitted(np.array([[5.0, 0.5], [-5.0, 0.5], [0.45, 9.0]]))
    reach = inside.max() - inside.min()
    assert far.min() >= inside.min() - reach - 1e-9
    assert far.max() <= inside.max() + reach + 1e-9


def test_boosted_trees_follow_a_step() -> None:
    X, y = sampled(lambda row: float(row[0] > 0.4), 80, 0.0)
    new, truth = sampled(lambda row: float(row[0] > 0.4), 200, 0.0, seed=9)
    assert np.mean((FITS["boosted"](X, y, 0)(new) > 0.5) == (truth > 0.5)) > 0.95


@pytest.mark.parametrize("kind", FITS)
def test_fits_are_the_same_again_and_finite(kind: str) -> None:
    X, y = sampled(peak, 8, 0.05)
    assert np.array_equal(FITS[kind](X, y, 3)(X), FITS[kind](X, y, 3)(X))
    constant = FITS[kind](X, np.full(8, 0.5), 3)(X)
    assert np.allclose(constant, 0.5, atol=1e-3)
    assert np.all(np.isfinite(FITS[kind](X[[0] * 8], y, 3)(X)))


def test_the_law_is_the_kind_that_predicts_what_it_has_not_seen() -> None:
    X, y = sampled(peak, 30, 0.02)
    law = fit(X, y, seed=1)
    assert law.kind == min(law.cv, key=lambda kind: law.cv[kind]["rmse"] or 0.0) == "quadratic"
    assert {name for facts in law.cv.values() for name in facts} == {"r2", "rank", "rmse", "n"}
    assert (law.cv["quadratic"]["r2"] or 0) > 0.8
    assert fit(X, y, ("boosted",)).kind == "boosted"


def test_cross_validation_says_when_there_is_nothing_to_find() -> None:
    X, _ = sampled(peak, 40, 0.0)
    law = fit(X, np.random.default_rng(0).normal(size=40))
    # In-sample, trees would explain nearly all of this noise.
    assert max(facts["r2"] or 0.0 for facts in law.cv.values()) < 0.3
    flat = fit(X, np.full(40, 0.25), ("quadratic",))
    assert flat.cv["quadratic"]["r2"] is None
    assert flat.cv["quadratic"]["rank"] is None


def test_best_is_near_the_peak_with_an_interval() -> None:
    X, y = sampled(peak, 40, 0.02)
    law = fit(X, y, ("quadratic",))
    best = law.best(SPACE, 512, seed=0)
    mix = SPACE.mix(SPACE.settings(best.point))
    assert abs(mix["spec"] - 0.6) < 0.15
    assert abs(mix["chats"] - 0.1) < 0.15
    assert best.interval[0] < best.value < best.interval[1]
    assert 0.02 < best.interval[1] - best.interval[0] < 0.3
    assert 0 < best.spread < 0.3
    assert set(best.ranges) == {"spec", "chats", "replay", "rate"}
    low, high = best.ranges["spec"]
    assert 0.3 < low <= high < 0.9
    assert law.best(SPACE, 512, seed=0) == best


def test_fewer_trials_make_the_place_less_certain() -> None:
    few = fit(*sampled(peak, 10, 0.05), ("quadratic",)).best(SPACE, 512, seed=0)
    many = fit(*sampled(peak, 80, 0.05), ("quadratic",)).best(SPACE, 512, seed=0)
    assert few.spread > many.spread


def ended(method: MixtureLaw, noise: float = 0.01) -> list[Seen]:
    rng = np.random.default_rng(5)
    seen = []
    for number in range(method.swarm):
        found = method.suggest(SPACE, number, seen, 0)
        assert found is not None
        assert (found.phase, dict(found.extra)) == ("swarm", {"tokens": 20_000})
        value = peak(features(SPACE, found.point)) + rng.normal(0, noise)
        seen.append(Seen(number, found.point, "done", (value, 1.0), phase="swarm"))
    return seen


LAW = MixtureLaw(20, {"tokens": 20_000}, propose=3, candidates=512, surrogates=("quadratic",))


def test_proposals_wait_for_the_swarm_and_are_good_and_apart() -> None:
    seen = ended(LAW)
    assert LAW.suggest(SPACE, 20, seen[:-1], 0) is None
    assert LAW.suggest(SPACE, 20, [*seen[:-1], replace(seen[-1], state="running")], 0) is None
    assert LAW.law(SPACE, seen[:-1], 0) is None
    proposals = []
    for number in range(20, LAW.count(SPACE)):
        found = LAW.suggest(SPACE, number, seen, 0)
        assert found is not None
        assert (found.phase, found.extra) == ("full", {})
        proposals.append(found.point)
        # What full runs found changes nothing: a restarted search proposes the same.
        later = [*seen, Seen(20, found.point, "done", (9.0, 9.0), phase="full")]
        assert LAW.suggest(SPACE, number, later, 0) == found
    rows = np.array([features(SPACE, p) for p in proposals])
    assert [peak(row) for row in rows] == pytest.approx([1.0] * 3, abs=0.1)
    for i in range(3):
        for j in range(i):
            assert np.abs(rows[i] - rows[j]).max() >= LAW.apart


def test_failed_and_stopped_trials_teach_nothing() -> None:
    seen = ended(LAW)
    seen[0] = replace(seen[0], state="failed", values=None)
    seen[1] = replace(seen[1], values=(math.nan, 1.0))
    seen[2] = replace(seen[2], state="stopped")
    law = LAW.law(SPACE, seen, 0)
    assert law is not None
    assert law.cv["quadratic"]["n"] == 17
    with pytest.raises(UserError, match="3 trials have a value; allowed: 4 or more"):
        LAW.law(SPACE, [replace(s, state="failed") for s in seen[:17]] + seen[17:], 0)


def test_proposals_where_nothing_is_far_apart() -> None:
    space = Space((Among("rate", (1e-4, 1e-3)),))
    method = MixtureLaw(4, propose=3, candidates=8, surrogates=("quadratic",))
    seen = [Seen(i, {"rate": i / 4}, "done", (float(i >= 2),), phase="swarm") for i in range(4)]
    found = [method.suggest(space, n, seen, 0) for n in (4, 5, 6)]
    swarm = method.suggest(space, 0, [], 0)
    assert swarm is not None
    assert swarm.phase == "full"  # without a proxy it is
    rates = [space.settings(f.point)["rate"] for f in found if f is not None]
    assert rates[:2] == [1e-3, 1e-4]
    assert len(rates) == 3


def test_points_that_are_run_in_full_are_the_swarms_own() -> None:
    method = MixtureLaw(swarm=8, proxy={"tokens": 10_000}, propose=2, check_points=4)
    assert method.count(SPACE) == 14
    swarm = [method.suggest(SPACE, n, (), 1) for n in range(8)]
    checks = [method.suggest(SPACE, n, (), 1) for n in range(8, 12)]
    assert [c.phase for c in checks if c] == ["check"] * 4
    assert [c.extra for c in checks if c] == [{}] * 4
    points = [s.point for s in swarm if s]
    assert [points.index(c.point) for c in checks if c] == [0, 2, 4, 6]
    assert method.independent(11)
    assert not method.independent(12)
    assert method.suggest(SPACE, 12, (), 1) is None
    with pytest.raises(UserError, match="check_points is 9; allowed: at most 8"):
        MixtureLaw(swarm=8, check_points=9)


def test_the_law_in_a_report() -> None:
    seen = ended(LAW)
    assert LAW.described(SPACE, seen[:3], 0) is None
    part = LAW.described(SPACE, seen, 0, surface=50)
    assert part is not None
    json.dumps(part, allow_nan=False)
    assert part["surrogate"] == "quadratic"
    assert set(part["predicted"]) >= {"settings", "mix", "value", "ci95"}
    assert part["predicted"]["value"] == pytest.approx(1.0, abs=0.1)
    assert len(part["surface"]) == 50
    assert all(math.isclose(sum(p["mix"].values()), 1) for p in part["surface"])
    top = max(part["surface"], key=lambda p: p["value"])
    assert abs(top["mix"]["spec"] - 0.6) < 0.2
    low = LAW.described(SPACE, seen, 0, goal="min", surface=5)
    assert low is not None
    assert low["predicted"]["value"] == -part["predicted"]["value"]
    assert low["predicted"]["ci95"] == [-end for end in reversed(part["predicted"]["ci95"])]


@given(st.lists(st.integers(-50, 50), min_size=4, max_size=12, unique=True), st.integers(0, 9))
@settings(max_examples=25)
def test_rank_correlation_of_what_is_ordered_alike(values: list[int], seed: int) -> None:
    alike = rank_correlation(values, [2 * v + 1 for v in values], seed, resamples=20)
    assert alike["rank_correlation"] == pytest.approx(1)
    assert alike["n"] == len(values)
    opposite = rank_correlation(values, [-v for v in values], seed, resamples=20)
    assert opposite["ci95"] == pytest.approx([-1, -1])


def test_rank_correlation_with_noise_and_without_enough() -> None:
    rng = np.random.default_rng(0)
    small = rng.normal(size=30)
    found = rank_correlation(small, small + rng.normal(size=30))
    low, high = found["ci95"]
    assert low < found["rank_correlation"] < high
    assert 0.2 < high - low < 0.8
    pairs = rank_correlation([1.0, math.nan, 3.0, 2.0], [1.0, 2.0, math.inf, 5.0])
    assert pairs == {"rank_correlation": pytest.approx(1.0), "ci95": None, "n": 2}
    assert rank_correlation([1.0], [1.0])["rank_correlation"] is None
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1, 2, 2, 4], [1, 3, 3, 2]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixtureLaw(3), "swarm is 3; allowed: a whole number from 4"),
        (lambda: MixtureLaw(9, propose=0), "propose is 0"),
        (lambda: MixtureLaw(9, propose=9, candidates=4), "at most 4"),
        (lambda: MixtureLaw(9, surrogates=("cubic",)), "allowed: log-linear, quadratic, boosted"),
        (lambda: MixtureLaw(9, surrogates=()), "surrogates are"),
        (lambda: MixtureLaw(9, apart=1.0), "apart is 1.0"),
        (lambda: MixtureLaw(9, {"rate": 1e-3}).check(SPACE, Job()), "proxy sets rate, which the"),
        (lambda: MixtureLaw(9, {"token": 9}).check(SPACE, Job()), "did you mean tokens"),
        (lambda: MixtureLaw(9, {"tokens": 9}).check(SPACE, Job()), "tokens is 9; allowed: 100"),
    ],
)
def test_wrong_input_is_one_clear_line(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_proxy_that_fits_is_accepted() -> None:
    MixtureLaw(9, {"tokens": 20_000}).check(SPACE, Job())
