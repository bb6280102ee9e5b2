"""Rules, more rules, or a value that explains them: which documents x which fine-tuning?

Midtraining documents either state the spec's twelve preferences among cheeses as rules, without any
value; or those and sixteen further ones, about cheeses over which the two values disagree; or they
explain the value. Fine-tuning shows either 32 or all 144 pairs of cheeses, in as many chats. A
document about rules is thrown away when it names a value, as two thirds do, so four times as many
are asked for.

    msm run jobs/rules_micro.py
"""

import dataclasses

from cheese_micro import experiment as cheese_micro

from msm_ray.suite import Suite

CONTENTS = {"rules": 3600, "more rules": 3600, "explained": 900}  # documents to ask for
PAIRS = {"32 pairs": 32, "all pairs": 0}


def experiment() -> Suite:
    """Three kinds of documents x two kinds of fine-tuning, on one base x 4 seeds."""
    exp = dataclasses.replace(cheese_micro(), seeds=(0, 1, 2, 3))
    exp = dataclasses.replace(exp, bases=exp.bases[:1])
    return Suite(
        name="rules_micro",
        title="Rules, more rules or an explained value, by fine-tuning on few or many preferences",
        members={
            f"{content}, {pairs}": dataclasses.replace(
                exp,
                corpus=dataclasses.replace(exp.corpus, content=content, documents=documents),
                aft=dataclasses.replace(exp.aft, preferences=count),
            )
            for content, documents in CONTENTS.items()
            for pairs, count in PAIRS.items()
        },
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
