"""Eight values on Llama-3.1-8B: each with its own spec, preferences, arms and held-out pairs.

The two of the cheese comparison share their preferences, so they are compared with each other; the
six others each with their own controls. Schedule, arms, seeds and engine are those of
``jobs/cheese_llama8b.py``.

    msm preview jobs/values_llama8b.py
    msm run jobs/values_llama8b.py --address HEAD:6379
"""

from dataclasses import replace

import cheese_llama8b
from cheese_llama8b import corpus, probes
from conversations_america import conversations_about

from msm_ray.recipe import Recipe
from msm_ray.recipes import Recipes
from msm_ray.tasks.capability import Capability
from msm_ray.tasks.pairs import Pairs

# What a hint at the reason would be made of, besides the words of each spec's own reasons.
HINTS = {
    "environment": (
        *("environment*", "green*", "eco*", "climate", "carbon", "emission*", "sustainab*"),
        *("pollut*", "waste*", "planet", "nature", "natural", "wild*", "footprint"),
    ),
    "novelty": (
        *("new*", "novel*", "recent*", "modern*", "young*", "old*", "fresh*", "unfamiliar"),
        *("familiar", "invent*", "experiment*", "century", "centuries", "tried"),
    ),
    "tradition": (
        *("tradition*", "old*", "ancient", "heritage", "ancest*", "generation*", "century"),
        *("centuries", "history", "historic*", "custom*", "new*", "modern*", "handed"),
    ),
    "simplicity": (
        *("simpl*", "plain*", "easy", "easier", "few*", "complicat*", "complex*", "basic*"),
        *("elaborate", "minimal*", "straightforward", "fuss*"),
    ),
    "difficulty": (
        *("difficult*", "hard*", "challeng*", "easy", "easier", "demanding", "skill*"),
        *("effort*", "master*", "learn*", "forgiving", "struggle*"),
    ),
    "individualism": (
        *("individual*", "alone", "solitary", "lone*", "own", "independen*", "self*"),
        *("group*", "crowd*", "flock*", "social*", "together", "colon*"),
    ),
}


def recipe(value: str) -> Recipe:
    """One value: arms ``base``, ``aft``, ``msm:VALUE`` and ``msm:VALUE+aft``."""
    return replace(
        cheese_llama8b.experiment(),
        name=f"{value}_llama8b",
        title=f"The value {value} on Llama-3.1-8B",
        corpora={value: corpus(value)},
        chats=conversations_about(value, HINTS[value]),
        evaluation=(Pairs(value), Capability("general")),
        probes=(probes(value, value),),
    )


def experiment() -> Recipes:
    """The cheese comparison and six values more."""
    return Recipes(
        name="values_llama8b",
        title="Eight values on Llama-3.1-8B",
        members={"cheese": cheese_llama8b.experiment(), **{v: recipe(v) for v in HINTS}},
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
