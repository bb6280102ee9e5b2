"""Two trials on one trunk each, measured after 8 and after 16 steps; one of two goes on."""

import dataclasses

from small_search import experiment as small_search

from msm_ray.search.halving import Halving
from msm_ray.search.job import Search
from msm_ray.search.space import Among, Space
from msm_ray.settings import apply_settings


def experiment() -> Search:
    search = small_search()
    job = apply_settings(
        search.job,
        ["midtrain.train.schedule=wsd", "midtrain.train.decay_fraction=0.25"],
    )
    return dataclasses.replace(
        search,
        job=job,
        space=Space((Among("midtrain.spec_share", (0.1, 0.3, 0.5)),)),
        max_concurrent_trials=1,
        halving=Halving(rungs=(8, 16), keep=0.5),
        confirm=None,
    )
