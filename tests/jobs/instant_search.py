"""Twelve trials that take no time: four midtrainings, each with three rates."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "search"))
from instant import Instant

from msm_ray.search.job import Confirm, Search
from msm_ray.search.methods import Stratified
from msm_ray.search.objectives import Effect, Objective, Rate
from msm_ray.search.space import Mixture, Real, Space


def experiment() -> Search:
    return Search(
        name="instant_search",
        title="Which share and which rate?",
        job=Instant(),
        space=Space((Mixture({"spec": "share"}, rest="replay"), Real("rate", 0.1, 0.9))),
        method=Stratified(trials=12, per_early=3, early=("share",)),
        objectives=(Objective(Effect("gain")), Objective(Rate("choice", ("aft",)), goal="min")),
        max_concurrent_trials=2,
        confirm=Confirm(seeds=(5, 6), top=2),
    )
