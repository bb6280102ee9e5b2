"""Two trials, one of which asks for more spec documents than there are."""

import dataclasses

from small_search import experiment as small_search

from msm_ray.search.space import Axis
from msm_ray.search.tune import Search
from msm_ray.settings import apply_settings


def experiment() -> Search:
    search = small_search()
    return dataclasses.replace(
        search,
        experiment=apply_settings(search.experiment, ["midtrain.max_repeats=2"]),
        axes=(Axis("midtrain.spec_share", (0.1, 0.9)),),
    )
