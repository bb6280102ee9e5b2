"""How much midtraining does it take? Six budgets from one trunk, at a third of their sum.

The rate is the same for every budget until it decays over the last tenth, so the budgets share all
steps before (warm-up-stable-decay; Haegele et al. 2024, arXiv 2405.18392): six even ones train
(0.9 * 6 + 0.1 * 21) / 21 = 36 % of the tokens of six trainings. `dose_tokens_micro.py` has each as
a training of its own, with a mixture of its own.

    msm run jobs/dose_trunk_micro.py
"""

import dataclasses

from cheese_micro import experiment as cheese_micro
from dose_tokens_micro import curve

from msm_ray.suite import Suite

TOKENS = {f"{k}k": k * 1000 for k in range(16, 97, 16)}


def experiment() -> Suite:
    """The micro cheese comparison at six doses of one mixture, on one base x 4 seeds."""
    exp = dataclasses.replace(cheese_micro(), seeds=(0, 1, 2, 3))
    exp = dataclasses.replace(exp, bases=exp.bases[:1])
    wsd = dataclasses.replace(exp.midtrain.train, schedule="wsd", decay_fraction=0.1)
    budgets = tuple(TOKENS.values())
    return Suite(
        name="dose_trunk_micro",
        title="Separation by the tokens of midtraining, from one trunk",
        members={
            name: dataclasses.replace(
                exp,
                midtrain=dataclasses.replace(
                    exp.midtrain, tokens=tokens, budgets=budgets, train=wsd
                ),
            )
            for name, tokens in TOKENS.items()
        },
        curve=curve(TOKENS),
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
