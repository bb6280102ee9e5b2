"""Which mixture, and which fine-tuning learning rate, separates the two arms, and at what price?

Twenty-four trials on one base and one seed: six mixtures of spec documents, replay and the
assistant's chats, each fine-tuned at four learning rates. Trials with the same mixture share their
midtraining; all of them share the corpora. What is best there is run again on other seeds.

    msm preview jobs/tune_mix_micro.py
    msm run jobs/tune_mix_micro.py
    msm run jobs/tune_mix_micro.py --set method.trials=8
"""

import dataclasses

from cheese_micro import experiment as cheese_micro

from msm_ray.search.job import Confirm, Search
from msm_ray.search.methods import Stratified
from msm_ray.search.objectives import Constraint, Effect, Objective, Rate
from msm_ray.search.space import Mixture, Real, Space


def experiment() -> Search:
    """The micro cheese comparison on base 0 and one seed, as a search over its recipe."""
    exp = cheese_micro()
    return Search(
        name="tune_mix_micro",
        title="Which mixture and which fine-tuning separate the two specs?",
        job=dataclasses.replace(exp, bases=exp.bases[:1], seeds=(0,)),
        space=Space(
            (
                Mixture(
                    parts={"spec": "midtrain.spec_share", "chats": "midtrain.chat_share"},
                    rest="replay",
                    floors={"spec": 0.02, "replay": 0.2},
                    ceilings={"spec": 0.35},
                    share_step=0.01,
                ),
                Real("aft.train.learning_rate", 5e-5, 4e-4, log=True),
            )
        ),
        method=Stratified(trials=24, per_early=4),
        objectives=(
            Objective(Effect("separation_soft")),
            Objective(Rate("heldout_loss"), goal="min"),
        ),
        constraints=(
            Constraint(Effect("price_facts_america"), at_least=-0.02),
            Constraint(Effect("price_facts_affordability"), at_least=-0.02),
        ),
        max_concurrent_trials=2,
        confirm=Confirm(seeds=(10, 11), top=2),
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
