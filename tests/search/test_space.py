"""The space: mixes within their bounds, settings that a job takes, one clear line otherwise."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import kstest

from msm_ray.errors import UserError
from msm_ray.search.simplex import dirichlet
from msm_ray.search.space import Among, Mixture, Mixtures, Real, Space, Whole, grid, settings_texts
from msm_ray.settings import apply_settings

units = st.floats(0, 1)


class Order(enum.Enum):
    FIRST = "first"
    LAST = "last"


@dataclass(frozen=True)
class Midtrain:
    spec_share: float = 0.1
    chat_share: float = 0.1
    tokens: int = 1000
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.spec_share + self.chat_share > 1:
            raise UserError(f"spec_share {self.spec_share} is too much")


@dataclass(frozen=True)
class Aft:
    rate: float = 1e-4
    conversations: int = 64
    freeze: tuple[str, ...] = ()
    order: Order = Order.FIRST
    note: str = ""
    more: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rate > 0.5:
            raise UserError(f"rate is {self.rate}; allowed: at most 0.5")


@dataclass(frozen=True)
class Job:
    midtrain: Midtrain = Midtrain()
    aft: Aft = Aft()


PARTS = {"spec": "midtrain.spec_share", "chats": "midtrain.chat_share"}
MIX = Mixture(PARTS, rest="replay")


@st.composite
def bounded_mixtures(draw: st.DrawFn) -> Mixture:
    n = draw(st.integers(1, 5))
    parts = {f"s{i}": f"m.s{i}" for i in range(n)}
    sources = [*parts, "rest"]
    floors = {s: draw(st.floats(0, 1 / (n + 1))) for s in sources if draw(st.booleans())}
    ceilings = {s: draw(st.floats(floors.get(s, 0.0), 1)) for s in sources if draw(st.booleans())}
    alpha = {s: draw(st.floats(0.05, 5)) for s in sources if draw(st.booleans())}
    step = draw(st.sampled_from([0.0001, 0.001, 0.05, 0.25]))
    try:
        return Mixture(parts, "rest", floors, ceilings, alpha, step)
    except UserError as error:
        assume("add up" not in str(error) and "share_step" not in str(error))
        raise


@given(bounded_mixtures(), st.data())
def test_shares_keep_floors_and_ceilings_and_sum_to_one(mix: Mixture, data: st.DataObject) -> None:
    point = {c: data.draw(units) for c in mix.coordinates}
    for settings in (mix.settings(point), *mix.corners().values()):
        shares = mix.mix(settings)
        assert tuple(shares) == mix.sources
        assert math.isclose(sum(shares.values()), 1, abs_tol=1e-9)
        for source, share in shares.items():
            assert share >= mix.floors.get(source, 0) - 1e-8
            assert share <= mix.ceilings.get(source, 1) + 1e-8
            steps = share / mix.share_step
            assert abs(steps - round(steps)) < 1e-5


@given(units, units, units)
def test_two_shares_never_exceed_one_in_floating_point(a: float, b: float, c: float) -> None:
    settings = MIX.settings(dict(zip(MIX.coordinates, (a, b, c), strict=True)))
    assert settings["midtrain.spec_share"] + settings["midtrain.chat_share"] <= 1
    assert all(value == round(value, 4) for value in settings.values())


def test_without_bounds_the_simplex_is_filled_evenly() -> None:
    # A share of a uniform mix of three is Beta(1, 2); of Dirichlet(2, 1, 1) it is Beta(2, 2).
    u = np.random.default_rng(0).random((2000, 3))
    even = np.array([dirichlet(row, [1, 1, 1]) for row in u])
    assert kstest(even[:, 2], "beta", args=(1, 2)).pvalue > 0.01
    uneven = np.array([dirichlet(row, [2, 1, 1]) for row in u])
    assert kstest(uneven[:, 0], "beta", args=(2, 2)).pvalue > 0.01


def test_a_share_grows_with_its_coordinate() -> None:
    shares = [dirichlet([u, 0.5, 0.5], [1, 1, 1])[0] for u in (0, 0.1, 0.5, 0.9, 1)]
    assert shares == sorted(shares)
    assert shares[0] < 1e-6
    assert shares[-1] > 0.9


def test_excess_over_a_ceiling_goes_to_the_others_in_proportion() -> None:
    mix = Mixture(PARTS, "replay", ceilings={"spec": 0.2})
    corners = {name: mix.mix(s) for name, s in mix.corners().items()}
    assert corners["as much spec as allowed"] == {"spec": 0.2, "chats": 0.4, "replay": 0.4}
    assert corners["as much chats as allowed"] == {"spec": 0.0, "chats": 1.0, "replay": 0.0}


def test_a_coarse_step_makes_trials_share_mixes() -> None:
    mix = Mixture(PARTS, "replay", share_step=0.25)
    rng = np.random.default_rng(0)
    mixes = {
        tuple(mix.settings(dict(zip(mix.coordinates, rng.random(3), strict=True))).values())
        for _ in range(300)
    }
    assert len(mixes) <= 15


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), units)
def test_reals_stay_in_range(low: float, width: float, u: float) -> None:
    assume(low < low + width)
    value = Real("x", low, low + width).settings({"x": u})["x"]
    assert low <= value <= low + width
    assert abs(value - (low + u * width)) <= width * 1e-3


@given(st.floats(1e-8, 1), st.floats(1.01, 1e6), units)
def test_logarithmic_reals(low: float, ratio: float, u: float) -> None:
    value = Real("x", low, low * ratio, log=True).settings({"x": u})["x"]
    assert low <= value <= low * ratio
    assert math.isclose(value, low * ratio**u, rel_tol=1e-3)


@given(st.integers(1, 50), st.integers(1, 50), st.booleans())
def test_whole_numbers_are_all_reached(low: int, width: int, log: bool) -> None:
    whole = Whole("n", low, low + width, log=log)
    values = [whole.settings({"n": u})["n"] for u in np.linspace(0, 1, 4001)]
    assert sorted(set(values)) == list(range(low, low + width + 1))
    assert values == sorted(values)
    assert all(type(v) is int for v in values)


def test_whole_numbers_are_equally_likely() -> None:
    whole = Whole("n", 1, 4)
    values = [whole.settings({"n": (i + 0.5) / 400})["n"] for i in range(400)]
    assert [values.count(n) for n in (1, 2, 3, 4)] == [100] * 4


SPACE = Space(
    (
        MIX,
        Real("aft.rate", 1e-5, 1e-2, log=True),
        Whole("aft.conversations", 16, 256),
        Among("aft.order", (Order.LAST, Order.FIRST)),
        Among("aft.freeze", ((), ("embeddings",), ("a", "b"))),
        Among("aft.more", ({}, {"a": 1})),
        Among("midtrain.scale", (None, 0.1, 2)),
        Among("aft.note", ("plain", "a = b, (c)")),
    )
)


@given(st.data())
def test_a_job_takes_the_settings_exactly(data: st.DataObject) -> None:
    settings = SPACE.settings({c: data.draw(units) for c in SPACE.coordinates})
    assert tuple(settings) == SPACE.names
    job = apply_settings(Job(), settings_texts(settings))
    for name, value in settings.items():
        node: Any = job
        for part in name.split("."):
            node = getattr(node, part)
        assert node == value


def test_a_space_that_fits_is_accepted_and_described() -> None:
    SPACE.check(Job())
    assert SPACE.coordinates[:4] == ("mix.spec", "mix.chats", "mix.replay", "aft.rate")
    assert SPACE.described()[:2] == [
        {
            "kind": "mixture",
            "sources": ["spec", "chats", "replay"],
            "settings": PARTS,
            "floors": {},
            "ceilings": {},
        },
        {"kind": "real", "setting": "aft.rate", "low": 1e-5, "high": 1e-2, "log": True},
    ]
    assert SPACE.mix({"midtrain.spec_share": 0.2, "midtrain.chat_share": 0.3}) == {
        "spec": 0.2,
        "chats": 0.3,
        "replay": 0.5,
    }


def test_listed_mixes_are_a_choice() -> None:
    mixes = Mixtures(PARTS, "replay", values=((0.15, 0.05, 0.8), (0.5, 0.5, 0)))
    space = Space((mixes, Among("aft.rate", (1e-4, 1e-3))))
    space.check(Job())
    found = [space.settings(p) for p in grid(space)]
    assert [space.mix(s) for s in found[::2]] == [
        {"spec": 0.15, "chats": 0.05, "replay": 0.8},
        {"spec": 0.5, "chats": 0.5, "replay": 0.0},
    ]
    assert [s["aft.rate"] for s in found] == [1e-4, 1e-3] * 2


def mixture(**more: Any) -> Mixture:
    return Mixture(PARTS, "replay", **more)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mixture(floors={"spec": 0.7, "chats": 0.5}), "floors add up to 1.2"),
        (lambda: mixture(ceilings=dict.fromkeys(("spec", "chats", "replay"), 0.3)), "up to 0.9"),
        (lambda: mixture(floors={"spec": 0.5}, ceilings={"spec": 0.4}), "floor 0.5 above"),
        (lambda: mixture(floors={"spec": math.nan}), "floors of spec is nan; allowed: 0 to 1"),
        (lambda: mixture(floors={"speck": 0.1}), "name speck; allowed: spec, chats, replay"),
        (lambda: mixture(alpha={"spec": 0.0}), "alpha of spec is 0.0; allowed: above 0"),
        (lambda: mixture(share_step=0.3), "share_step is 0.3"),
        (lambda: mixture(share_step=0.5, floors={"spec": 0.1, "chats": 0.6}), "smaller"),
        (lambda: Mixture({}, "replay"), "parts are empty"),
        (lambda: Mixture({"spec": "a"}, "spec"), "rest 'spec' has a setting, a"),
        (lambda: Mixture({"spec": "a", "chats": "a"}, "rest"), "setting 'a' is given twice"),
        (lambda: Mixture({"a b": "a"}, "rest"), "source 'a b'"),
        (lambda: Mixtures(PARTS, "replay"), "no values"),
        (lambda: Mixtures(PARTS, "replay", ((0.5, 0.2, 0.2),)), "add up to 0.9; allowed: exactly"),
        (lambda: Mixtures(PARTS, "replay", ((0.5, 0.5),)), "are 2 shares; allowed: 3"),
        (lambda: Mixtures(PARTS, "replay", ((1.5, -0.5, 0),)), "shares from 0 to 1"),
        (lambda: Real("x", 1, 1), "low must be below high"),
        (lambda: Real("x", math.nan, 1), "allowed: finite numbers"),
        (lambda: Real("x", 0, 1, log=True), "low must be above 0"),
        (lambda: Real("a..b", 0, 1), "setting 'a..b'"),
        (lambda: Whole("x", 1, 2.5), "2.5 is not whole"),
        (lambda: Among("x", ()), "x has no values"),
        (lambda: Among("x", (1, 2, 1)), "value 1 is given twice"),
        (lambda: Among("x", (1.0, math.inf)), "finite numbers"),
        (lambda: Space(()), "nothing is varied"),
        (lambda: Space((Real("x", 0, 1), Among("x", (1,)))), "setting 'x' is given twice"),
        (lambda: Space((MIX, Mixture({"spec": "other"}, "more"))), "source 'spec' is given twice"),
        (lambda: grid(SPACE), "varies without steps"),
    ],
)
def test_wrong_spaces_are_one_clear_line(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dimension", "message"),
    [
        (Real("aft.rte", 0, 1), "no setting 'rte'; did you mean"),
        (Real("aft", 0, 1), "group of settings"),
        (Real("aft.conversations", 1, 5), "is int, a Real gives float; allowed there: Whole"),
        (Whole("aft.rate", 1, 5), "is float, a Whole gives int; allowed there: Real"),
        (Real("aft.note", 1, 5), "is str, a Real gives float; allowed there: Among"),
        (Mixture({"spec": "midtrain.tokens"}, "rest"), "is int, a Mixture gives float"),
        (Among("aft.conversations", (1, 2.5)), "aft.conversations=2.5: must be a whole"),
        (Among("aft.freeze", (("a,b",),)), "would be read as"),
        (Real("aft.rate", 0.1, 0.9), "at its high end: .*aft.rate: rate is 0.9"),
        (Among("aft.rate", (0.1, 0.9)), "at aft.rate=0.9: .*: rate is 0.9; allowed: at most 0.5"),
        (Real("midtrain.spec_share", 0.5, 1.0), "at its high end: .*spec_share 1.0 is too much"),
    ],
)
def test_what_a_job_cannot_take_is_refused(dimension: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Space((dimension,)).check(Job())
    assert "\n" not in str(caught.value)


def test_no_trials_pile_up_at_a_ceiling() -> None:
    mix = Mixture(
        {"spec": "a", "chats": "b"}, rest="replay", floors={"spec": 0.1}, ceilings={"chats": 0.4}
    )
    rng = np.random.default_rng(0)
    points = [dict(zip(mix.coordinates, u, strict=True)) for u in rng.random((2000, 3))]
    chats = [mix.settings(point)["b"] for point in points]
    assert np.mean(np.array(chats) > 0.399) < 0.05
    assert max(chats) > 0.39
    assert min(chats) < 0.01
