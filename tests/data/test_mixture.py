from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.data.mixture import Component, draw
from msm_ray.errors import UserError

LENGTHS = st.lists(st.integers(3, 60), min_size=1, max_size=40)


def as_lengths(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@given(
    lengths=st.lists(LENGTHS, min_size=1, max_size=4),
    shares=st.lists(st.floats(0.01, 5), min_size=4, max_size=4),
    tokens=st.integers(1, 4000),
    max_repeats=st.floats(0.3, 6),
    seed=st.integers(0, 3),
)
def test_shares_caps_and_passes(
    lengths: list[list[int]], shares: list[float], tokens: int, max_repeats: float, seed: int
) -> None:
    parts = [Component(str(i), shares[i], max_repeats) for i in range(len(lengths))]
    have = {str(i): as_lengths(values) for i, values in enumerate(lengths)}
    total_share = sum(p.share for p in parts)
    budgets = [tokens * p.share / total_share for p in parts]
    caps = [max_repeats * sum(values) for values in lengths]
    if any(budget > cap for budget, cap in zip(budgets, caps, strict=True)):
        with pytest.raises(UserError, match="max_repeats"):
            draw(parts, have, tokens, seed)
        return
    drawn = draw(parts, have, tokens, seed)
    assert drawn.tokens == sum(
        lengths[c][d] for c, d in zip(drawn.component, drawn.document, strict=True)
    )
    for i, (realised, budget) in enumerate(zip(drawn.realised, budgets, strict=True)):
        assert abs(realised.tokens - budget) <= max(lengths[i])
        assert realised.tokens <= caps[i]
        seen = Counter(drawn.document[drawn.component == i].tolist())
        counts = [seen[d] for d in range(len(lengths[i]))]
        assert max(counts) - min(counts) <= 1  # a pass is finished before the next begins
        assert realised.documents == sum(counts)
    assert sum(r.share for r in drawn.realised) == pytest.approx(1 if drawn.tokens else 0)


@given(lengths=LENGTHS, seed=st.integers(0, 5))
def test_one_pass_takes_every_document_once(lengths: list[int], seed: int) -> None:
    drawn = draw([Component("a", 1, 1)], {"a": as_lengths(lengths)}, 0, seed)
    assert sorted(drawn.document.tolist()) == list(range(len(lengths)))
    assert drawn.realised[0].repeats == pytest.approx(1)


def test_the_same_seed_gives_the_same_order_and_another_another() -> None:
    parts = [Component("a", 0.25, 1), Component("b", 0.75, 1)]
    have = {"a": as_lengths([5] * 100), "b": as_lengths([7] * 100)}
    orders = [draw(parts, have, 600, seed) for seed in (0, 0, 1)]
    as_lists = [(d.component.tolist(), d.document.tolist()) for d in orders]
    assert as_lists[0] == as_lists[1] != as_lists[2]
    # mixed, not one component after the other
    assert len(set(as_lists[0][0][:20])) == 2


def test_a_longer_budget_extends_what_a_shorter_one_draws() -> None:
    have = {"a": as_lengths(list(range(5, 45)))}
    short = draw([Component("a", 1, 1)], have, 200, 0)
    longer = draw([Component("a", 1, 1)], have, 400, 0)
    # all but the last document, which is chosen to meet the budget
    assert len(set(short.document.tolist()) - set(longer.document.tolist())) <= 1


@given(
    data=st.data(),
    parts=st.integers(1, 3),
    longest=st.integers(20, 4000),
    factor=st.floats(1, 8),
    seed=st.integers(0, 3),
)
def test_shares_are_within_half_a_percent(
    data: st.DataObject, parts: int, longest: int, factor: float, seed: int
) -> None:
    """From a budget of 200 documents on, whatever the documents' lengths are."""
    lengths = st.lists(st.integers(longest // 5, longest), min_size=20, max_size=40)
    have = {str(i): as_lengths(data.draw(lengths)) for i in range(parts)}
    shares = data.draw(st.lists(st.floats(0.01, 5), min_size=parts, max_size=parts))
    budget = round(200 * longest * factor)
    mix = [Component(str(i), share, 1e9) for i, share in enumerate(shares)]
    for realised in draw(mix, have, budget, seed).realised:
        assert abs(realised.share - realised.asked_share) <= 0.005


def test_the_last_document_is_the_one_that_meets_the_budget() -> None:
    have = {"a": as_lengths([7] * 50 + [3] * 50)}
    for tokens in (100, 101, 102, 250):  # any number can be made of sevens and a three, or nearly
        assert abs(draw([Component("a", 1, 1)], have, tokens, 0).tokens - tokens) <= 2


def test_epochs_read_everything_so_often() -> None:
    have = {"a": as_lengths([5] * 40), "b": as_lengths([9] * 20)}
    parts = [Component("a", 0.2, 3), Component("b", 0.8, 3)]
    drawn = draw(parts, have, 0, 0, epochs=2.5)
    for realised in drawn.realised:
        assert realised.repeats == pytest.approx(2.5, abs=0.03)
    counts = Counter(drawn.document[drawn.component == 0].tolist())
    assert set(counts.values()) == {2, 3}
    with pytest.raises(UserError, match="200 are there and max_repeats=3 allows 600: 200 tokens"):
        draw(parts, have, 0, 0, epochs=4)
    with pytest.raises(UserError, match="a budget of 10 tokens and 2 epochs; give one"):
        draw(parts, have, 10, 0, epochs=2)
    with pytest.raises(UserError, match="epochs is 0, allowed is a number > 0"):
        draw(parts, have, 0, 0, epochs=0)


def test_a_component_with_share_zero_gives_nothing() -> None:
    have = {"a": as_lengths([5] * 10), "b": as_lengths([5] * 10)}
    drawn = draw([Component("a", 1, 1), Component("b", 0, 1)], have, 0, 0)
    assert set(drawn.component.tolist()) == {0}
    assert drawn.realised[1].tokens == 0


def test_without_shuffle_the_given_order_stays() -> None:
    have = {"a": as_lengths([5] * 4), "b": as_lengths([5] * 3)}
    drawn = draw([Component("a", 1, 1), Component("b", 1, 1)], have, 0, 0, shuffle=False)
    assert drawn.component.tolist() == [0] * 4 + [1] * 3
    assert drawn.document.tolist() == [0, 1, 2, 3, 0, 1, 2]


def test_what_is_wrong_is_said_in_one_line() -> None:
    have = {"spec": as_lengths([10] * 10), "empty": as_lengths([])}
    with pytest.raises(UserError, match=r"'spec': share is -0.1, allowed is a number >= 0"):
        Component("spec", -0.1, 1)
    with pytest.raises(UserError, match="share is nan"):
        Component("spec", float("nan"), 1)
    with pytest.raises(UserError, match="share is 'half', allowed is a number >= 0"):
        Component("spec", "half", 1)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="max_repeats is 0"):
        Component("spec", 1, 0)
    with pytest.raises(UserError, match="all zero"):
        draw([Component("spec", 0, 1)], have, 10, 0)
    with pytest.raises(UserError, match="all zero"):
        draw([], have, 10, 0)
    with pytest.raises(UserError, match="tokens is -5"):
        draw([Component("spec", 1, 1)], have, -5, 0)
    with pytest.raises(UserError, match="'empty' is empty"):
        draw([Component("empty", 1, 1)], have, 10, 0)
    with pytest.raises(
        UserError,
        match=r"300 tokens are asked for, 100 are there .* allows 200: 100 tokens",
    ):
        draw([Component("spec", 1, 2)], have, 300, 0)
