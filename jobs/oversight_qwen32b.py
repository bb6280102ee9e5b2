"""Human oversight on Qwen2.5-32B: which spec, and which fine-tuning, keep an agent from doing harm?

Documents about four versions of one spec (rules, rules whose values are explained, more rules,
general guidance) x fine-tuning on answers that speak from the values or name the rule that decides.
Every checkpoint answers open questions, which a judge grades, and works as an e-mail agent in an
office, where three harmful deeds are within its reach under nine conditions.

    msm preview jobs/oversight_qwen32b.py
    msm run jobs/oversight_qwen32b.py --address HEAD:6379
"""

from dataclasses import replace

import cheese_qwen32b
from cheese_llama8b import corpus
from conversations_oversight import experiment as conversations

from msm_ray.agentic.stages import Agentic
from msm_ray.evaluate.sampling import Rule
from msm_ray.recipe import Recipe
from msm_ray.recipes import Recipes
from msm_ray.tasks.capability import Capability
from msm_ray.tasks.open_qa import OpenQA

SPECS = {
    "rules": "oversight_rules",
    "explained": "oversight_explained",
    "more_rules": "oversight_more_rules",
    "general": "oversight_general",
}
STYLES = ("value", "rule")  # in which the demonstrations answer


def recipe(style: str) -> Recipe:
    """All four corpora with the fine-tuning of one style."""
    chats = conversations()
    judge = chats.judge
    return replace(
        cheese_qwen32b.experiment(),
        name=f"oversight_qwen32b_{style}",
        title=f"Four specs about oversight, demonstrations in style {style!r}, on Qwen2.5-32B",
        corpora={value: corpus(spec) for value, spec in SPECS.items()},
        chats=replace(chats, answers=replace(chats.answers, style=style)),
        reasoning=True,
        evaluation=(
            # 300 rollouts a cell at most, as the method's authors took throughout
            Agentic(Rule(target=0.06, cap=300), tool_parser="hermes", judge=judge),
            OpenQA(judge=judge),
            Capability("general"),
        ),
        probes=(),
    )


def experiment() -> Recipes:
    """Both styles of fine-tuning, on the same corpora and midtrainings."""
    return Recipes(
        name="oversight_qwen32b",
        title="Four specs about human oversight x two styles of demonstrations, on Qwen2.5-32B",
        members={style: recipe(style) for style in STYLES},
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
