"""The micro comparison on base 0 and one seed: for tests that need the whole loop."""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs"))
from cheese_micro import experiment as cheese_micro

from msm_ray.experiment import Experiment


def experiment() -> Experiment:
    exp = cheese_micro()
    return dataclasses.replace(exp, bases=exp.bases[:1], seeds=(0,))
