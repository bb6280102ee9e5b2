"""Is it tokens or optimizer steps? The same 200,000 tokens in four batch sizes.

msm run jobs/dose_steps_micro.py
"""

import dataclasses

from cheese_micro import experiment as cheese_micro

from msm_ray.suite import Curve, Suite

STEPS = {"24 steps": 64, "49 steps": 32, "98 steps": 16, "195 steps": 8}  # -> blocks in a batch


def experiment() -> Suite:
    """The micro cheese comparison in four numbers of steps, on one base x 4 seeds."""
    exp = dataclasses.replace(cheese_micro(), seeds=(0, 1, 2, 3))
    exp = dataclasses.replace(exp, bases=exp.bases[:1])
    mid = exp.midtrain
    return Suite(
        name="dose_steps_micro",
        title="Separation by the optimizer steps in which the same tokens are trained on",
        members={
            name: dataclasses.replace(
                exp,
                midtrain=dataclasses.replace(
                    mid, train=dataclasses.replace(mid.train, batch_blocks=blocks)
                ),
            )
            for name, blocks in STEPS.items()
        },
        curve=Curve(
            title="Dose",
            x_title="optimizer steps",
            x={name: float(name.split()[0]) for name in STEPS},
            effects=("separation", "separation_soft", "separation_msm_only_soft"),
        ),
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
