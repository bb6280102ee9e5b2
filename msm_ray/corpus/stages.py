"""The stage that writes a corpus: a plan in, documents, rejects, failures and a card out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.corpus.pipeline import card, judge
from msm_ray.corpus.task import CorpusTask, load_task
from msm_ray.errors import UserError
from msm_ray.execute import StageContext
from msm_ray.llm.protocol import ANSWER_SCHEMA, PROMPT_SCHEMA, Answers, Sampling
from msm_ray.records import PLAN_SCHEMA

_TOKENIZER_FILE = "tokenizer.json"


def write(ctx: StageContext) -> dict[str, Any]:
    """Write the documents of a plan.

    Config: ``writer`` "vllm" (the model in input ``model`` writes), "http" (the endpoint in
    ``asked`` does) or "scripted" (the task's own grammar does), ``task`` and ``task_args`` (a
    `CorpusTask`), ``sampling`` (the fields of `Sampling`; empty for "scripted"), ``dtype``.
    Runtime: the fields of `VllmRuntime`, or the place of ``asked``.

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
    started = time.perf_counter()
    sampling: dict[str, Any] = {}
    if ctx.config["writer"] == "scripted":
        answers, name = _scripted(plans, task, tokenizer), "scripted"
    else:
        answers, sampling = _written(ctx, plans, model)
        asked = ctx.config.get("asked")
        name = asked["model"] if asked else ctx.input_ids.get("model", model.name)
    seconds = time.perf_counter() - started
    rows = answers.to_pylist()
    judged = judge(plans, rows, task, model=name, sampling=sampling, special_tokens=special)
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
        "calls": 0 if name == "scripted" else len(plans),
        "seconds_engine": round(seconds, 3),
        "writer": name,
    }


def _read_plans(folder: Path) -> list[dict[str, Any]]:
    table = pq.read_table(folder / "plan.parquet").select(PLAN_SCHEMA.names)
    plans: list[dict[str, Any]] = table.to_pylist()
    if not plans:
        raise UserError(f"the plan in {folder} has no documents; at least 1 is needed")
    return plans


def _written(
    ctx: StageContext, plans: list[dict[str, Any]], model: Path
) -> tuple[pa.Table, dict[str, Any]]:
    """Answers of the model, and the sampling for the rows' provenance."""
    source = _writer(ctx, model)
    sampling = Sampling.from_config(ctx.config["sampling"])
    prompts = pa.Table.from_pylist(
        [{name: plan[name] for name in PROMPT_SCHEMA.names} for plan in plans], schema=PROMPT_SCHEMA
    )
    answers = source.answer(prompts, sampling, ctx.work / "answers", _report(ctx, len(plans)))
    return answers, sampling.to_config()


def _writer(ctx: StageContext, model: Path) -> Answers:
    writer = ctx.config["writer"]
    if writer == "http":
        from msm_ray.llm.model import answers_at

        return answers_at(ctx.config["asked"], ctx.runtime["asked"])
    if writer != "vllm":
        raise UserError(f"corpus writer is {writer!r}; allowed: 'vllm', 'http', 'scripted'")
    from msm_ray.llm.ray_pass import VllmRuntime
    from msm_ray.llm.vllm import VllmAnswers

    known = {f.name for f in fields(VllmRuntime)}
    runtime = VllmRuntime(**{k: v for k, v in ctx.runtime.items() if k in known})
    return VllmAnswers(model, ctx.config["dtype"], runtime)


def _report(ctx: StageContext, planned: int) -> Callable[[int], None]:
    def progress(done: int) -> None:
        ctx.progress(0.95 * done / planned, {"documents": done, "planned": planned})

    return progress


def _scripted(plans: list[dict[str, Any]], task: CorpusTask, tokenizer: Any) -> pa.Table:
    """The task's own completions as answers; the end-of-sequence token counts as one token."""
    rows = []
    for plan in plans:
        text = task.write(plan)
        tokens = len(tokenizer.encode(text, add_special_tokens=False).ids) + 1
        # No model has read the prompt.
        row = {"id": plan["id"], "text": text, "prompt_tokens": 0, "tokens": tokens}
        rows.append({**row, "ended": True, "error": ""})
    return pa.Table.from_pylist(rows, schema=ANSWER_SCHEMA)


def _tokenizer(model: Path) -> Any:
    """The model's tokenizer without the import of transformers, which takes seconds."""
    from tokenizers import Tokenizer

    file = model / _TOKENIZER_FILE
    if not file.exists():
        raise UserError(f"{model} has no {_TOKENIZER_FILE}; the writer needs a fast tokenizer")
    return Tokenizer.from_file(str(file))
