from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from msm_ray.data.blocks import BlockReader
from msm_ray.errors import UserError
from msm_ray.train import start as starting
from msm_ray.train.backends import make_backend
from msm_ray.train.config import Lora, TrainConfig, TrainRuntime
from msm_ray.train.loop import train
from msm_ray.train.lora import (
    add_adapter,
    first_weights,
    is_adapter,
    load_adapted,
    put,
    read_adapter,
    same_lora,
    save_adapter,
)
from msm_ray.train.model import init_model, load_model, save_model

from .families import FAMILIES, make_base

LORA = Lora(rank=4, alpha=8, targets=("v_proj", "q_proj"))


def adapted(model: Any, lora: Lora = LORA, seed: int = 0) -> Any:
    add_adapter(model, lora)
    put(model, first_weights(model, seed, None))
    return model


def trainable(model: Any) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def test_the_base_is_frozen_and_the_start_is_the_base(small_model: Any) -> None:
    ids = torch.tensor([[1, 9, 8, 7]])
    before = small_model(ids).logits
    names = set(trainable(adapted(small_model)))
    assert names == {
        f"model.layers.{i}.self_attn.{t}.lora_{x}.default.weight"
        for i in range(2)
        for t in LORA.targets
        for x in "AB"
    }
    assert small_model(ids).logits.equal(before)


def test_the_first_weights_follow_from_seed_and_name(tokenizer: Any, arch: dict[str, Any]) -> None:
    torch.manual_seed(1)
    one = trainable(adapted(init_model(arch, tokenizer, 0)))
    torch.manual_seed(2)
    two = trainable(adapted(init_model(arch, tokenizer, 0)))
    other = trainable(adapted(init_model(arch, tokenizer, 0), seed=1))
    firsts = []
    for name, value in one.items():
        assert value.equal(two[name])
        if ".lora_B." in name:
            assert not value.any()
        else:
            assert not value.equal(other[name])
            assert value.abs().max() <= 1 / math.sqrt(32)
            assert value.std().item() == pytest.approx(1 / math.sqrt(3 * 32), rel=0.2)
            firsts.append(value)
    assert not firsts[0].equal(firsts[1])


@pytest.mark.parametrize("rslora", [False, True])
def test_the_scale(small_model: Any, rslora: bool) -> None:
    model = adapted(small_model, Lora(4, 8, ("q_proj",), rslora))
    layer = model.model.layers[0].self_attn.q_proj
    x = torch.randn(3, 32)
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        expected = x @ layer.base_layer.weight.t() + (4 if rslora else 2) * (x @ a.t() @ b.t())
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("all-linear",)])
def test_the_folder_is_the_adapter(
    tmp_path: Path, tokenizer_dir: Path, small_model: Any, targets: tuple[str, ...]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, out = tmp_path / "base", tmp_path / "adapter"
    save_model(
        small_model.state_dict(),
        small_model.config,
        tokenizer_dir,
        base,
        architecture="LlamaForCausalLM",
        generation_config=small_model.generation_config,
        save_dtype="fp32",
    )
    lora = Lora(4, 8, targets, True)
    model = adapted(small_model, lora).eval()
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.normal_(std=0.1)
    save_adapter(trainable(model), lora, base, {"prompts": []}, out, torch.float32)
    assert is_adapter(out)
    assert not is_adapter(base)
    read = read_adapter(out)
    assert (read.lora, read.base, read.base_fingerprint) == (lora, str(base), {"prompts": []})
    ids = torch.tensor([[1, 9, 8, 7]])
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert not torch.allclose(plain(ids).logits, model(ids).logits, atol=1e-2)
    for loaded in (load_adapted(out, base).eval(), PeftModel.from_pretrained(plain, out)):
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=1e-5, rtol=0)
    config = json.loads((out / "adapter_config.json").read_text())
    assert "lm_head" not in config["target_modules"]
    assert config["target_modules"] == sorted(config["target_modules"])
    names = load_file(out / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.model.layers.") for name in names)
    # an adapter of another shape is not taken
    other = adapted(load_model(base), Lora(2, 8, targets))
    with pytest.raises(UserError, match="are not those of an adapter of this model"):
        first_weights(other, 0, out)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma"])
def test_frozen_weights_in_bf16_change_no_bit(
    name: str,
    tmp_path: Path,
    blocks_dir: Path,
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a head of its own, with biases, and with a head that is the embedding."""
    families = {**FAMILIES, "qwen2": replace(FAMILIES["qwen3"], model_type="qwen2")}
    folder = make_base(families[name], tmp_path / "base")
    run = replace(config, precision="bf16", lora=Lora(4, 8, ("all-linear",)))
    runtime = TrainRuntime(logits_mib=1)
    results = []
    for rounds in (True, False):
        if not rounds:
            monkeypatch.setattr(starting, "round_frozen", lambda model: None)
        model = starting.start(run, runtime, str(folder), None, None, "").model
        stored = {n: p.dtype for n, p in model.named_parameters()}
        backend = make_backend(model, run, runtime)
        losses = train(backend, BlockReader(blocks_dir), run).loss
        results.append((losses, backend.full_state(), stored))
    (losses, state, stored), (others, same, plain) = results
    assert losses == others
    assert losses[-1] < losses[0]
    assert state is not None
    assert same is not None
    assert all(value.equal(same[weight]) for weight, value in state.items())
    assert set(plain.values()) == {torch.float32}
    halved = {n for n, dtype in stored.items() if dtype == torch.bfloat16}
    layers = {n for n in stored if ".base_layer." in n}
    assert halved == layers | ({"lm_head.weight"} & stored.keys())
    assert len(layers) == 2 * (7 + (3 if name == "qwen2" else 0))


def test_targets_that_are_not_there_are_named(small_model: Any) -> None:
    with pytest.raises(UserError, match="no layer of the model is called k_prj"):
        add_adapter(small_model, Lora(4, 8, ("q_proj", "k_prj")))
    for name in ("lm_head", "embed_tokens"):
        with pytest.raises(UserError, match=f"{name} is an embedding"):
            add_adapter(small_model, Lora(4, 8, (name,)))


def test_a_foreign_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="not an adapter that was trained here"):
        read_adapter(tmp_path)


def test_the_order_of_targets_is_of_no_importance() -> None:
    assert same_lora(LORA, Lora(4, 8.0, ("q_proj", "v_proj")))
    for other in (Lora(8, 8, LORA.targets), Lora(4, 4, LORA.targets), Lora(4, 8, ("q_proj",))):
        assert not same_lora(LORA, other)
    assert not same_lora(LORA, Lora(4, 8, LORA.targets, rslora=True))
