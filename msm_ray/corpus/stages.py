"""The stage that writes a corpus: a plan in, documents, rejects, failures and a card out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.corpus.pipeline import Judge, card
from msm_ray.corpus.task import CorpusTask, load_task
from msm_ray.data.feed import FeedWriter
from msm_ray.errors import UserError
from msm_ray.execute import StageContext
from msm_ray.llm.protocol import PROMPT_SCHEMA, Answers, Sampling
from msm_ray.records import PLAN_SCHEMA

Arrived = Callable[[Sequence[Mapping[str, Any]]], None]  # takes rows of ANSWER_SCHEMA

WRITERS = ("vllm", "http", "scripted")
SCRIPTED_ROWS = 64  # published at a time
_TOKENIZER_FILE = "tokenizer.json"


def write(ctx: StageContext) -> dict[str, Any]:
    """Write the documents of a plan.

    Config: ``writer`` "vllm" (the model in input ``model`` writes), "http" (the endpoint in
    ``asked`` does) or "scripted" (the task's own grammar does), ``task`` and ``task_args`` (a
    `CorpusTask`), ``sampling`` (the fields of `Sampling`; empty for "scripted"), ``dtype``.
    Runtime: the fields of `VllmRuntime`, or the place of ``asked``; ``followed``: whether the kept
    documents, as rows of id and text, are to be in the stage's stream as soon as they are known.

    Inputs: ``plan`` (plan.parquet) and ``model`` (a Hugging Face folder, for "scripted" read only
    to count tokens).

    Writes documents.parquet, rejected.parquet, failed.parquet, card.json. Killed and called again,
    it continues: no document is asked for again whose answer is on disk.
    """
    plans = _read_plans(ctx.inputs["plan"])
    model = ctx.inputs["model"]
    task = load_task(ctx.config["task"], ctx.config["task_args"])
    tokenizer = _tokenizer(model)
    special = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special]
    writer = ctx.config["writer"]
    if writer not in WRITERS:
        raise UserError(f"corpus writer is {writer!r}; allowed: {', '.join(map(repr, WRITERS))}")
    scripted = writer == "scripted"
    sampling = {} if scripted else Sampling.from_config(ctx.config["sampling"]).to_config()
    judge = Judge(plans, task, model=_writer_name(ctx), sampling=sampling, special_tokens=special)
    arrived = _publishing(ctx, judge) if ctx.runtime.get("followed") else None
    started = time.perf_counter()
    if scripted:
        rows = _scripted(plans, task, tokenizer, arrived)
    else:
        rows = _written(ctx, plans, model, arrived)
    seconds = time.perf_counter() - started
    if arrived is None:
        judge.add(rows)
    else:
        arrived(rows)
        FeedWriter(ctx.stream).close()
    assert judge.is_done, "a document was not answered"
    judged = judge.judged
    tokens = sum(row["tokens"] for row in rows)
    summary = card(judged, plans, task.reasons, tokens_generated=tokens)
    for file, table in judged.tables().items():
        pq.write_table(table, ctx.out / f"{file}.parquet")
    (ctx.out / "card.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False))
    ctx.progress(1.0, {"documents": len(judged.kept)})
    return {
        "planned": len(plans),
        "kept": len(judged.kept),
        "rejected": judged.reasons,
        "failed": len(judged.failed),
        "tokens_kept": summary["tokens_kept"],
        "tokens_generated": tokens,
        "calls": 0 if scripted else len(plans),
        "seconds_engine": round(seconds, 3),
        "writer": _writer_name(ctx),
    }


def _read_plans(folder: Path) -> list[dict[str, Any]]:
    table = pq.read_table(folder / "plan.parquet").select(PLAN_SCHEMA.names)
    plans: list[dict[str, Any]] = table.to_pylist()
    if not plans:
        raise UserError(f"the plan in {folder} has no documents; at least 1 is needed")
    return plans


def _writer_name(ctx: StageContext) -> str:
    """Who writes, for the rows' provenance."""
    if ctx.config["writer"] == "scripted":
        return "scripted"
    asked = ctx.config.get("asked")
    return str(asked["model"] if asked else ctx.input_ids.get("model", ctx.inputs["model"].name))


def _publishing(ctx: StageContext, judge: Judge) -> Arrived:
    """What judges answers when they come, and appends the documents that are kept to the stream.

    Documents stand there in the order of the plan, so one that is late holds back those behind it.
    """
    feed = FeedWriter(ctx.stream)
    seen: set[str] = set()

    def arrived(rows: Sequence[Mapping[str, Any]]) -> None:
        judge.add([row for row in rows if row["id"] not in seen])
        seen.update(row["id"] for row in rows)
        # What an earlier attempt has published comes again, the same.
        new = judge.judged.kept[feed.rows :]
        if new:
            feed.add([{"id": row["id"], "text": row["text"]} for row in new])

    return arrived


def _written(
    ctx: StageContext, plans: list[dict[str, Any]], model: Path, arrived: Arrived | None
) -> list[dict[str, Any]]:
    """Answers of the model."""
    source = _writer(ctx, model, arrived)
    sampling = Sampling.from_config(ctx.config["sampling"])
    prompts = pa.Table.from_pylist(
        [{name: plan[name] for name in PROMPT_SCHEMA.names} for plan in plans], schema=PROMPT_SCHEMA
    )
    answers = source.answer(prompts, sampling, ctx.work / "answers", _report(ctx, len(plans)))
    rows: list[dict[str, Any]] = answers.to_pylist()
    return rows


def _writer(ctx: StageContext, model: Path, arrived: Arrived | None) -> Answers:
    if ctx.config["writer"] == "http":
        from msm_ray.llm.model import answers_at

        return answers_at(ctx.config["asked"], ctx.runtime["asked"])
    from msm_ray.llm.ray_pass import VllmRuntime
    from msm_ray.llm.vllm import VllmAnswers

    known = {f.name for f in fields(VllmRuntime)}
    runtime = VllmRuntime(**{k: v for k, v in ctx.runtime.items() if k in known})
    return VllmAnswers(model, ctx.config["dtype"], runtime, arrived=arrived)


def _report(ctx: StageContext, planned: int) -> Callable[[int], None]:
    def progress(done: int) -> None:
        ctx.progress(0.95 * done / planned, {"documents": done, "planned": planned})

    return progress


def _scripted(
    plans: list[dict[str, Any]], task: CorpusTask, tokenizer: Any, arrived: Arrived | None
) -> list[dict[str, Any]]:
    """The task's own completions as answers; the end-of-sequence token counts as one token."""
    rows: list[dict[str, Any]] = []
    for plan in plans:
        text = task.write(plan)
        tokens = len(tokenizer.encode(text, add_special_tokens=False).ids) + 1
        # No model has read the prompt.
        row = {"id": plan["id"], "text": text, "prompt_tokens": 0, "tokens": tokens}
        rows.append({**row, "ended": True, "error": ""})
        if arrived is not None and len(rows) % SCRIPTED_ROWS == 0:
            arrived(rows[-SCRIPTED_ROWS:])
    return rows


def _tokenizer(model: Path) -> Any:
    """The model's tokenizer without the import of transformers, which takes seconds."""
    from tokenizers import Tokenizer

    file = model / _TOKENIZER_FILE
    if not file.exists():
        raise UserError(f"{model} has no {_TOKENIZER_FILE}; the writer needs a fast tokenizer")
    return Tokenizer.from_file(str(file))
