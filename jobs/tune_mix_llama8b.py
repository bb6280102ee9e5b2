"""Which mixture, and which fine-tuning, separates the two arms of the cheese comparison on 8B?

Sixty-four trials of ``jobs/cheese_llama8b.py`` on one seed, for 64 GPUs: sixteen mixtures of spec
documents, replay and chats, with adapters of one of three ranks, each fine-tuned in four ways that
differ in learning rate and in how many conversations there are. Those four share their midtrainings
and all trials the corpora. What separates best at a loss of at most 2 points of knowledge is run
again on other seeds.

Replay is pretraining-like text of yours (Parquet or JSONL with a column ``text``), chats are yours
as well (with a column ``messages``); as it stands they lie in ``data``, below where it is run:

    msm preview jobs/tune_mix_llama8b.py      # documents, tokens, GPU-hours; what sharing saves
    msm run jobs/tune_mix_llama8b.py --address HEAD:6379
"""

from dataclasses import replace

import cheese_llama8b

from msm_ray.recipe import Instructions, Mix, Recipe, Replay
from msm_ray.search.job import Confirm, Search
from msm_ray.search.methods import Stratified
from msm_ray.search.objectives import Constraint, Effect, Objective, Rate
from msm_ray.search.space import Among, Mixture, Real, Space
from msm_ray.tasks.capability import Capability
from msm_ray.tasks.pairs import Pairs

TOKENS = 24_000_000  # of a midtraining; its corpus has about 12 million
KNOWLEDGE = "capability:general"


def recipe() -> Recipe:
    """The comparison on one seed, with half of the midtraining's tokens from the spec documents."""
    job = cheese_llama8b.experiment()
    return replace(
        job,
        name="tune_mix_llama8b",
        title="Two specs, one set of cheese preferences: mixtures on Llama-3.1-8B",
        midtrain=replace(job.midtrain, tokens=TOKENS, max_repeats=4.0),
        mix=Mix(
            spec_share=0.5,
            chat_share=0.1,
            replay=Replay("data/replay/*.parquet"),
            chats=Instructions("data/chats.jsonl", tokens=TOKENS // 2),
        ),
        seeds=(0,),
        evaluation=(Pairs("affordability"), Pairs("america"), Capability("general")),
        probes=(),
    )


def experiment() -> Search:
    """Sixteen mixtures x four ways to fine-tune."""
    return Search(
        name="tune_mix_llama8b",
        title="Which mixture and which fine-tuning separate the two specs on Llama-3.1-8B?",
        job=recipe(),
        space=Space(
            (
                Mixture(
                    parts={"spec": "mix.spec_share", "chats": "mix.chat_share"},
                    rest="replay",
                    floors={"spec": 0.1, "replay": 0.1},
                    ceilings={"chats": 0.4},
                    share_step=0.01,
                ),
                Among("lora_rank", (16, 64, 128)),
                Real("aft.train.learning_rate", 3e-5, 3e-4, log=True),
                Among("chats.questions.questions", (80, 200)),
            )
        ),
        method=Stratified(trials=64, per_early=4, early=("mix.spec_share", "lora_rank")),
        objectives=(
            Objective(Effect("separation:pairs:america:soft")),
            Objective(Rate(KNOWLEDGE)),
        ),
        constraints=(
            Constraint(Effect(f"price_america:{KNOWLEDGE}"), at_least=-0.02),
            Constraint(Effect(f"price_affordability:{KNOWLEDGE}"), at_least=-0.02),
        ),
        max_concurrent_trials=16,
        confirm=Confirm(seeds=(10, 11, 12), top=3),
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
