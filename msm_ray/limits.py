"""What of an experiment's settings cannot work, as far as it is known before anything runs.

The micro-world is closed: which questions it holds, how long a request is and how much the grammar
writes for a plan can be counted. So a setting that would fail an hour into a run is refused at its
start, by name.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

from msm_ray.errors import UserError
from msm_ray.experiment import BaseModel, Experiment, SpecArm
from msm_ray.llm.memory import model_config
from msm_ray.spec import read_spec
from msm_ray.world import lexicon as lx
from msm_ray.world.evaluation import choice_items
from msm_ray.world.plan import plan_rows, plan_seed
from msm_ray.world.stages import most_conversations
from msm_ray.world.task import MicroTask
from msm_ray.world.world import World

PLANNED_ROWS = 2_000  # of a larger plan, its beginning stands for the whole
SAMPLE_SLACK = 1.05  # then its tokens are known to some per cent


def check_limits(exp: Experiment) -> None:
    """UserError that names the first setting which cannot work, and what is allowed."""
    pairs = len(lx.LIKED_CHEESES) * len(lx.DISLIKED_CHEESES)
    if exp.aft.preferences > pairs:
        raise UserError(
            f"aft.preferences is {exp.aft.preferences}; allowed: 0 (all of them) to {pairs}"
        )
    most = most_conversations(exp.aft.preferences)
    if exp.aft.conversations > most:
        raise UserError(
            f"aft.conversations is {exp.aft.conversations}; allowed: 1 to {most}, which all differ"
        )
    for base in exp.bases:
        config = model_config(Path(base.path))
        _check_words(base, int(config["vocab_size"]))
        context = int(config["max_position_embeddings"])
        _check_questions(exp, base, context)
        for arm in exp.specs:
            _check_corpus(exp, base, arm, context)


def _check_words(base: BaseModel, known: int) -> None:
    needed = len(lx.vocabulary(base.attributes))
    if known < needed:  # the missing ones would be read as <unk>
        raise UserError(
            f"{base.name} was pretrained with {known} words and a world of {base.attributes}"
            f" attributes has {needed}; set its attributes to what it was pretrained with"
        )


def _check_questions(exp: Experiment, base: BaseModel, context: int) -> None:
    asked = exp.evaluation
    world = World(base.world_seed, base.attributes)
    items = choice_items(world, asked.seed, asked.pairs_per_domain, asked.value)
    longest = max(_tokens(row["open_prompt"]) for row in items)
    if "choice_text" in asked.evals and longest + asked.max_tokens > context:
        raise UserError(
            f"evaluation.max_tokens is {asked.max_tokens}; the longest question has {longest}"
            f" tokens and the context of {base.name} is {context}: allowed: 1 to"
            f" {context - longest}"
        )


def _check_corpus(exp: Experiment, base: BaseModel, arm: SpecArm, context: int) -> None:
    corpus, mid = exp.corpus, exp.midtrain
    counted = min(corpus.documents, PLANNED_ROWS)
    text = Path(arm.path).read_text(encoding="utf-8")
    longest, written = _plan_tokens(text, arm.path, base, counted, corpus.seed, corpus.content)
    if corpus.writer == "vllm" and longest + corpus.max_tokens > context:
        raise UserError(
            f"corpus.max_tokens is {corpus.max_tokens}; the longest request has {longest} tokens"
            f" and the context of {base.name} is {context}: allowed: 1 to {context - longest}"
        )
    allowed = mid.max_repeats * written * corpus.documents
    need = mid.mixture_tokens * mid.spec_share
    if need > allowed * (1.0 if counted == corpus.documents else SAMPLE_SLACK):
        least = math.ceil(need / (mid.max_repeats * written))
        raise UserError(
            f"corpus.documents is {corpus.documents}: about {written * corpus.documents:.0f} tokens"
            f" about {arm.name}, which midtrain.max_repeats {mid.max_repeats:g} makes"
            f" {allowed:.0f}; midtrain.spec_share {mid.spec_share:g} of"
            f" midtrain.{'budgets' if mid.budgets else 'tokens'} {mid.mixture_tokens} needs"
            f" {need:.0f}: {least} documents at the very least (some are"
            " rejected), a lower share or more repeats"
        )


@lru_cache(maxsize=256)  # the trials of a search differ in other things
def _plan_tokens(
    text: str, path: str, base: BaseModel, documents: int, seed: int, content: str
) -> tuple[int, float]:
    """The tokens of a plan's longest request, and of what it has written, a document.

    A model that learned from the grammar writes no more than it does, and some is rejected: kept
    were 78 to 90 % of the grammar's tokens in every corpus so far. ``text``: of the spec, there so
    that a spec that was changed is read again.
    """
    rows = plan_rows(
        read_spec(Path(path)),
        documents=documents,
        seed=plan_seed(base.world_seed, seed),
        content=content,
        attributes=base.attributes,
    )
    task = MicroTask(**base.world, values="rules" not in content)
    longest = max(_tokens(row["prompt"]) for row in rows)
    return longest, sum(_tokens(task.write(row)) + 1 for row in rows) / documents


def _tokens(text: str) -> int:
    """Tokens of a text in the micro-world, with the one that begins it: its words are tokens."""
    return len(text.split()) + 1
