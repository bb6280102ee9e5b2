"""Four trials on base 0 and one seed: two mixes x two learning rates."""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs"))
from tune_mix_micro import experiment as tune_mix_micro

from msm_ray.search.space import Axis
from msm_ray.search.tune import Search
from msm_ray.settings import apply_settings


def experiment() -> Search:
    settings = [
        "corpus.writer=scripted",
        "corpus.documents=48",
        "midtrain.tokens=6000",
        "midtrain.max_repeats=50",
        "aft.conversations=32",
        "evaluation.pairs_per_domain=1",
    ]
    search = tune_mix_micro()
    return dataclasses.replace(
        search,
        experiment=apply_settings(search.experiment, settings),
        axes=(
            Axis("midtrain.spec_share", (0.1, 0.3)),
            Axis("aft.train.learning_rate", (1e-4, 3e-4)),
        ),
    )
