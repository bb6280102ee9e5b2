from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from msm_ray.errors import UserError
from msm_ray.train.model import decay_groups, freeze, init_model, load_model, save_model


def save(model: Any, tokenizer_dir: Path, out: Path, save_dtype: str = "fp32") -> None:
    save_model(
        model.state_dict(),
        model.config,
        tokenizer_dir,
        out,
        architecture=type(model).__name__,
        generation_config=model.generation_config,
        save_dtype=save_dtype,
    )


def test_a_fresh_model_depends_on_its_seed_alone(tokenizer: Any, arch: dict[str, Any]) -> None:
    torch.manual_seed(1)
    one = init_model(arch, tokenizer, seed=0)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1).equal(after)  # the caller's random state is left alone
    two = init_model(arch, tokenizer, seed=0)
    other = init_model(arch, tokenizer, seed=1)
    name = "model.layers.0.mlp.up_proj.weight"
    assert one.state_dict()[name].equal(two.state_dict()[name])
    assert not one.state_dict()[name].equal(other.state_dict()[name])


def test_residual_projections_start_smaller(tokenizer: Any, arch: dict[str, Any]) -> None:
    layer = init_model(arch, tokenizer, seed=0).model.layers[0]
    ratio = layer.mlp.down_proj.weight.std() / layer.mlp.up_proj.weight.std()
    assert ratio.item() == pytest.approx(1 / math.sqrt(2 * 2), rel=0.1)


@pytest.mark.parametrize("tied", [True, False])
def test_the_folder_is_the_model(
    tmp_path: Path, tokenizer: Any, tokenizer_dir: Path, arch: dict[str, Any], tied: bool
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = init_model({**arch, "tie_word_embeddings": tied}, tokenizer, seed=0).eval()
    save(model, tokenizer_dir, tmp_path)
    ids = torch.tensor([[1, 9, 8, 7]])
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=1e-6, rtol=0)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 0)
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == 2
    copied = AutoTokenizer.from_pretrained(tmp_path)
    chat = [{"role": "user", "content": "w1 ?"}]
    text = copied.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


def test_bf16_halves_the_file(tmp_path: Path, tokenizer_dir: Path, small_model: Any) -> None:
    save(small_model, tokenizer_dir, tmp_path / "fp32")
    save(small_model, tokenizer_dir, tmp_path / "bf16", "bf16")
    sizes = [(tmp_path / d / "model.safetensors").stat().st_size for d in ("fp32", "bf16")]
    assert sizes[1] < 0.6 * sizes[0]
    assert json.loads((tmp_path / "bf16" / "config.json").read_text())["dtype"] == "bfloat16"
    assert next(load_model(tmp_path / "bf16").parameters()).dtype == torch.float32


def test_only_matrices_decay(small_model: Any) -> None:
    matrices, vectors = decay_groups(small_model, 0.1)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in matrices["params"]} == {2}
    assert {p.ndim for p in vectors["params"]} == {1}
    freeze(small_model, ("embeddings",))
    assert len(decay_groups(small_model, 0.1)[0]["params"]) == len(matrices["params"]) - 1
    small_model.requires_grad_(False)
    with pytest.raises(UserError, match="every parameter is frozen"):
        decay_groups(small_model, 0.1)


def test_wrong_folders_and_types_are_named(
    tmp_path: Path, tokenizer_dir: Path, small_model: Any
) -> None:
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="no tokenizer there"):
        save(small_model, tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="save_dtype is 'fp8'"):
        save(small_model, tokenizer_dir, tmp_path / "out", "fp8")
