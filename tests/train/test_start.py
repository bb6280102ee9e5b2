from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from msm_ray.errors import UserError
from msm_ray.train.config import Lora, TrainConfig, TrainRuntime
from msm_ray.train.fingerprint import fingerprint, fingerprint_of, same_fingerprint
from msm_ray.train.model import init_model, load_model
from msm_ray.train.start import start


def test_a_start_needs_a_model_or_an_architecture(config: TrainConfig) -> None:
    with pytest.raises(UserError, match="a model folder, or the architecture"):
        start(config, TrainRuntime(), None, None, None, "tokenizer")


def test_a_new_model_takes_all_its_weights(config: TrainConfig) -> None:
    lora = replace(config, lora=Lora(4, 8, ("q_proj",)))
    meta = TrainRuntime("fsdp2", 2, meta_init=True)
    for run, runtime in ((lora, TrainRuntime()), (config, meta)):
        with pytest.raises(UserError, match="lora and meta_init need a model folder"):
            start(run, runtime, None, None, {"hidden_size": 32}, "tokenizer")


def test_models_that_take_more_than_text_are_refused(tmp_path: Path) -> None:
    from transformers import Gemma3Config

    Gemma3Config().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a gemma3 model takes more than text"):
        load_model(tmp_path)


def test_soft_capped_attention_is_not_left_to_sdpa(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    small: dict[str, Any] = {
        "vocab_size": 20,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    for cap, attention in ((50.0, "eager"), (None, "sdpa")):
        config = AutoConfig.for_model("gemma2", **small, attn_logit_softcapping=cap)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        assert load_model(tmp_path).config._attn_implementation == attention


def test_fingerprints_are_compared_by_value(
    tmp_path: Path, tokenizer: Any, arch: dict[str, Any], small_model: Any
) -> None:
    one = fingerprint(small_model.eval())
    near = {**one, "logprobs": [[x + 1e-4 for x in row] for row in one["logprobs"]]}
    other = fingerprint(init_model(arch, tokenizer, seed=1).eval())
    assert same_fingerprint(one, near)
    assert not same_fingerprint(one, other)
    assert not same_fingerprint(one, {**one, "logprobs": [[0.0] * 8] * 4})
    small_model.save_pretrained(tmp_path)
    assert same_fingerprint(fingerprint_of(tmp_path), one)  # a folder that has no file for it
