"""The stages of conversations: a spec becomes questions, questions become conversations."""

from __future__ import annotations

import json
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
from msm_ray.corpus.making import read_items
from msm_ray.corpus.naming import Identity
from msm_ray.corpus.writing import Source
from msm_ray.errors import UserError
from msm_ray.execute import StageContext
from msm_ray.llm.model import answers_at, price_at
from msm_ray.llm.protocol import Sampling
from msm_ray.spec import fill, read_spec, rules

_LEVELS = 2  # of questions, for progress


def questions(ctx: StageContext) -> dict[str, Any]:
    """Make the questions of conversations.

    Config: ``questions`` (`QuestionConfig`), ``planner``, ``prompts`` (their fingerprint). Inputs:
    ``spec`` and, where there are evaluation items, ``items``. Writes questions.parquet
    (QUESTION_SCHEMA) and questions.json (what was given, kept and dropped, and why).
    """
    config = QuestionConfig.from_config(ctx.config["questions"])
    levels: list[str] = []

    def progress(level: str, done: int, asked: int) -> None:
        if level not in levels:
            levels.append(level)
        part = (len(levels) - 1 + done / max(asked, 1)) / _LEVELS
        ctx.progress(min(part, 0.99), {"level": level, "answered": done, "asked": asked})

    made = plan_questions(
        read_spec(ctx.inputs["spec"] / "spec.md"),
        config,
        answers_at(ctx.config["planner"], ctx.runtime["planner"]),
        _items(ctx),
        ctx.work / "answers",
        progress,
    )
    facts = made.facts()
    if not made.rows:
        why = facts["shortfalls"][:1] or facts["failures"][:1] or facts["dropped"]
        raise UserError(f"there is no question; the first reason: {json.dumps(why)}")
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
    spec = fill(read_spec(ctx.inputs["spec"] / "spec.md"), identity.name, identity.maker)
    rows = pq.read_table(ctx.inputs["questions"] / "questions.parquet").to_pylist()

    def progress(done: int, draft: int, asked: int) -> None:
        part = done / max(asked, 1)
        fraction = 0.9 * part if draft == 0 else 0.9 + 0.09 * part
        ctx.progress(min(fraction, 0.99), {"answered": done, "asked": asked, "draft": draft + 1})

    answering = Answering(
        config=answers,
        writer=_source(ctx, "writer", config["sampling"]),
        judge=_judge(ctx, answers.style),
        screen=ChatScreen(
            answers,
            identity,
            [rule.label for rule in rules(spec)],
            opaque.SpecValues.of(spec, (identity.name, identity.maker), answers.hints),
            spec.text,
            _items(ctx),
        ),
        identity=identity,
        spec=spec,
        drafts=config["drafts"],
        work=ctx.work / "answers",
        progress=progress,
    )
    card = answering.run(rows, ctx.out)
    (ctx.out / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False))
    tally = answering.tally
    money = price_at(ctx.runtime.get("writer")).of(tally.prompt_tokens, tally.tokens)
    money += price_at(ctx.runtime.get("judge")).of(tally.judge_prompt_tokens, tally.judge_tokens)
    counts = ("planned", "kept", "rejected", "failed", "redrafted", "tokens_kept")
    return {
        **{name: card[name] for name in counts},
        "tokens_generated": tally.tokens + tally.judge_tokens,
        "prompt_tokens": tally.prompt_tokens + tally.judge_prompt_tokens,
        "calls": tally.calls,
        "money": money,
    }


def _items(ctx: StageContext) -> list[tuple[str, str]]:
    return read_items(ctx.inputs["items"] / "items.jsonl") if "items" in ctx.inputs else []


def _judge(ctx: StageContext, style: str) -> Source | None:
    if not ctx.config["judge"]:
        return None
    return _source(ctx, "judge", {**ctx.config["judge_sampling"], "schema": schema_text(style)})


def _source(ctx: StageContext, role: str, sampling: dict[str, Any]) -> Source:
    return Source(
        ctx.config[role]["model"],
        answers_at(ctx.config[role], ctx.runtime[role]),
        Sampling.from_config(sampling),
    )
