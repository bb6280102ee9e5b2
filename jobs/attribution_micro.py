"""Do the documents have to say that the value is why? An ablation of attribution.

In both members the documents state the value and tell of the preferences. In one a preference is
given the value as its reason; in the other nothing connects the two.

    msm run jobs/attribution_micro.py
"""

import dataclasses

from cheese_micro import experiment as cheese_micro

from msm_ray.suite import Suite


def experiment() -> Suite:
    """The micro cheese comparison with and without reasons, on 2 bases x 4 seeds."""
    exp = dataclasses.replace(cheese_micro(), seeds=(0, 1, 2, 3))
    exp = dataclasses.replace(exp, bases=exp.bases[:2])
    without = dataclasses.replace(exp.corpus, content="co-mention")
    return Suite(
        name="attribution_micro",
        title="Preferences explained by the value, or only mentioned beside it",
        members={
            "explained": exp,
            "co-mention": dataclasses.replace(exp, corpus=without),
        },
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
