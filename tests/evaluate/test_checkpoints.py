from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from msm_ray.errors import UserError
from msm_ray.evaluate.checkpoints import read_checkpoint
from msm_ray.evaluate.engine_settings import (
    BLOCK_TOKENS,
    EngineSettings,
    kv_cache_bytes,
    rank_reserved,
)


def test_adapters_of_one_base_share_an_architecture(
    models: dict[str, Path], adapters: list[Path]
) -> None:
    read = [read_checkpoint(folder, models["a"]) for folder in adapters]
    base = read_checkpoint(models["a"])
    assert {c.architecture for c in read} == {f"adapters over {base.key}"}
    assert len({c.key for c in read}) == len(read)
    assert [c.rank for c in read] == [8, 8, 8, 8, 16, 8]
    assert all(c.base == base and c.context == base.context for c in read)
    # a base is nothing to a whole model
    assert read_checkpoint(models["b"], models["a"]) == read_checkpoint(models["b"])


def test_the_key_of_an_adapter_is_its_content(
    models: dict[str, Path], adapters: list[Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(adapters[0], tmp_path / "copy")
    one, other = (read_checkpoint(folder, models["a"]) for folder in (adapters[0], copy))
    assert one.key == other.key
    data = bytearray((copy / "adapter_model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "adapter_model.safetensors").write_bytes(data)
    assert read_checkpoint(copy, models["a"]).key != one.key


def test_an_adapter_without_its_base_is_refused(
    models: dict[str, Path], adapters: list[Path]
) -> None:
    with pytest.raises(UserError, match="the folder of the model below it is needed"):
        read_checkpoint(adapters[0])
    with pytest.raises(UserError, match=r"was trained on another model than .*b"):
        read_checkpoint(adapters[0], models["b"])
    with pytest.raises(UserError, match="an adapter itself"):
        read_checkpoint(adapters[0], adapters[1])


def test_a_base_of_another_shape_is_refused_without_its_fingerprint_too(
    models: dict[str, Path], adapters: list[Path], tmp_path: Path
) -> None:
    foreign = shutil.copytree(adapters[0], tmp_path / "foreign")
    (foreign / "base.json").unlink()  # as PEFT alone writes it
    assert read_checkpoint(foreign, models["a"]).rank == 8
    assert read_checkpoint(foreign, models["b"]).rank == 8  # the engine's proof finds that out
    with pytest.raises(UserError, match=r"has shape \[128, 8\], .*wide has \[96, 192\] there"):
        read_checkpoint(foreign, models["wide"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora cannot be served"),
        ({"bias": "all"}, "bias cannot be served"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save cannot be served"),
        ({"r": 1000}, "rank 1000; allowed: 1 to 512"),
    ],
)
def test_adapters_that_vllm_does_not_serve_are_refused(
    change: dict[str, Any],
    message: str,
    models: dict[str, Path],
    adapters: list[Path],
    tmp_path: Path,
) -> None:
    copy = shutil.copytree(adapters[0], tmp_path / "copy")
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=message):
        read_checkpoint(copy, models["a"])


def test_an_adapter_of_the_output_head_is_refused(
    models: dict[str, Path], adapters: list[Path], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(adapters[0], tmp_path / "copy")
    weights = load_file(copy / "adapter_model.safetensors")
    weights["base_model.model.lm_head.lora_A.weight"] = torch.zeros(8, 128)
    save_file(weights, copy / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"lm_head.* adapters go beside layers only"):
        read_checkpoint(copy, models["a"])


def test_half_a_folder_is_refused(
    models: dict[str, Path], adapters: list[Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(adapters[0], tmp_path / "copy")
    (copy / "fingerprint.json").unlink()
    with pytest.raises(UserError, match=r"fingerprint\.json: cannot be read"):
        read_checkpoint(copy, models["a"])
    (copy / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="not a safetensors file"):
        read_checkpoint(copy, models["a"])
    (copy / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no adapter_model\.safetensors"):
        read_checkpoint(copy, models["a"])


def test_the_cache_holds_twice_as_much_in_half_the_bytes(models: dict[str, Path]) -> None:
    checkpoint = read_checkpoint(models["a"])
    tight = EngineSettings(kv_mib=1, max_num_seqs=64)
    assert kv_cache_bytes(checkpoint, tight) <= 2**20
    room = EngineSettings(kv_mib=1000, max_num_seqs=4)
    block = BLOCK_TOKENS * checkpoint.kv_bytes_per_token
    assert kv_cache_bytes(checkpoint, room) == (4 * 128 // BLOCK_TOKENS + 1) * block
    half = EngineSettings(kv_mib=1000, max_num_seqs=4, dtype="bfloat16")
    assert 2 * kv_cache_bytes(checkpoint, half) == kv_cache_bytes(checkpoint, room)


def test_settings_say_what_is_allowed() -> None:
    assert EngineSettings().precision == "float32"
    assert EngineSettings(gpus=1).precision == "bfloat16"
    assert EngineSettings(gpus=1, dtype="float32").precision == "float32"
    assert EngineSettings(gpus=1).atol > EngineSettings().atol
    for wrong in ({"dtype": "int8"}, {"gpus": 1.5}, {"gpus": -1}, {"max_adapters": 0}):
        with pytest.raises(UserError, match=rf"engine {next(iter(wrong))} is .*allowed"):
            EngineSettings(**wrong)


def test_reserved_ranks_are_those_that_vllm_knows() -> None:
    assert [rank_reserved(r) for r in (0, 1, 8, 9, 64, 65, 512)] == [0, 8, 8, 16, 64, 128, 512]


def test_a_parser_of_tool_calls_that_vllm_has_not_is_told_at_once() -> None:
    from msm_ray.agentic.stages import Agentic
    from msm_ray.evaluate.sampling import Rule

    Agentic(Rule(target=0.1), tool_parser="hermes")
    with pytest.raises(UserError, match="tool parser 'nope': vLLM has none.* hermes, "):
        Agentic(Rule(target=0.1), tool_parser="nope")
