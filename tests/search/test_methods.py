"""Methods that look at no result: spread, shared early stages, the same again after a restart."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from msm_ray.errors import UserError
from msm_ray.search.methods import Grid, Method, Random, Seen, Stratified, early_coordinates
from msm_ray.search.space import Among, Mixture, Mixtures, Real, Space

SPACE = Space(
    (
        Mixture({"spec": "midtrain.spec_share", "chats": "midtrain.chat_share"}, rest="replay"),
        Real("aft.train.learning_rate", 1e-5, 1e-3, log=True),
        Real("aft.train.warmup_fraction", 0.0, 0.5),
    )
)
EARLY = ("mix.spec", "mix.chats", "mix.replay")


def points(method: Method, space: Space = SPACE, seed: int = 0) -> list[dict[str, float]]:
    found = []
    for number in range(method.count(space)):
        suggestion = method.suggest(space, number, [], seed)
        assert suggestion is not None
        found.append(suggestion.point)
    return found


@pytest.mark.parametrize(
    "method", [Random(400), Stratified(400), Stratified(400, design="sobol")], ids=str
)
def test_every_coordinate_is_uniform(method: Method) -> None:
    for name in SPACE.coordinates:
        assert kstest([p[name] for p in points(method)], "uniform").pvalue > 0.01


def test_grouped_trials_are_uniform_too() -> None:
    for name in SPACE.coordinates:
        column = {p[name] for p in points(Stratified(800, per_early=4))}
        assert kstest(sorted(column), "uniform").pvalue > 0.01


@given(n=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_each_slice_is_hit_once(n: int, seed: int) -> None:
    for name in SPACE.coordinates:
        column = [p[name] for p in points(Stratified(n), seed=seed)]
        assert sorted(math.floor(u * n) for u in column) == list(range(n))


@given(groups=st.integers(1, 8), k=st.integers(2, 6), seed=st.integers(0, 1000))
def test_groups_share_early_stages_and_spread_late_ones(groups: int, k: int, seed: int) -> None:
    found = points(Stratified(groups * k, per_early=k), seed=seed)
    of_group = [found[i * k : (i + 1) * k] for i in range(groups)]
    for name in EARLY:
        assert all(len({p[name] for p in group}) == 1 for group in of_group)
        firsts = [group[0][name] for group in of_group]
        assert sorted(math.floor(u * groups) for u in firsts) == list(range(groups))
    for name in ("aft.train.learning_rate", "aft.train.warmup_fraction"):
        for group in of_group:
            assert sorted(math.floor(p[name] * k) for p in group) == list(range(k))


@given(number=st.integers(0, 23), seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_suggestions_depend_on_seed_and_number_only(number: int, seed: int) -> None:
    seen = [Seen(0, dict.fromkeys(SPACE.coordinates, 0.5), "done", (1.0,))]
    for method in (Random(24), Stratified(24, per_early=3), Stratified(24, design="sobol")):
        assert method.suggest(SPACE, number, seen, seed) == method.suggest(SPACE, number, [], seed)
        assert method.suggest(SPACE, number, [], seed + 1) != method.suggest(
            SPACE, number, [], seed
        )


def test_sobol_can_be_continued() -> None:
    first = points(Stratified(5, per_early=2, design="sobol"))
    assert points(Stratified(50, per_early=2, design="sobol"))[:5] == first


def test_a_late_last_group_is_cut() -> None:
    found = points(Stratified(7, per_early=3))
    assert len(found) == 7
    assert len({p["mix.spec"] for p in found}) == 3


def test_grid_is_every_combination_once() -> None:
    space = Space((Among("a", (1, 2, 3)), Among("b", ("x", "y"))))
    found = [space.settings(p) for p in points(Grid(), space)]
    assert found == [{"a": a, "b": b} for a in (1, 2, 3) for b in ("x", "y")]


def test_which_coordinates_are_early() -> None:
    assert early_coordinates(SPACE) == EARLY
    assert early_coordinates(SPACE, ("aft.train.learning_rate",)) == ("aft.train.learning_rate",)
    mixes = Mixtures({"spec": "midtrain.spec_share"}, rest="replay", values=((0.2, 0.8),))
    assert early_coordinates(Space((mixes, Real("aft.x", 0, 1)))) == ("mix.spec+replay",)
    Stratified(4, per_early=2).check(SPACE, None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Random(0), "trials is 0; allowed: a whole number from 1"),
        (lambda: Random(2.5), "trials is 2.5"),
        (lambda: Stratified(4, per_early=0), "per_early is 0"),
        (lambda: Stratified(4, design="grid"), "allowed: 'latin', 'sobol'"),
        (lambda: Stratified(4, early=("aft.lr",)).check(SPACE, None), "early is 'aft.lr'"),
        (
            lambda: Stratified(4, per_early=2).check(Space((Real("x", 0, 1),)), None),
            "would be the same",
        ),
        (lambda: Grid().check(SPACE, None), "a grid takes lists only"),
    ],
)
def test_wrong_input_is_one_clear_line(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
