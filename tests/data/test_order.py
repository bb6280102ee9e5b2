from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.data.order import EpochOrder, WindowedOrder, permutation


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


class Growing:
    """Windows of blocks as a stream shows them."""

    def __init__(self, windows: list[int], is_final: bool = True) -> None:
        self.windows = windows
        self.is_final = is_final


@given(
    windows=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    seed=st.integers(0, 5),
    shuffle=st.booleans(),
    epochs=st.integers(1, 3),
)
def test_windows_are_shuffled_in_themselves(
    windows: list[int], seed: int, shuffle: bool, epochs: int
) -> None:
    n = sum(windows)
    if n == 0:
        with pytest.raises(ValueError, match="at least one"):
            WindowedOrder(Growing(windows), seed).take(0, 1)
        return
    whole = WindowedOrder(Growing(windows), seed, shuffle).take(0, epochs * n).tolist()
    for epoch in range(epochs):
        at = epoch * n
        for first, size in zip(np.cumsum([0, *windows[:-1]]), windows, strict=True):
            inside = whole[at : at + size]
            assert sorted(inside) == list(range(first, first + size))
            if not shuffle:
                assert inside == sorted(inside)
            at += size
    cut = [WindowedOrder(Growing(windows), seed, shuffle).take(i, i + 1)[0] for i in range(n)]
    assert cut == whole[:n]


@given(windows=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 5))
def test_what_is_written_later_changes_nothing_before(windows: list[int], seed: int) -> None:
    whole = WindowedOrder(Growing(windows), seed).take(0, sum(windows)).tolist()
    growing = Growing([], is_final=False)
    order, read = WindowedOrder(growing, seed), []
    for size in windows:
        with pytest.raises(LookupError, match="blocks are committed"):
            order.take(len(read), len(read) + 1)
        growing.windows = [*growing.windows, size]
        read += order.take(len(read), len(read) + size).tolist()
    assert read == whole


def test_the_order_by_windows_never_changes() -> None:
    order = WindowedOrder(Growing([4, 3]), 0)
    assert order.take(0, 14).tolist() == [1, 0, 2, 3, 4, 5, 6, 3, 1, 0, 2, 4, 5, 6]
    epochs = [order.take(7 * e, 7 * e + 7).tolist() for e in range(20)]
    assert len({tuple(epoch) for epoch in epochs}) > 10  # shuffled anew in every epoch
