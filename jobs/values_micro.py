"""Does it work for every value? One spec, one fine-tuning and one test for each of six.

The micro-world's things have an origin, a price and an age, so it knows six values. Each has its
own spec; fine-tuning shows the preferences among cheeses that such a spec states, without a reason;
the test sets the value against its rival in twelve held-out domains. American and cheap prefer the
same cheeses, and so do foreign and expensive: there the fine-tuning says nothing about which of the
two it was for.

    msm run jobs/values_micro.py
"""

import dataclasses
from collections.abc import Mapping

from cheese_micro import SPECS
from cheese_micro import experiment as cheese_micro

from msm_ray.experiment import Experiment, SpecArm
from msm_ray.suite import Suite

VALUES = {
    "america": "american",
    "affordability": "cheap",
    "abroad": "foreign",
    "luxury": "expensive",
    "tradition": "old",
    "novelty": "new",
}


def experiment() -> Suite:
    """base, aft, msm:VALUE and msm:VALUE+aft for each value, on one base x 4 seeds."""
    exp = cheese_micro()
    title = "Six values, each with its own spec, fine-tuning and test"
    return suite("values_micro", title, dataclasses.replace(exp, bases=exp.bases[:1]), VALUES)


def suite(name: str, title: str, exp: Experiment, values: Mapping[str, str]) -> Suite:
    """``exp`` with 4 seeds, once for each of ``values``, which are as (the spec's, the task's)."""
    exp = dataclasses.replace(exp, seeds=(0, 1, 2, 3))
    return Suite(
        name=name,
        title=title,
        members={
            spec: dataclasses.replace(
                exp,
                name=f"{name}_{spec}",
                title=f"A spec that values what is {value}",
                specs=(SpecArm(spec, str(SPECS / f"micro_{spec}.md")),),
                aft=dataclasses.replace(exp.aft, value=value),
                evaluation=dataclasses.replace(exp.evaluation, value=value),
            )
            for spec, value in values.items()
        },
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
