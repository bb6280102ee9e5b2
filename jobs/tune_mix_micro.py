"""Which share of spec documents, and which fine-tuning learning rate, separates the two arms?

Eight trials on one base: four mixes x two learning rates. Trials with the same mix share their
midtraining; all of them share the corpora.

    msm run jobs/tune_mix_micro.py
"""

import dataclasses

from cheese_micro import experiment as cheese_micro

from msm_ray.search.space import Axis
from msm_ray.search.tune import Search


def experiment() -> Search:
    """The micro cheese comparison on base 0 and one seed, as a search over its recipe."""
    exp = cheese_micro()
    return Search(
        name="tune_mix_micro",
        experiment=dataclasses.replace(exp, bases=exp.bases[:1], seeds=(0,)),
        axes=(
            Axis("midtrain.spec_share", (0.02, 0.05, 0.15, 0.3)),
            Axis("aft.train.learning_rate", (1e-4, 4e-4)),
        ),
        metric="separation_soft",
        max_concurrent_trials=2,
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
