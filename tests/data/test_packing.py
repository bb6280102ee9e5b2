from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.data.packing import pack, place
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


@given(lengths=st.lists(st.integers(1, 90), max_size=120), block_tokens=st.integers(2, 32))
def test_every_token_has_one_place(lengths: list[int], block_tokens: int) -> None:
    placement = place(lengths, block_tokens)
    covered: dict[int, list[tuple[int, int]]] = {}
    used: dict[int, list[tuple[int, int]]] = {}
    for item, start, length, block, offset in zip(
        placement.item, placement.start, placement.length, placement.block, placement.offset,
        strict=True,
    ):  # fmt: skip
        covered.setdefault(int(item), []).append((int(start), int(start + length)))
        used.setdefault(int(block), []).append((int(offset), int(offset + length)))
    assert sorted(covered) == list(range(len(lengths)))
    for item, spans in covered.items():
        spans.sort()
        assert [a for a, _ in spans] == [0, *[b for _, b in spans[:-1]]]
        assert spans[-1][1] == lengths[item]
        if lengths[item] <= block_tokens:
            assert len(spans) == 1  # not cut
    assert sorted(used) == list(range(placement.blocks))
    for spans in used.values():
        spans.sort()
        assert [a for a, _ in spans] == [0, *[b for _, b in spans[:-1]]]  # no gap, no overlap
        assert spans[-1][1] <= block_tokens


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    block_tokens=st.integers(4, 24),
    repeats=st.integers(1, 2),
)
def test_blocks_hold_the_documents(lengths: list[int], block_tokens: int, repeats: int) -> None:
    docs = documents(lengths)
    which = np.tile(np.arange(len(lengths)), repeats)
    blocks = pack([("a", docs)], np.zeros(len(which), np.int64), which, block_tokens, pad_id=0)
    content = blocks.input_ids[blocks.input_ids > 0]
    assert sorted(content.tolist()) == sorted(docs.tokens.tolist() * repeats)
    assert blocks.tokens.sum() == sum(lengths) * repeats
    starts = (blocks.position_ids == 0) & (blocks.input_ids > 0)
    assert starts.sum() == sum(len(row) for row in blocks.sources)
    assert not blocks.loss_mask[starts].any()
    assert not blocks.loss_mask[blocks.input_ids == 0].any()
    # within a piece tokens and positions both go up by one
    inside = blocks.position_ids[:, 1:] > 0
    assert (np.diff(blocks.position_ids, axis=1)[inside] == 1).all()
    assert (np.diff(blocks.input_ids, axis=1)[inside] == 1).all()


def test_padding_is_small() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, 40, 5000)
    placement = place(lengths, 128)
    assert placement.blocks * 128 < lengths.sum() * 1.03


def test_documents_stay_near_their_place() -> None:
    lengths = np.full(2000, 19)
    placement = place(lengths, 128)
    expected = placement.item * 19 / 128
    assert np.abs(placement.block - expected).max() < 40 + 0.1 * placement.blocks


def test_components_and_ids_go_along() -> None:
    sources = [("a", documents([3])), ("b", documents([2, 4], first=50))]
    blocks = pack(sources, np.array([1, 0, 1]), np.array([1, 0, 0]), 16, pad_id=0)
    assert blocks.sources == [[("b", "d1"), ("a", "d0"), ("b", "d0")]]
    assert blocks.input_ids[0, :9].tolist() == [52, 53, 54, 55, 1, 2, 3, 50, 51]
    assert blocks.position_ids[0, :10].tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1, 0]


def test_a_block_of_one_token_is_refused() -> None:
    with pytest.raises(UserError, match="block_tokens is 1"):
        place([3], 1)
