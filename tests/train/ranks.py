"""Several ranks of one machine, without a cluster: ``python ranks.py RANK WORLD_SIZE FILE JOBS``.

Each rank runs the jobs of JOBS (a JSON list of training jobs) in turn in one gloo process group,
which meets at FILE.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from msm_ray.train.worker import TrainJob


def start(world_size: int, jobs: list[TrainJob], folder: Path) -> None:
    """Run ``jobs`` on ``world_size`` ranks, each a process; their output in case of an error."""
    folder.mkdir(parents=True)
    listed = folder / "jobs.json"
    listed.write_text(json.dumps([job.to_json() for job in jobs]))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "LOCAL_SIZE": str(world_size),  # of DeepSpeed's shared-memory collectives
        "PYTHONWARNINGS": "ignore",
    }
    ranks = []
    for rank in range(world_size):
        arguments = [__file__, str(rank), str(world_size), str(folder / "meet"), str(listed)]
        with (folder / f"rank{rank}.log").open("w") as log:
            ranks.append(
                subprocess.Popen(
                    [sys.executable, *arguments],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                )
            )
    try:
        codes = [rank.wait(timeout=500) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert codes == [0] * world_size, "\n".join(
        (folder / f"rank{rank}.log").read_text()[-4000:] for rank in range(world_size)
    )


def main() -> None:
    import torch.distributed as dist

    from msm_ray.train.worker import run_worker

    rank, world_size = int(sys.argv[1]), int(sys.argv[2])
    os.environ["WORLD_SIZE"] = sys.argv[2]
    dist.init_process_group(
        "gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world_size
    )
    for text in json.loads(Path(sys.argv[4]).read_text()):
        run_worker(TrainJob.from_json(text))
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
