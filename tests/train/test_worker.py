from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train.torch
import torch

from msm_ray.errors import UserError
from msm_ray.terminal import sigint_kept
from msm_ray.train import worker
from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.pretrain import pretrain
from msm_ray.train.watch import TrainingDiverged
from msm_ray.train.worker import TrainJob


@pytest.fixture
def job(config: TrainConfig) -> TrainJob:
    return TrainJob(
        config=config,
        runtime=TrainRuntime("fsdp2", 2),
        blocks="blocks",
        tokenizer="tokenizer",
        out="out",
        work="work",
        arch={"hidden_size": 32},
    )


def test_a_job_survives_the_trip_to_a_worker(job: TrainJob) -> None:
    assert TrainJob.from_json(job.to_json()) == job


@pytest.mark.parametrize("error", [UserError("too long"), TrainingDiverged("step 3: loss nan")])
def test_a_runs_own_error_is_handed_back_not_retried(
    job: TrainJob, error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """What Ray Train sees raised it starts again, ``max_failures`` times."""

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(worker, "run_worker", fail)
    context = SimpleNamespace(get_world_rank=lambda: 0)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    value = worker._ray_worker({"job": job.to_json(), "progress": str(tmp_path / "progress.json")})
    with pytest.raises(type(error), match=str(error)):
        worker._result(SimpleNamespace(return_value=value))


def test_workers_of_deepspeed_are_told_the_device() -> None:
    on_cpu = worker._worker_environment(TrainRuntime("deepspeed", 2, threads=3))["env_vars"]
    assert (on_cpu["DS_ACCELERATOR"], on_cpu["OMP_NUM_THREADS"]) == ("cpu", "3")
    on_gpu = worker._worker_environment(TrainRuntime("deepspeed", 2, use_gpu=True))["env_vars"]
    assert "DS_ACCELERATOR" not in on_gpu


def test_ctrl_c_is_the_callers_again_after_a_run() -> None:
    before = signal.getsignal(signal.SIGINT)
    with sigint_kept():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_gpu_that_is_not_there_is_said(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = replace(job, runtime=TrainRuntime(use_gpu=True), work=str(tmp_path))
    with pytest.raises(UserError, match="use_gpu is true, and torch finds no GPU here"):
        worker.run(here, lambda fraction, facts: None)


def test_a_cluster_that_is_too_small_is_said_not_waited_for(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
    for more, words in (
        ({"threads": 2}, "2 workers need 4 CPUs, the cluster has 2; use fewer"),
        ({"use_gpu": True}, "2 workers need 2 GPUs, the cluster has 1; use fewer"),
    ):
        large = replace(job, runtime=TrainRuntime("fsdp2", 2, **more), work=str(tmp_path))
        with pytest.raises(UserError, match=words):
            worker.run(large, lambda fraction, facts: None)
    worker.check_devices(TrainRuntime("fsdp2", 2))


def test_busy_gpus_are_waited_for(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Train's own limit is a minute, and then the stage would have failed."""
    from ray.train.v2._internal.constants import (
        WORKER_GROUP_START_TIMEOUT_S_ENV_VAR,
        get_env_vars_to_propagate,
    )

    told: dict[str, str] = {}

    class Trainer:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def fit(self) -> Any:
            told.update(get_env_vars_to_propagate())
            return SimpleNamespace(return_value={"steps": 1})

    monkeypatch.setenv(WORKER_GROUP_START_TIMEOUT_S_ENV_VAR, "60")
    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Trainer)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert worker.run(replace(job, work=str(tmp_path)), lambda *_: None) == {"steps": 1}
    assert float(told[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR]) > 24 * 3600


@pytest.mark.ray
def test_one_worker_runs_inside_a_ray_task(
    ray_cluster: None,
    arch: dict[str, Any],
    blocks_dir: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    config: TrainConfig,
) -> None:
    """As stages do; with the losses that it has here."""

    def losses(out: Path) -> list[float]:
        runtime = TrainRuntime()
        places = {"tokenizer_dir": tokenizer_dir, "block_tokens": 32, "out": out}
        pretrain(arch, blocks_dir, config, runtime=runtime, **places)
        found: list[float] = json.loads((out / "training.json").read_text())["loss"]
        return found

    there = ray.get(ray.remote(num_cpus=1)(losses).remote(tmp_path / "there"))
    assert there == losses(tmp_path / "here")
