"""One training run as a process of its own, to be killed: ``python driver.py JOB.json``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from msm_ray.train.worker import TrainJob, run


def main() -> None:
    job = TrainJob.from_json(Path(sys.argv[1]).read_text())
    if job.runtime.backend != "single":
        import ray

        options: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 200 * 2**20}
        ray.init(address="local", include_dashboard=False, log_to_driver=False, **options)
    run(job, lambda fraction, facts: None)


if __name__ == "__main__":
    main()
