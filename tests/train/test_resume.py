"""Processes of a run are killed with SIGKILL, and the run ends as if none had been.

Killed at random steps; the seed is printed, so that a failure can be repeated with it. Once each;
three times with ``--long``, and one worker alone too. DeepSpeed, and adapters: test_parity.py.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from msm_ray.manifest import file_sha256
from msm_ray.train.checkpoint import committed, step_of
from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.worker import TrainJob, run

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DRIVER = Path(__file__).with_name("driver.py")
STEPS = 45
EVERY = 4  # steps between two checkpoints of a run that is to be killed
SELDOM = 16  # and of one that is not: two of them stay, the first far from the end
# 12 blocks a step: two and three ranks share them alike
CONFIG = TrainConfig(3e-3, 0.9, 0.95, 0.1, 1.0, 0.1, "cosine", 0.1, 12, 5.0, (), "fp32", 0)


@pytest.fixture
def kill_steps(long: bool) -> list[int]:
    """Steps of the run, far enough from its end to be met."""
    seed = int.from_bytes(os.urandom(4), "little")
    steps = sorted(random.Random(seed).sample(range(2, STEPS - 12), 3 if long else 1))
    print(f"kill after steps {steps} (seed {seed})")
    return steps


@pytest.fixture(scope="module")
def make_job(
    arch: dict[str, Any], blocks_dir: Path, tokenizer_dir: Path, tmp_path_factory: Any
) -> Callable[..., TrainJob]:
    def make(backend: str, workers: int = 1, **runtime: Any) -> TrainJob:
        folder = tmp_path_factory.mktemp("run")
        options = {"checkpoint_steps": EVERY, "worker_cpus": 0.1, "max_failures": 0, **runtime}
        return TrainJob(
            config=CONFIG,
            runtime=TrainRuntime(backend, workers, **options),
            blocks=str(blocks_dir),
            tokenizer=str(tokenizer_dir),
            out=str(folder / "out"),
            work=str(folder / "work"),
            arch=arch,
        )

    return make


def weights(job: TrainJob) -> str:
    return file_sha256(Path(job.out) / "model.safetensors")


def losses(job: TrainJob) -> list[float]:
    values: list[float] = json.loads((Path(job.out) / "training.json").read_text())["loss"]
    return values


def lines(job: TrainJob) -> list[dict[str, Any]]:
    """What the metrics say so far; a line that is being written is left out."""
    path = Path(job.work) / "metrics" / "metrics.jsonl"
    if not path.is_file():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def steps_written(job: TrainJob) -> list[int]:
    return [line["step"] for line in lines(job) if "step" in line and "event" not in line]


def events(job: TrainJob, name: str) -> list[dict[str, Any]]:
    return [line for line in lines(job) if line.get("event") == name]


def wait_for_step(job: TrainJob, step: int, starts: int, alive: Callable[[], bool]) -> None:
    """Until the run has done the step in its ``starts``-th attempt."""
    while alive():
        if len(events(job, "start")) == starts and max(steps_written(job), default=0) >= step:
            return
        time.sleep(0.002)
    pytest.fail(f"the run ended before step {step} of attempt {starts}")


@pytest.fixture(scope="module")
def alone(make_job: Callable[..., TrainJob]) -> TrainJob:
    """The uninterrupted run of one process."""
    job = make_job("single", checkpoint_steps=SELDOM)
    run(job, lambda fraction, facts: None)
    assert len(losses(job)) == STEPS
    return job


@pytest.fixture(scope="module")
def pair(ray_cluster: None, make_job: Callable[..., TrainJob]) -> TrainJob:
    """The uninterrupted run of two ranks."""
    job = make_job("fsdp2", 2, checkpoint_steps=SELDOM)
    run(job, lambda fraction, facts: None)
    assert len(losses(job)) == STEPS
    return job


def check_same_run(job: TrainJob, expected: TrainJob, kill_steps: list[int]) -> None:
    started = [event["step"] for event in events(job, "start")]
    print(f"started after steps {started}")
    assert len(started) == len(kill_steps) + 1
    for step, start in zip(kill_steps, started[1:], strict=True):
        # A step's line comes before its checkpoint. One of those may have been under way; then
        # the one before it was committed.
        assert start >= ((step - 1) // EVERY - 1) * EVERY
    assert weights(job) == weights(expected)
    assert losses(job) == losses(expected)
    assert steps_written(job) == list(range(1, STEPS + 1))  # each once, in order


# ---- the driver ---------------------------------------------------------------------------------


def kill(driver: subprocess.Popen[bytes]) -> None:
    """SIGKILL, and no more: workers have to end by themselves when their driver is gone.

    The scratch of a stage is given to one process at a time, so that the next attempt may begin
    only then. Agents of Ray that stay behind are no part of the run and are removed.
    """
    started = psutil.Process(driver.pid).children(recursive=True)
    workers = [process for process in started if is_worker(process)]
    os.kill(driver.pid, signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    _, still = psutil.wait_procs(workers, timeout=60)
    assert still == []
    for process in started:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def is_worker(process: psutil.Process) -> bool:
    """Whether it is one of Ray Train's workers."""
    try:
        return "RayTrainWorker" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("backend", ["single", "fsdp2"])
