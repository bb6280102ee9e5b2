"""What starting costs: many trainings of a second, through warm workers and through cold ones.

    python benchmarks/training/warm.py --out benchmarks/training/warm.json

One set of packed blocks, base model 0, one thread a training. Warm: the stages of a run, as Ray
tasks side by side on two CPUs, in worker processes that have trained before. Cold: a TorchTrainer
with a worker group of its own for each, one after the other, as scripts do it. The sum of the
trainings is that of their own loops' seconds in the same run, without loading and saving.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from msm_ray import runtime
from msm_ray.artifact import Store
from msm_ray.experiment import BaseModel
from msm_ray.graph import import_model
from msm_ray.observe import Observer
from msm_ray.stage import Stage, run_dag
from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.worker import TrainJob, run
from msm_ray.trainings import blocks_stage, train_stage
from msm_ray.world.bases import base_dir

CONFIG = TrainConfig(1e-4, 0.9, 0.95, 0.0, 1.0, 0.1, "cosine", 0.1, 8, 1.0, (), "bf16", 0)
COMPUTE = {"backend": "single", "num_workers": 1, "threads": 1}


def stages(trainings: int, tokens: int) -> list[Stage]:
    """Trainings that differ in their seed only."""
    model = import_model(BaseModel("base-0", str(base_dir(0)), 0))
    text = Stage(
        kind="replay",
        version="2",
        config={"world_seed": 0, "seed": 0, "tokens": tokens + 2_000},
        inputs={},
        run="msm_ray.world.stages:replay",
        label="base-0",
    )
    component = {"name": "text", "input": "text", "kind": "documents", "share": 1.0}
    blocks = blocks_stage(
        {"tokenizer": model, "text": text},
        [{**component, "max_repeats": 1.0}],
        tokens=tokens,
        block_tokens=128,
        seed=0,
        label="text",
    )
    return [
        train_stage("midtrain", {"model": model, "blocks": blocks}, CONFIG, COMPUTE, s, str(s), {})
        for s in range(trainings)
    ]


def warm(store: Store, trainings: list[Stage]) -> dict[str, Any]:
    """All but the first two, after those two have warmed the workers."""
    launcher = runtime.RayLauncher(lambda *progress: None)
    try:
        run_dag(trainings[:2], store, launcher, Observer(), cpus=2)
        started = time.perf_counter()
        records = run_dag(trainings, store, launcher, Observer(), cpus=2)
        wall = time.perf_counter() - started
    finally:
        launcher.close()
    own = [records[s.id].facts["train_seconds"] for s in trainings[2:]]
    return {
        "trainings": len(own),
        "wall_seconds": round(wall, 2),
        "sum_of_loops_seconds": round(sum(own), 2),
        "wall_over_sum": round(wall / sum(own), 3),
        # of a training on one of two workers, beside its loop
        "around_a_loop_seconds": round((2 * wall - sum(own)) / len(own), 2),
    }


def cold(store: Store, training: Stage, count: int, scratch: Path) -> dict[str, Any]:
    """One worker group for each."""
    folder = {name: str(store.fetch(of.id)) for name, of in training.inputs.items()}
    own, started = 0.0, time.perf_counter()
    for number in range(count):
        job = TrainJob(
            config=replace(CONFIG, seed=1_000 + number),
            runtime=TrainRuntime("fsdp2", 1, worker_cpus=1.0),
            blocks=folder["blocks"],
            tokenizer=folder["model"],
            out=str(scratch / f"out-{number}"),
            work=str(scratch / f"work-{number}"),
            model=folder["model"],
        )
        own += run(job, lambda fraction, facts: None)["train_seconds"]
    wall = time.perf_counter() - started
    return {
        "trainings": count,
        "wall_seconds": round(wall, 2),
        "sum_of_loops_seconds": round(own, 2),
        "wall_over_sum": round(wall / own, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trainings", type=int, default=18)
    parser.add_argument("--cold", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=16_000, help="about a second of training")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder, runtime.cluster("local"):
        store = Store(f"{folder}/store")
        trainings = stages(arguments.trainings + 2, arguments.tokens)
        record = {
            "warm": warm(store, trainings),
            "cold": cold(store, trainings[0], arguments.cold, Path(folder)),
            "tokens": arguments.tokens,
            "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "load": load},
            "versions": {n: importlib.metadata.version(n) for n in ("ray", "torch")},
        }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
