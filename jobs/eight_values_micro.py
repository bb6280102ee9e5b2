"""Does it work for every value? One spec, one fine-tuning and one test for each of eight.

Things in this world have a fourth attribute besides their origin, price and age: they are simple or
difficult. A base model of its own was pretrained in it. All else is as in values_micro: each value
has its own spec; fine-tuning shows the preferences among cheeses that such a spec states, without a
reason; the test sets the value against its rival in twelve held-out domains. American and cheap
prefer the same cheeses, and so do foreign and expensive; the other four are told apart by them.

    msm run jobs/eight_values_micro.py
"""

import dataclasses

from cheese_micro import experiment as cheese_micro
from values_micro import VALUES as SIX
from values_micro import suite

from msm_ray.experiment import BaseModel
from msm_ray.suite import Suite
from msm_ray.world.bases import base_dir

VALUES = {**SIX, "simplicity": "simple", "difficulty": "difficult"}
BASE = BaseModel("base-3", str(base_dir(3, attributes=4)), world_seed=3, attributes=4)


def experiment() -> Suite:
    """base, aft, msm:VALUE and msm:VALUE+aft for each value, on one base x 4 seeds."""
    title = "Eight values, each with its own spec, fine-tuning and test"
    exp = dataclasses.replace(cheese_micro(), bases=(BASE,))
    return suite("eight_values_micro", title, exp, VALUES)


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
