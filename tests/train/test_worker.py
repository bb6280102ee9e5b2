from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train

from msm_ray.errors import UserError
from msm_ray.train import worker
from msm_ray.train.config import TrainConfig, TrainRuntime
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
    with worker._sigint_kept():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is before
