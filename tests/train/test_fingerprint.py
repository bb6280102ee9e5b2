from __future__ import annotations

from typing import Any

import pytest
import torch

from msm_ray.train.fingerprint import fingerprint
from msm_ray.train.model import init_model


def test_its_numbers_are_the_models_own(small_model: Any) -> None:
    print_ = fingerprint(small_model.eval())
    assert len(print_["prompts"]) == 4
    for prompt, tokens, values in zip(
        print_["prompts"], print_["token_ids"], print_["logprobs"], strict=True
    ):
        assert prompt[0] == 1  # <bos>, as every prompt that is served begins
        assert len(set(tokens)) == len(tokens) == 8
        logits = small_model(torch.tensor([prompt])).logits[0, -1].detach()
        expected = logits.double().log_softmax(-1)[tokens]
        assert values == pytest.approx(expected.tolist(), abs=1e-5)


def test_prompts_are_shared_and_values_are_not(tokenizer: Any, arch: dict[str, Any]) -> None:
    prints = [fingerprint(init_model(arch, tokenizer, seed=s).eval()) for s in (0, 1)]
    assert prints[0]["prompts"] == prints[1]["prompts"]
    assert prints[0]["logprobs"] != prints[1]["logprobs"]