def test_a_killed_driver(
    backend: str, make_job: Callable[..., TrainJob], request: Any, kill_steps: list[int]
) -> None:
    expected = request.getfixturevalue("alone" if backend == "single" else "pair")
    job = make_job(backend, 1 if backend == "single" else 2)
    file = Path(job.work).with_name("job.json")
    file.write_text(job.to_json())
    for attempt in range(1, len(kill_steps) + 2):
        driver = subprocess.Popen([sys.executable, str(DRIVER), str(file)])
        if attempt > len(kill_steps):
            assert driver.wait(300) == 0
            break
        wait_for_step(job, kill_steps[attempt - 1], attempt, lambda: driver.poll() is None)  # noqa: B023
        kill(driver)
    check_same_run(job, expected, kill_steps)


# ---- workers ------------------------------------------------------------------------------------


def worker_pids() -> list[int]:
    """Ray Train's workers among the processes that this one started."""
    return [p.pid for p in psutil.Process().children(recursive=True) if is_worker(p)]


@pytest.mark.parametrize("which", [pytest.param("one", marks=pytest.mark.long), "all"])
def test_killed_workers(
    which: str, pair: TrainJob, make_job: Callable[..., TrainJob], kill_steps: list[int]
) -> None:
    """Ray Train starts them again; the driver lives on and notices nothing."""
    job = make_job("fsdp2", 2, max_failures=len(kill_steps))
    thread = threading.Thread(target=run, args=(job, lambda fraction, facts: None))
    thread.start()
    for attempt, step in enumerate(kill_steps, 1):
        wait_for_step(job, step, attempt, thread.is_alive)
        pids = worker_pids()
        assert len(pids) == 2
        for pid in pids if which == "all" else [random.choice(pids)]:
            os.kill(pid, signal.SIGKILL)
    thread.join(300)
    assert not thread.is_alive()
    check_same_run(job, pair, kill_steps)


# ---- another world size -------------------------------------------------------------------------


def continued(job: TrainJob, of: TrainJob, step: int) -> TrainJob:
    """``job``, run on from the checkpoint of ``of`` after ``step``."""
    name = f"step-{step:08d}"
    shutil.copytree(Path(of.work) / "checkpoints" / name, Path(job.work) / "checkpoints" / name)
    run(job, lambda fraction, facts: None)
    assert [event["step"] for event in events(job, "resumed")] == [step]
    return job


@pytest.mark.parametrize(
    ("backend", "workers"),
    [
        pytest.param("fsdp2", 3, id="2 to 3"),
        pytest.param("single", 1, id="2 to one process"),
    ],
)
def test_on_another_world_size(
    backend: str, workers: int, pair: TrainJob, make_job: Callable[..., TrainJob]
) -> None:
    of = pair
    step = step_of(committed(Path(of.work) / "checkpoints")[1])
    job = continued(make_job(backend, workers), of, step)
    difference = np.abs(np.array(losses(job)) - np.array(losses(of)))
    print(f"largest difference of a loss after step {step}: {difference.max():.2e}")
    assert difference[:step].max() == 0
    assert difference.max() < 1e-4


# ---- damage -------------------------------------------------------------------------------------


def test_a_flipped_byte_in_the_newest(pair: TrainJob, make_job: Callable[..., TrainJob]) -> None:
    job = make_job("fsdp2", 2)
    checkpoints = Path(job.work) / "checkpoints"
    shutil.copytree(Path(pair.work) / "checkpoints", checkpoints)
    newest, before = committed(checkpoints)
    file = max(newest.glob("*.distcp"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    file.write_bytes(bytes(data))
    run(job, lambda fraction, facts: None)
    assert [event["checkpoint"] for event in events(job, "damaged")] == [newest.name]
    assert [event["step"] for event in events(job, "resumed")] == [step_of(before)]
    assert weights(job) == weights(pair)
    assert losses(job) == losses(pair)
