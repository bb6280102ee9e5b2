"""The demo's comparison on two bases that were trained after the recipe was frozen.

python jobs/pretrain_micro.py --seeds 3 4 --out fresh-bases
msm run benchmarks/effect/fresh_bases.py
"""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs"))
from cheese_micro import experiment as cheese_micro

from msm_ray.experiment import BaseModel, Experiment

FOLDER = Path(__file__).resolve().parents[2] / "fresh-bases"


def experiment() -> Experiment:
    """Bases 3 and 4 instead of 0 to 2; nothing else differs."""
    bases = tuple(BaseModel(f"base-{s}", str(FOLDER / f"base-{s}"), world_seed=s) for s in (3, 4))
    return dataclasses.replace(cheese_micro(), name="cheese_micro_fresh", bases=bases)
