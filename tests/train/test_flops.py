from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from msm_ray.data.blocks import BlockReader, write_blocks
from msm_ray.train.flops import attended_tokens, device_peak, flops_per_token
from msm_ray.train.model import freeze, init_model
from msm_ray.train.pretrain import pack_texts


def test_attention_sees_a_tokens_own_document(tmp_path: Path, tokenizer: Any) -> None:
    """Two texts of 4 and 8 words, each with an end: by token, (5 * 5 + 9 * 9) / 14."""
    texts = [" ".join(["w1"] * n) for n in (4, 8)]
    blocks = pack_texts(texts, tokenizer, 32)
    lengths = [4, 8] if blocks.tokens.sum() == 12 else [5, 9]
    if blocks.tokens.sum() == 16:  # with a beginning as well
        lengths = [6, 10]
    write_blocks(tmp_path, blocks, {})
    expected = sum(n * n for n in lengths) / sum(lengths)
    assert attended_tokens(BlockReader(tmp_path)) == pytest.approx(expected)


@pytest.mark.parametrize("tied", [True, False])
def test_flops_are_those_that_torch_counts(
    tied: bool, tokenizer: Any, arch: dict[str, Any]
) -> None:
    """Against the matrix products that are really done, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    # torch does not count the fused attention of CPUs
    shape = {**arch, "tie_word_embeddings": tied, "attn_implementation": "eager"}
    model = init_model(shape, tokenizer, 0)
    ids = torch.zeros(2, 32, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    expected = flops_per_token(model, 32.0) * ids.numel()
    # Norms are in our count and not in torch's.
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.05)


def test_a_frozen_weight_takes_two_thirds(small_model: Any) -> None:
    before = flops_per_token(small_model, 0.0)
    size = small_model.get_input_embeddings().weight.numel()
    freeze(small_model, ("embeddings",))
    assert before - flops_per_token(small_model, 0.0) == 2 * size


def test_a_measured_peak_is_measured_once() -> None:
    first = device_peak(torch.device("cpu"), "fp32")
    assert first > 1e8
    assert device_peak(torch.device("cpu"), "fp32") == first
