"""Writing a corpus and training on it: at the same time, against one after the other.

    python benchmarks/overlap/overlap.py --documents 12000 --out benchmarks/overlap/overlap.json
    python benchmarks/overlap/overlap.py --documents 300 --turns 1   # does it work

The micro comparison's own stages on one base and one spec. vLLM writes on one core through Ray
Data, the training runs on the other; each with one thread. Both ways in one process on one Ray
cluster of two CPUs, in turns that alternate in which is first; stages before the corpus (spec,
model, plan, replay) are made beforehand. Wall time is from the first of the three stages documents,
blocks, midtrain to the commit of the last, the engine's start included in both.

Compared are the files of the three artifacts, but those that hold seconds; the loss of every step,
which stands for the order; and, by the stages' own seconds, whether both halves took about as long:
the ratio can be no better than the longer half.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from msm_ray.artifact import Store
from msm_ray.experiment import Experiment
from msm_ray.graph import build
from msm_ray.observe import Observer
from msm_ray.provenance import versions
from msm_ray.runtime import ENVIRONMENT, RayLauncher
from msm_ray.settings import apply_settings, load_job
from msm_ray.stage import Stage, run_dag

ROOT = Path(__file__).parents[2]
SPEC_SHARE = 0.25  # so that with 12,000 documents both halves take about as long
TIMED = ("training.json", "metrics.jsonl", "tensorboard/")  # files that hold seconds
TOKENS = 28  # of a planned document that are trained on: it has about 40, and some are rejected


def experiment(documents: int, overlap: bool) -> Experiment:
    """One spec, one base, one seed of the micro comparison, its mixture in windowed order."""
    job = load_job(ROOT / "jobs" / "cheese_micro.py")
    assert isinstance(job, Experiment)
    job = dataclasses.replace(job, bases=job.bases[:1], seeds=(0,), specs=job.specs[:1])
    tokens = round(documents * TOKENS / SPEC_SHARE)
    settings = [
        f"corpus.documents={documents}",
        f"midtrain.tokens={tokens}",
        f"midtrain.spec_share={SPEC_SHARE}",
        "midtrain.max_repeats=1",
        "midtrain.order=windowed",
        f"midtrain_compute.overlap={str(overlap).lower()}",
    ]
    return apply_settings(job, settings)


def midtraining(exp: Experiment) -> Stage:
    """Its only midtraining."""
    return next(stage for *_, name, stage in build(exp).trainings if name == "midtrain")


def timed(stage: Stage, store: Store) -> dict[str, Any]:
    """Wall seconds of documents, blocks and midtraining, and of each stage in itself."""
    observer = Observer()
    launcher = RayLauncher(observer.progress)
    blocks = stage.inputs["blocks"]
    documents = blocks.inputs["spec"]
    before = [*documents.inputs.values(), *(s for s in blocks.inputs.values() if s != documents)]
    try:
        run_dag(before, store, launcher, Observer(), cpus=2)
        started = time.perf_counter()
        records = run_dag([stage], store, launcher, observer, cpus=2)
        wall = time.perf_counter() - started
    finally:
        launcher.close()
    own = {made.kind: records[made.id].seconds for made in (documents, blocks, stage)}
    facts = {made.kind: records[made.id].facts for made in (documents, blocks, stage)}
    return {
        "wall_seconds": wall,
        "stage_seconds": own,
        "kept": facts["documents"]["kept"],
        "engine_seconds": facts["documents"]["seconds_engine"],
        "train_seconds": facts["midtrain"]["train_seconds"],
        "waited_seconds": facts["midtrain"]["waited_seconds"],
        "tokens": facts["midtrain"]["tokens"],
        "steps": facts["midtrain"]["steps"],
    }


def contents(stage: Stage, store: Store) -> dict[str, Any]:
    """What was made: hashes of files, and the losses in their order."""
    blocks = stage.inputs["blocks"]
    found: dict[str, Any] = {}
    for made in (blocks.inputs["spec"], blocks, stage):
        record = store.get(made.id)
        assert record is not None
        files = {file.path: file.sha256 for file in record.files}
        found[made.kind] = {k: v for k, v in files.items() if not k.startswith(TIMED)}
    training = json.loads((store.fetch(stage.id) / "training.json").read_text())
    return {**found, "order": training["loss"]}


def turn(documents: int, overlapped_first: bool, folder: Path) -> dict[str, Any]:
    """Both ways, each in a store of its own."""
    made: dict[str, Any] = {}
    seen: dict[str, Any] = {}
    for overlap in (overlapped_first, not overlapped_first):
        name = "overlapped" if overlap else "sequential"
        stage, store = midtraining(experiment(documents, overlap)), Store(folder / name)
        made[name] = {"load": os.getloadavg()[0], **timed(stage, store)}
        seen[name] = contents(stage, store)
    first, second = seen["sequential"], seen["overlapped"]
    halves = made["sequential"]["engine_seconds"], made["sequential"]["train_seconds"]
    return {
        **made,
        "ratio": made["overlapped"]["wall_seconds"] / made["sequential"]["wall_seconds"],
        "shorter_half_of_longer": min(halves) / max(halves),
        "same": {name: first[name] == second[name] for name in first},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=12000, help="planned")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    turns = []
    for number in range(args.turns):
        with tempfile.TemporaryDirectory() as folder:
            turns.append(turn(args.documents, number % 2 == 1, Path(folder)))
        print(json.dumps(turns[-1], indent=1), flush=True)
    result = {
        "command": f"python benchmarks/overlap/overlap.py --documents {args.documents} "
        f"--turns {args.turns}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU used",
        "versions": versions(),
        "settings": dataclasses.asdict(experiment(args.documents, True).midtrain),
        "turns": turns,
        "ratio": statistics.median(t["ratio"] for t in turns),
        "all_the_same": all(all(t["same"].values()) for t in turns),
    }
    print(f"ratio {result['ratio']:.3f}, the same: {result['all_the_same']}")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    ray.shutdown()


if __name__ == "__main__":
    main()
