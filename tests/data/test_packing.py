from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.data.packing import pack, pack_windows, place, windows
from msm_ray.data.tokens import TokenizedDocuments
from msm_ray.errors import UserError


def documents(lengths: list[int], first: int = 1) -> TokenizedDocuments:
    """Documents whose tokens all differ."""
    total = sum(lengths)
    return TokenizedDocuments(
        ids=tuple(f"d{i}" for i in range(len(lengths))),
        tokens=np.arange(first, first + total, dtype=np.int32),
        loss=np.ones(total, dtype=np.uint8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


SHAPES = {  # lengths as they come: name -> block_tokens, draw
    "paper, mean 1500": (4096, lambda rng, n: lognormal(rng, n, 1500, 0.6)),
    "paper, mean 3100": (4096, lambda rng, n: lognormal(rng, n, 3100, 0.6)),
    "paper, mean 1500, long blocks": (8192, lambda rng, n: lognormal(rng, n, 1500, 0.6)),
    "paper, mean 3100, long blocks": (8192, lambda rng, n: lognormal(rng, n, 3100, 0.6)),
    "micro documents": (256, lambda rng, n: rng.integers(30, 61, n)),
    "micro conversations": (256, lambda rng, n: rng.integers(20, 31, n)),
}


def lognormal(rng: np.random.Generator, n: int, mean: float, sigma: float) -> np.ndarray:
    drawn = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, n)
    return np.maximum(16, drawn).astype(np.int64)


@given(
    lengths=st.lists(st.integers(1, 400), max_size=80),
    block_tokens=st.integers(2, 200),
    whole=st.booleans(),
)
def test_every_token_has_one_place(lengths: list[int], block_tokens: int, whole: bool) -> None:
    placement = place(lengths, block_tokens, [whole] * len(lengths))
    covered: dict[int, list[tuple[int, int]]] = {}
    used: dict[int, list[tuple[int, int]]] = {}
    for item, start, length, block, offset in zip(
        placement.item, placement.start, placement.length, placement.block, placement.offset,
        strict=True,
    ):  # fmt: skip
        covered.setdefault(int(item), []).append((int(start), int(start + length)))
        used.setdefault(int(block), []).append((int(offset), int(offset + length)))
    assert sorted(covered) == list(range(len(lengths)))
    cut = 0
    for item, spans in covered.items():
        spans.sort()
        assert [a for a, _ in spans] == [0, *[b for _, b in spans[:-1]]]
        assert spans[-1][1] == lengths[item]
        least = -(-lengths[item] // block_tokens)  # as few pieces as fit in blocks
        cut += len(spans) > least
    assert placement.cut == cut
    if whole:
        assert not cut
    assert sorted(used) == list(range(placement.blocks))
    for spans in used.values():
        spans.sort()
        assert [a for a, _ in spans] == [0, *[b for _, b in spans[:-1]]]  # no gap, no overlap
        assert spans[-1][1] <= block_tokens


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_blocks_are_full(shape: str) -> None:
    block_tokens, draw = SHAPES[shape]
    lengths = draw(np.random.default_rng(1), 6000)
    blocks = cut = 0
    for start, stop in windows(lengths, block_tokens):
        placement = place(lengths[start:stop], block_tokens)
        blocks, cut = blocks + placement.blocks, cut + placement.cut
    assert lengths.sum() / (blocks * block_tokens) >= 0.99
    assert cut <= 0.08 * len(lengths)


def test_documents_that_have_to_stay_whole_do() -> None:
    lengths = np.full(100, 560)  # a little longer than half a block: no two fit together
    assert place(lengths, 1024).blocks < 60
    kept = place(lengths, 1024, np.full(100, True))
    assert (kept.blocks, kept.cut) == (100, 0)
    mixed = place(lengths, 1024, np.arange(100) < 50)
    assert mixed.cut > 0
    for item in range(50):
        assert mixed.length[mixed.item == item].tolist() == [560]


@given(lengths=st.lists(st.integers(1, 300), min_size=1), block_tokens=st.integers(2, 64))
def test_windows_follow_one_another(lengths: list[int], block_tokens: int) -> None:
    sizes = np.array(lengths, dtype=np.int64)
    found = list(windows(sizes, block_tokens, 3))
    assert [a for a, _ in found] == [0, *[b for _, b in found[:-1]]]
    assert found[-1][1] == len(lengths)
    for start, stop in found[:-1]:
        held = sizes[start:stop].sum()
        assert held - sizes[stop - 1] < 3 * block_tokens <= held
    # a window is known as soon as its last document is: what follows changes nothing
    assert list(windows(sizes[: found[0][1]], block_tokens, 3)) == found[:1]


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    block_tokens=st.integers(4, 24),
    repeats=st.integers(1, 2),
)
def test_blocks_hold_the_documents(lengths: list[int], block_tokens: int, repeats: int) -> None:
    docs = documents(lengths)
    which = np.tile(np.arange(len(lengths)), repeats)
    blocks = pack([("a", docs)], np.zeros(len(which), np.int64), which, block_tokens, pad_id=0)
    content = Counter(blocks.input_ids[blocks.input_ids > 0].tolist())
    given_tokens = Counter(docs.tokens.tolist() * repeats)
    assert content <= given_tokens
    # what lacks is single tokens, from which nothing is learned, in blocks of nothing else
    ends = set(docs.tokens[docs.offsets[1:] - 1].tolist())
    assert set(given_tokens - content) <= ends
    assert blocks.loss_mask.any(axis=1).all()
    assert blocks.tokens.sum() == content.total()
    starts = (blocks.position_ids == 0) & (blocks.input_ids > 0)
    assert starts.sum() == sum(len(row) for row in blocks.sources)
    assert not blocks.loss_mask[starts].any()
    assert not blocks.loss_mask[blocks.input_ids == 0].any()
    # within a piece tokens and positions both go up by one
    inside = blocks.position_ids[:, 1:] > 0
    assert (np.diff(blocks.position_ids, axis=1)[inside] == 1).all()
    assert (np.diff(blocks.input_ids, axis=1)[inside] == 1).all()


def test_blocks_keep_the_order_of_the_documents_that_open_them() -> None:
    lengths = np.full(2000, 19)
    placement = place(lengths, 128)
    opened = [int(placement.item[placement.block == b].min()) for b in range(placement.blocks)]
    assert opened == sorted(opened)


def test_a_document_moves_no_farther_than_its_window() -> None:
    docs = documents([7, 30, 12, 25, 9, 31] * 20)
    which = np.arange(120)
    packed = list(pack_windows([("a", docs)], which * 0, which, 32, 0, window_blocks=4))
    assert len(packed) > 10
    first = 0
    for window in packed:
        seen = {name for row in window.blocks.sources for _, name in row}
        assert seen == {f"d{i}" for i in range(first, first + window.documents)}
        first += window.documents
    assert first == 120


def test_blocks_without_a_target_are_left_out_and_counted() -> None:
    docs = documents([40, 5])
    loss = docs.loss.copy()
    loss[:33] = 0  # the first 16 tokens, and the next 16, ask; the rest answers
    docs = replace(docs, loss=loss)
    zero = np.zeros(2, np.int64)
    (window,) = pack_windows([("chat", docs)], zero, np.arange(2), 16, 0, whole=[True])
    assert window.refused == {"chat": 32}
    assert window.blocks.tokens.tolist() == [13]
    assert window.blocks.loss_mask.any(axis=1).all()


def test_components_and_ids_go_along() -> None:
    sources = [("a", documents([3])), ("b", documents([2, 4], first=50))]
    blocks = pack(sources, np.array([1, 0, 1]), np.array([1, 0, 0]), 16, pad_id=0)
    assert blocks.sources == [[("b", "d1"), ("a", "d0"), ("b", "d0")]]
    assert blocks.input_ids[0, :9].tolist() == [52, 53, 54, 55, 1, 2, 3, 50, 51]
    assert blocks.position_ids[0, :10].tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1, 0]


def test_a_block_of_one_token_is_refused() -> None:
    with pytest.raises(UserError, match="block_tokens is 1"):
        place([3], 1)
