"""How much midtraining does it take? Eight budgets of the same mixture.

The batch stays the same, so a longer budget is more optimizer steps too; `dose_steps_micro.py`
tells the two apart. The documents are the same 900 for every budget: the longest one sees each of
them about twice.

    msm run jobs/dose_tokens_micro.py
"""

import dataclasses
from collections.abc import Mapping

from cheese_micro import experiment as cheese_micro

from msm_ray.suite import Curve, Suite

TOKENS = {f"{k}k": k * 1000 for k in (3, 6, 12, 25, 50, 100, 200, 400)}


def experiment() -> Suite:
    """The micro cheese comparison at eight doses, on one base x 4 seeds."""
    exp = dataclasses.replace(cheese_micro(), seeds=(0, 1, 2, 3))
    exp = dataclasses.replace(exp, bases=exp.bases[:1])
    mid = exp.midtrain
    return Suite(
        name="dose_tokens_micro",
        title="Separation by the tokens of midtraining",
        members={
            name: dataclasses.replace(exp, midtrain=dataclasses.replace(mid, tokens=tokens))
            for name, tokens in TOKENS.items()
        },
        curve=curve(TOKENS),
    )


def curve(tokens: Mapping[str, int]) -> Curve:
    """Separation over the tokens of the members."""
    return Curve(
        title="Dose",
        x_title="midtraining tokens",
        x={name: float(n) for name, n in tokens.items()},
        effects=("separation", "separation_soft", "separation_msm_only_soft"),
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
