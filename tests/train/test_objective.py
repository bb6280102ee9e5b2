from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_ray.data.blocks import BlockReader
from msm_ray.train.objective import (
    IGNORED,
    Batch,
    LossModel,
    make_batch,
    next_token,
    packed_logits,
)

ALL = np.arange(16, dtype=np.int64)
# fp32 rounding of logits whose scale is near 1; a leak is thousands of times larger
TOLERANCE = 1e-5


@pytest.fixture
def loud_model(small_model: Any) -> Any:
    """Weights large enough that attention to a wrong token shows."""
    with torch.no_grad():
        for parameter in small_model.parameters():
            parameter.mul_(6 if parameter.ndim == 2 else 1)
    return small_model.eval()


def documents_of(ids: torch.Tensor, positions: torch.Tensor) -> list[tuple[int, slice]]:
    """(row, span) of each document in a batch [B, T]."""
    spans = []
    for row, line in enumerate(positions.tolist()):
        starts = [i for i, p in enumerate(line) if p == 0]
        spans += [(row, slice(a, b)) for a, b in zip(starts, [*starts[1:], len(line)], strict=True)]
    return spans


def leak(packed: torch.Tensor, model: Any, ids: torch.Tensor, positions: torch.Tensor) -> float:
    """Largest difference between the packed logits and those of each document alone."""
    worst = 0.0
    for row, span in documents_of(ids, positions):
        alone = model(input_ids=ids[row : row + 1, span]).logits[0]
        worst = max(worst, float((packed[row, span] - alone).abs().max()))
    return worst


@torch.no_grad()
def test_packed_logits_are_those_of_each_document_alone(loud_model: Any, blocks_dir: Path) -> None:
    reader = BlockReader(blocks_dir)
    ids = torch.from_numpy(reader.rows("input_ids", ALL)).long()
    positions = torch.from_numpy(reader.rows("position_ids", ALL)).long()
    assert len(documents_of(ids, positions)) > 2 * len(ALL)
    packed = packed_logits(loud_model, ids, positions)
    assert packed.abs().max() > 0.5
    assert leak(packed, loud_model, ids, positions) < TOLERANCE


@torch.no_grad()
def test_flex_attention_keeps_documents_apart(loud_model: Any, blocks_dir: Path) -> None:
    """What a run on GPUs may ask for, as far as a CPU can show it: forward, without gradients."""
    reader = BlockReader(blocks_dir)
    ids = torch.from_numpy(reader.rows("input_ids", ALL)).long()
    positions = torch.from_numpy(reader.rows("position_ids", ALL)).long()
    model = copy.deepcopy(loud_model)
    model.set_attn_implementation("flex_attention")
    packed = packed_logits(model, ids, positions)
    assert model.config._attn_implementation == "flex_attention"
    assert leak(packed, loud_model, ids, positions) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"use_cache": True}, id="with a cache"),
        pytest.param({"use_cache": False, "attention_mask": True}, id="with an attention mask"),
    ],
)
def test_the_two_ways_to_lose_the_mask_would_be_seen(
    loud_model: Any, blocks_dir: Path, arguments: dict[str, Any]
) -> None:
    """Both are silent in transformers. If one of them stops leaking, the reason is gone."""
    reader = BlockReader(blocks_dir)
    ids = torch.from_numpy(reader.rows("input_ids", ALL)).long()
    positions = torch.from_numpy(reader.rows("position_ids", ALL)).long()
    if "attention_mask" in arguments:
        arguments = {**arguments, "attention_mask": torch.ones_like(ids)}
    packed = loud_model(input_ids=ids, position_ids=positions, **arguments).logits
    assert leak(packed, loud_model, ids, positions) > 100 * TOLERANCE


@torch.no_grad()
@settings(deadline=None, max_examples=15)
@given(cuts=st.lists(st.integers(1, 9), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_no_layout_of_documents_leaks(cuts: list[int], seed: int) -> None:
    """Single tokens in a row, one document alone, a row of padding beside a full one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=20,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            initializer_range=0.3,
            attn_implementation="sdpa",
        )
    ).eval()
    line = [p for cut in cuts for p in range(cut)]
    positions = torch.tensor([line, [0] * len(line), list(range(len(line)))])
    ids = torch.randint(0, 20, positions.shape)
    packed = packed_logits(model, ids, positions)
    assert leak(packed, model, ids, positions) < TOLERANCE


def test_labels_stay_inside_documents_and_masks() -> None:
    batch = make_batch(
        np.array([[1, 5, 6, 2, 1, 7, 2, 0]], dtype=np.int32),
        np.array([[0, 1, 2, 3, 0, 1, 2, 0]], dtype=np.int32),
        np.array([[0, 1, 0, 1, 1, 1, 1, 1]], dtype=np.uint8),
    )
    # position t holds the token at t + 1, unless that is masked (6), or starts a document
    assert batch.labels_BT.tolist() == [[5, IGNORED, 2, IGNORED, 7, 2, IGNORED, IGNORED]]


def test_the_loss_is_the_sum_of_nats_over_the_targets(small_model: Any, blocks_dir: Path) -> None:
    reader = BlockReader(blocks_dir)
    batch = make_batch(
        *(reader.rows(name, ALL) for name in ("input_ids", "position_ids", "loss_mask"))
    )
    logits = packed_logits(small_model, batch.input_ids_BT, batch.position_ids_BT)
    logprobs = logits.double().log_softmax(-1)
    expected, targets = 0.0, 0
    for b, line in enumerate(batch.labels_BT.tolist()):
        for t, label in enumerate(line):
            if label != IGNORED:
                expected -= float(logprobs[b, t, label])
                targets += 1
    assert targets == reader.loss_tokens[ALL].sum()
    assert float(next_token(LossModel(small_model), batch).total) == pytest.approx(
        expected, rel=1e-5
    )


def test_the_loss_is_fp32_under_autocast(small_model: Any, blocks_dir: Path) -> None:
    reader = BlockReader(blocks_dir)
    batch = make_batch(
        *(reader.rows(name, ALL) for name in ("input_ids", "position_ids", "loss_mask"))
    )
    exact = next_token(LossModel(small_model), batch).total
    with torch.autocast("cpu", torch.bfloat16):
        rounded = next_token(LossModel(small_model), batch).total
    assert rounded.dtype == torch.float32
    assert float(rounded) == pytest.approx(float(exact), rel=2e-3)


def test_micro_batches_are_the_batch() -> None:
    column = torch.arange(30).reshape(10, 3)
    parts = Batch(column, column + 1, column + 2).split(4)
    assert [len(p.input_ids_BT) for p in parts] == [4, 4, 2]
    assert torch.cat([p.labels_BT for p in parts]).equal(column + 2)
    assert len(Batch(column, column, column).split(0)) == 1
