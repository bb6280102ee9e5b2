"""What an engine needs is known before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from msm_ray.errors import UserError
from msm_ray.llm import memory
from msm_ray.llm.memory import GIB, MIB, EngineMemory
from msm_ray.llm.ray_pass import VllmRuntime
from msm_ray.llm.vllm import VllmAnswers

CONFIG: dict[str, Any] = {
    "max_position_embeddings": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 128,
    "dtype": "bfloat16",
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(bytes(MIB))
    return tmp_path


def test_by_hand(model: Path) -> None:
    # 4 layers x (keys and values) x 2 heads x 32 x 4 bytes
    assert memory.kv_cache_bytes_per_token(CONFIG, "float32") == 4 * 2 * 2 * 32 * 4
    need = memory.engine_memory(model, dtype="float32", max_model_len=128, max_num_seqs=8)
    assert need.weights == 2 * MIB  # stored in two bytes, computed in four
    assert need.kv_cache == 8 * (128 + 128) * 2048
    assert need.total == need.weights + need.kv_cache + memory.PROCESSES_BYTES


def test_the_cache_is_limited_but_holds_one_sequence(model: Path) -> None:
    need = memory.engine_memory(model, dtype="float32", max_model_len=128, max_num_seqs=10**6)
    assert need.kv_cache == memory.KV_CACHE_LIMIT_BYTES
    need = memory.engine_memory(model, dtype="float32", max_model_len=10**7, max_num_seqs=1)
    assert need.kv_cache > memory.KV_CACHE_LIMIT_BYTES


def test_too_little_memory_says_how_much_and_what_to_lower() -> None:
    need = EngineMemory(weights=GIB, kv_cache=GIB)
    memory.check_memory(need, 1, available=4 * GIB)
    with pytest.raises(UserError, match=r"needs about 6\.9 GiB .* 4\.0 GiB are free; lower"):
        memory.check_memory(need, 2, available=4 * GIB)


def test_free_memory_is_that_of_this_machine() -> None:
    import psutil

    assert 64 * MIB < memory.available_bytes() <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("limit", "used", "stat"),
    [
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ],
)
def test_a_containers_limit_counts_in_both_versions(
    limit: str, used: str, stat: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    (tmp_path / "memory").mkdir()
    for name, text in ((limit, 50 * MIB), (used, 40 * MIB), (stat, f"inactive_file {3 * MIB}\n")):
        (tmp_path / name).write_text(f"{text}")
    assert memory.available_bytes() == 13 * MIB
    (tmp_path / limit).write_text("max\n")
    assert memory.available_bytes() > 13 * MIB


def test_what_is_no_model_is_named(tmp_path: Path, model: Path) -> None:
    with pytest.raises(UserError, match="not a Hugging Face model folder"):
        memory.model_config(tmp_path / "missing")
    with pytest.raises(UserError, match="int8"):
        memory.engine_memory(model, dtype="int8", max_model_len=8, max_num_seqs=1)


@pytest.mark.parametrize("nested", [False, True])
def test_text_may_be_a_part_of_the_model(nested: bool, model: Path) -> None:
    """Models of images have what concerns text in ``text_config``."""
    text = {**CONFIG, "max_position_embeddings": 4096}
    config = {"dtype": "bfloat16", "text_config": text} if nested else text
    (model / "config.json").write_text(json.dumps(config))
    assert memory.text_config(model)["max_position_embeddings"] == 4096
    need = memory.engine_memory(model, dtype="float32", max_model_len=128, max_num_seqs=8)
    assert need.kv_cache == 8 * (128 + 128) * 2048


@pytest.mark.parametrize("config", [{}, {"text_config": {}}, {"text_config": 1}])
def test_a_config_that_says_nothing_gets_one_line(config: dict[str, Any], model: Path) -> None:
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="has no max_position_embeddings"):
        VllmAnswers(model, "float32", VllmRuntime())
    with pytest.raises(UserError, match=r"config.json has no num_attention_heads"):
        memory.kv_cache_bytes_per_token(config, "float32")
