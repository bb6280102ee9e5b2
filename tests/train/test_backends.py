"""FSDP2 as AFT uses it, and one process inside a Ray task; all backends: test_parity.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.pretrain import pretrain

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def run20(config_module: TrainConfig) -> TrainConfig:
    """Some twenty steps whose last batch is not full."""
    return replace(config_module, epochs=1.5)


@pytest.fixture(scope="module")
def config_module() -> TrainConfig:
    return TrainConfig(3e-3, 0.9, 0.95, 0.1, 1.0, 0.1, "cosine", 0.1, 8, 1.0, (), "fp32", 0)


@pytest.fixture(scope="module")
def run(arch: dict[str, Any], blocks_dir: Path, tokenizer_dir: Path, tmp_path_factory: Any) -> Any:
    def start(config: TrainConfig, **runtime: Any) -> tuple[dict[str, Any], Path]:
        out = tmp_path_factory.mktemp("out")
        pretrain(
            arch,
            blocks_dir,
            config,
            tokenizer_dir=tokenizer_dir,
            block_tokens=32,
            out=out,
            runtime=TrainRuntime(**runtime),
        )
        return json.loads((out / "training.json").read_text()), out

    return start


@pytest.fixture(scope="module")
def reference(run: Any, run20: TrainConfig) -> tuple[dict[str, Any], Path]:
    result: tuple[dict[str, Any], Path] = run(run20)
    return result


@pytest.mark.slow
def test_fsdp2_with_frozen_embeddings_in_bf16(
    ray_cluster: None, run: Any, run20: TrainConfig
) -> None:
    """As AFT runs: frozen parameters among trained ones, and reduced precision."""
    config = replace(run20, freeze=("embeddings",), precision="bf16")
    alone, start = run(config)
    record, out = run(config, backend="fsdp2", num_workers=2)
    np.testing.assert_allclose(record["loss"], alone["loss"], atol=5e-3)
    name = "model.embed_tokens.weight"
    frozen = [load_file(folder / "model.safetensors")[name] for folder in (start, out)]
    assert frozen[0].equal(frozen[1])


def test_one_worker_runs_inside_a_ray_task(
    ray_cluster: None, run20: TrainConfig, arch: dict[str, Any], blocks_dir: Path,
    tokenizer_dir: Path, tmp_path: Path, reference: tuple[dict[str, Any], Path],
) -> None:  # fmt: skip
    import ray

    @ray.remote(num_cpus=1)
    def task() -> dict[str, Any]:
        return pretrain(
            arch,
            blocks_dir,
            run20,
            tokenizer_dir=tokenizer_dir,
            block_tokens=32,
            out=tmp_path / "out",
            runtime=TrainRuntime(),
        )

    facts = ray.get(task.remote())
    assert facts["loss_last"] == reference[0]["loss"][-1]
