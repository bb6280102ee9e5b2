"""How much midtraining does it take? Five budgets of the same corpora on Llama-3.1-8B.

msm preview jobs/dose_llama8b.py
msm run jobs/dose_llama8b.py --address HEAD:6379
"""

from dataclasses import replace

import cheese_llama8b

from msm_ray.recipes import Recipes

TOKENS = {"256k": 256_000, "1M": 1_000_000, "2M": 2_000_000, "4M": 4_000_000, "8M": 8_000_000}


def experiment() -> Recipes:
    """The cheese comparison at five doses; fine-tuning and evaluation stay as they are."""
    exp = cheese_llama8b.experiment()
    return Recipes(
        name="dose_llama8b",
        title="The cheese comparison by the tokens of midtraining, on Llama-3.1-8B",
        members={
            name: replace(exp, midtrain=replace(exp.midtrain, tokens=tokens))
            for name, tokens in TOKENS.items()
        },
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
