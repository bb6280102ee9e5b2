"""The stages of conversations: a spec becomes questions, questions become conversations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.chat import opaque
from msm_ray.chat.answering import Answering
from msm_ray.chat.config import AnswerConfig, QuestionConfig
from msm_ray.chat.questions import plan_questions
from msm_ray.chat.screening import ChatScreen
from msm_ray.chat.tables import QUESTION_SCHEMA
from msm_ray.chat.verdicts import schema_text
from msm_ray.corpus.making import (
    counts_of,
    draft_progress,
    drafted,
    items_of,
    judge,
    level_check,
    level_progress,
    source,
    spec_of,
)
from msm_ray.corpus.naming import Identity
from msm_ray.errors import UserError
from msm_ray.execute import StageContext
from msm_ray.llm.model import answers_at, price_at
from msm_ray.spec import fill, rules

_LEVELS = 2  # of questions, for progress


def questions(ctx: StageContext) -> dict[str, Any]:
    """Make the questions of conversations.

    Config: ``questions`` (`QuestionConfig`), ``planner``, ``prompts`` (their fingerprint),
    ``title`` (see `spec_of`). Inputs:
    ``spec`` and, where there are evaluation items, ``items``. Writes questions.parquet
    (QUESTION_SCHEMA) and questions.json (what was given, kept and dropped, and why).
    """
    config = QuestionConfig.from_config(ctx.config["questions"])
    made = plan_questions(
        spec_of(ctx),
        config,
        answers_at(ctx.config["planner"], ctx.runtime["planner"]),
        items_of(ctx),
        ctx.work / "answers",
        level_progress(ctx, _LEVELS),
        level_check(ctx),
    )
    facts = made.facts()
    if not made.rows:
        raise UserError(_no_question(facts))
    table = pa.Table.from_pylist(list(made.rows), schema=QUESTION_SCHEMA)
    pq.write_table(table, ctx.out / "questions.parquet")
    (ctx.out / "questions.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False))
    shown = ("wanted", "given", "kept", "dropped", "missing", "calls", "prompt_tokens")
    return {
        **{name: facts[name] for name in shown},
        "tokens_generated": facts["tokens"],
        "money": price_at(ctx.runtime.get("planner")).of(facts["prompt_tokens"], facts["tokens"]),
    }


def conversations(ctx: StageContext) -> dict[str, Any]:
    """Make the conversations of questions.

    Config: ``answers`` (`AnswerConfig`), ``writer``, ``sampling``, ``judge`` and ``judge_sampling``
    (None without a judge), ``drafts``, ``assistant``, ``maker``, ``prompts``.

    Inputs: ``questions``, ``spec`` and, where there are evaluation items, ``items``. Writes the
    files of `sink.Sink` and card.json.
    """
    config = ctx.config
    answers = AnswerConfig.from_config(config["answers"])
    identity = Identity(config["assistant"], config["maker"], answers.aliases)
    spec = fill(spec_of(ctx), identity.name, identity.maker)
    rows = pq.read_table(ctx.inputs["questions"] / "questions.parquet").to_pylist()
    screen = ChatScreen(
        answers,
        identity,
        [rule.label for rule in rules(spec)],
        opaque.SpecValues.of(spec, (identity.name, identity.maker), answers.hints),
        spec.text,
        items_of(ctx),
        ctx.work,
        judged=config["judge"] is not None,
    )
    answering = Answering(
        config=answers,
        writer=source(ctx, "writer", config["sampling"]),
        judge=judge(ctx, schema_text(answers.style)),
        screen=screen,
        identity=identity,
        spec=spec,
        drafts=config["drafts"],
        failed_share=ctx.runtime["failed_share"],
        work=ctx.work / "answers",
        progress=draft_progress(ctx, len(rows)),
    )
    with closing(screen):
        made = answering.run(rows, ctx.out)
        cost = drafted(ctx, answering.tally)
        card = {**made, **screen.facts(), "cost": cost}
    (ctx.out / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False))
    return {**counts_of(card), **cost}


def _no_question(facts: Mapping[str, Any]) -> str:
    """Why no question came, in one line."""
    if facts["failures"]:
        return f"no question came: the planner did not answer: {facts['failures'][0]['error']}"
    dropped = ", ".join(f"{reason} {n}" for reason, n in facts["dropped"].items())
    examples = [s["example"] for s in facts["shortfalls"] if s.get("example")]
    said = f"; it said: {examples[0]}" if examples else ""
    return f"no question came ({dropped or 'the planner gave none'}){said}"
