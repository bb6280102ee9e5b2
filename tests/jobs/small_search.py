"""Four trials on base 0 and one seed: two mixtures x two learning rates."""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs"))
from tune_mix_micro import experiment as tune_mix_micro

from msm_ray.search.job import Confirm, Search
from msm_ray.search.methods import Grid
from msm_ray.search.space import Among, Mixtures, Space
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
        name="small_search",
        job=apply_settings(search.job, settings),
        space=Space(
            (
                Mixtures(
                    parts={"spec": "midtrain.spec_share", "chats": "midtrain.chat_share"},
                    rest="replay",
                    values=((0.1, 0.0, 0.9), (0.3, 0.1, 0.6)),
                ),
                Among("aft.train.learning_rate", (1e-4, 3e-4)),
            )
        ),
        method=Grid(),
        constraints=(),
        confirm=Confirm(seeds=(10,)),
    )
