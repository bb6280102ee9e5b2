"""A dose curve of six budgets: from one trunk, against six trainings of their own.

    python benchmarks/search/dose_trunk.py --out benchmarks/search/dose_trunk.json
    python benchmarks/search/dose_trunk.py --seeds 1 --writer scripted --no-evaluation  # small

The micro comparison on one base, its members those of `jobs/dose_trunk_micro.py`. Separately: the
same budgets, schedule and decay, each with a mixture of its own and a warm-up of its own, as the
job is without ``budgets``. Base, corpora and AFT data are made beforehand; then mixtures, trunks
and midtrainings of either way, in one process on one Ray cluster of two CPUs, one thread each.

1. Tokens that were trained on and wall seconds, of both.
2. Each branch against a training in one go over the same blocks: are weights and losses the same?
3. Separation by budget, both ways, from reports of the whole job.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from msm_ray.artifact import Store
from msm_ray.observe import Observer, cost_summary
from msm_ray.provenance import versions
from msm_ray.runtime import ENVIRONMENT, RayLauncher
from msm_ray.settings import load_job
from msm_ray.stage import Stage, run_dag, topological
from msm_ray.suite import Suite

ROOT = Path(__file__).parents[2]
KINDS = ("blocks", "trunk", "midtrain")
EFFECTS = ("separation", "separation_soft", "separation_msm_only_soft")


def suite(args: argparse.Namespace, trunk: bool, first_seed: int = 0) -> Suite:
    """The six doses, from one trunk or each by itself; or the first ones of them."""
    job = load_job(ROOT / "jobs" / "dose_trunk_micro.py")
    assert isinstance(job, Suite)
    assert job.curve is not None
    doses = dict(list(job.curve.x.items())[: args.doses])
    budgets = tuple(int(tokens) for tokens in doses.values()) if trunk else ()
    members = {
        name: dataclasses.replace(
            exp,
            seeds=tuple(range(first_seed, first_seed + args.seeds)),
            corpus=dataclasses.replace(exp.corpus, writer=args.writer),
            midtrain=dataclasses.replace(exp.midtrain, budgets=budgets),
        )
        for name, exp in job.members.items()
        if name in doses
    }
    curve = dataclasses.replace(job.curve, x=doses)
    name = "trunk" if trunk else "separate"
    return dataclasses.replace(job, name=name, members=members, curve=curve)


def midtrainings(job: Suite) -> list[Stage]:
    """Each once, of all members."""
    found = (t[4] for graph in job.graphs().values() for t in graph.trainings if t[3] == "midtrain")
    return list({stage.id: stage for stage in found}.values())


def in_one_go(branch: Stage) -> Stage:
    """The training of a branch's budget over the same blocks, without a trunk."""
    return dataclasses.replace(
        branch,
        config={**branch.config, "segment": {**branch.config["segment"], "start": 0}},
        inputs={name: of for name, of in branch.inputs.items() if name != "trunk"},
        label=f"{branch.label} in one go",
    )


def timed(wanted: list[Stage], store: Store) -> dict[str, Any]:
    """What making ``wanted`` takes, with all that is missing below them."""
    launcher = RayLauncher(lambda *progress: None)
    try:
        started = time.perf_counter()
        records = run_dag(wanted, store, launcher, Observer(), cpus=2)
        wall = time.perf_counter() - started
    finally:
        launcher.close()
    made = [records[s.id] for s in topological(wanted) if s.kind in KINDS]
    costs = cost_summary([(record, False) for record in made])
    return {
        "load": os.getloadavg()[0],
        "stages": {kind: sum(r.kind == kind for r in made) for kind in KINDS},
        "tokens_trained": costs["tokens_trained"],
        "steps_trained": sum(r.facts["steps_new"] for r in made if "steps_new" in r.facts),
        "loop_seconds": round(sum(r.facts.get("train_seconds_new", 0.0) for r in made), 2),
        "stage_seconds": {k: round(v, 2) for k, v in costs["seconds_by_kind"].items()},
        "wall_seconds": round(wall, 2),
    }


def left(stage: Stage, store: Store) -> tuple[dict[str, str], list[float]]:
    """Hashes of a training's weights, and the loss of every step."""
    record = store.get(stage.id)
    assert record is not None
    weights = {f.path: f.sha256 for f in record.files if f.path.endswith(".safetensors")}
    training = json.loads((store.fetch(stage.id) / "training.json").read_text())
    return weights, training["loss"]


def compared(branches: list[Stage], store: Store) -> dict[str, Any]:
    """Each branch beside the same training in one go."""
    whole = [in_one_go(branch) for branch in branches]
    launcher = RayLauncher(lambda *progress: None)
    try:
        run_dag(whole, store, launcher, Observer(), cpus=2)
    finally:
        launcher.close()
    pairs = [(left(one, store), left(two, store)) for one, two in zip(branches, whole, strict=True)]
    return {
        "pairs": len(pairs),
        "same_weights": sum(one[0] == two[0] for one, two in pairs),
        "same_losses": sum(one[1] == two[1] for one, two in pairs),
    }


def separations(job: Suite, store: Path) -> dict[str, Any]:
    """Effects by budget, from the report of the whole job."""
    effects = job.run(str(store)).report["effects"]
    return {
        effect: {
            member: {
                "value": effects[f"{effect}@{member}"]["value"],
                "ci95": effects[f"{effect}@{member}"]["ci95"],
                "per_seed": [s["value"] for s in effects[f"{effect}@{member}"]["per_seed"]],
            }
            for member in job.members
        }
        for effect in EFFECTS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--doses", type=int, default=6, help="only the smallest ones")
    parser.add_argument("--writer", choices=("vllm", "scripted"), default="vllm")
    parser.add_argument("--no-evaluation", action="store_true", help="without separations")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jobs = {way: suite(args, way == "trunk") for way in ("trunk", "separate")}
    wanted = {way: midtrainings(job) for way, job in jobs.items()}
    result: dict[str, Any] = {
        "command": f"python benchmarks/search/dose_trunk.py --seeds {args.seeds} --doses"
        f" {args.doses} --writer {args.writer}{' --no-evaluation' * args.no_evaluation}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU used",
        "versions": versions(),
        "midtrain": dataclasses.asdict(next(iter(jobs["trunk"].members.values())).midtrain),
    }
    with tempfile.TemporaryDirectory() as folder:
        store = Store(str(Path(folder) / "store"))
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        everything = topological([stage for stages in wanted.values() for stage in stages])
        timed([s for s in everything if s.kind not in KINDS], store)
        # Another seed's, of both specs: workers that have trained before, on either side.
        timed(midtrainings(suite(args, False, first_seed=args.seeds))[:2], store)
        for way, stages in wanted.items():
            result[way] = timed(stages, store)
            print(way, json.dumps(result[way]), flush=True)
        for quantity in ("tokens_trained", "loop_seconds", "wall_seconds"):
            ratio = result["trunk"][quantity] / result["separate"][quantity]
            result[f"ratio_{quantity}"] = round(ratio, 4)
        result["in_one_go"] = compared(wanted["trunk"], store)
        ray.shutdown()
        print({k: v for k, v in result.items() if k.startswith(("ratio", "in_one"))}, flush=True)
        if not args.no_evaluation:
            result["separation"] = {
                way: separations(job, Path(folder) / "store") for way, job in jobs.items()
            }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
