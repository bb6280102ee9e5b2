from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.data.order import EpochOrder, permutation


@given(n=st.integers(0, 300), seed=st.integers(0, 2**40))
def test_it_is_a_permutation(n: int, seed: int) -> None:
    assert sorted(permutation(n, seed).tolist()) == list(range(n))


def test_it_never_changes() -> None:
    # Golden values: data order is part of what a checkpoint's identity promises.
    assert permutation(8, "epoch", 0, 0).tolist() == [5, 7, 0, 1, 6, 2, 4, 3]
    assert permutation(8, "epoch", 0, 1).tolist() == [0, 4, 7, 3, 1, 2, 5, 6]


def test_every_part_of_the_key_counts() -> None:
    orders = {tuple(permutation(50, *key)) for key in [(1, 2), (2, 1), ("1", 2), (12,), (1, 2, 0)]}
    assert len(orders) == 5


def test_positions_are_spread_evenly() -> None:
    where_first = [int(np.argmin(permutation(10, seed))) for seed in range(2000)]
    counts = np.bincount(where_first, minlength=10)
    assert counts.min() > 140
    assert counts.max() < 260


@given(
    n=st.integers(1, 40),
    seed=st.integers(0, 5),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
)
def test_the_sequence_does_not_depend_on_how_it_is_cut(n: int, seed: int, cuts: list[int]) -> None:
    whole = EpochOrder(n, seed).take(0, sum(cuts)).tolist()
    order, start, parts = EpochOrder(n, seed), 0, []
    for cut in cuts:
        parts += order.take(start, start + cut).tolist()
        start += cut
    assert parts == whole
    for epoch in range(len(whole) // n):
        assert sorted(whole[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_without_shuffle_the_order_is_that_of_the_blocks() -> None:
    assert EpochOrder(3, 0, shuffle=False).take(0, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_an_order_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        EpochOrder(0, 0)
