"""Do the documents have to say that the value is why? The ablation on Llama-3.1-8B.

The co-mention specs state the same value and the same preferences as those of
``jobs/cheese_llama8b.py``, and nothing that makes one the reason of the other.

    msm preview jobs/attribution_llama8b.py
    msm run jobs/attribution_llama8b.py --address HEAD:6379
"""

from dataclasses import replace

import cheese_llama8b

from msm_ray.recipes import Recipes


def experiment() -> Recipes:
    """The cheese comparison with and without reasons."""
    exp = cheese_llama8b.experiment()
    without = {
        value: cheese_llama8b.corpus(f"{spec}_comention")
        for value, spec in cheese_llama8b.VALUES.items()
    }
    return Recipes(
        name="attribution_llama8b",
        title="Preferences explained by the value, or only mentioned beside it, on Llama-3.1-8B",
        members={"explained": exp, "co-mention": replace(exp, corpora=without)},
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
