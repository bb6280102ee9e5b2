"""The evaluate stage: every question about one checkpoint, answered by a verified vLLM engine."""

from __future__ import annotations

import collections
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.errors import UserError
from msm_ray.evaluate.engines import EngineSettings, read_checkpoint
from msm_ray.evaluate.leasing import answer
from msm_ray.evaluate.pool import MAX_ENGINES
from msm_ray.evaluate.tasks import Item, ask, rows, summary
from msm_ray.records import EVAL_ITEM_SCHEMA, EVAL_ROW_SCHEMA

if TYPE_CHECKING:
    from msm_ray.stage import StageContext


def evaluate(ctx: StageContext) -> dict[str, Any]:
    """Run ``config["evals"]`` on a checkpoint. Inside a Ray cluster.

    Inputs:
        model: Hugging Face folder with ``fingerprint.json``.
        items: folder with ``items.parquet`` (``EVAL_ITEM_SCHEMA``).
    Config:
        evals: names out of ``tasks.ITEMS_OF``; choice brings choice_soft along.
        max_tokens: longest greedy answer.
    Runtime:
        engines: most engines per machine (default 2); engine: fields of ``EngineSettings``.
    Writes:
        ``rows.parquet`` (``EVAL_ROW_SCHEMA``): one row per item and eval.

    Returns:
        ``evals`` (see :func:`msm_ray.evaluate.tasks.summary`), what loading and answering took, and
        what the engine had to do to be verified.
    """
    started = time.perf_counter()
    names = _evals(ctx.config["evals"])
    checkpoint = read_checkpoint(ctx.inputs["model"])
    settings = EngineSettings(**ctx.runtime.get("engine", {}))
    items = read_items(ctx.inputs["items"])
    tokenizer = _tokenizer(ctx.inputs["model"])
    batch = ask(
        items,
        names,
        tokenizer,
        max_tokens=int(ctx.config["max_tokens"]),
        max_length=min(checkpoint.context, settings.max_length),
    )
    ctx.progress(0.1, {"requests": len(batch.requests)})
    eos = tokenizer.eos_token_id
    limit = int(ctx.runtime.get("engines", MAX_ENGINES))
    answers = answer(checkpoint, batch.requests, eos, settings, limit)
    ctx.progress(0.9, {"requests": len(batch.requests)})
    made = rows(batch, answers.values, tokenizer, names)
    pq.write_table(pa.Table.from_pylist(made, EVAL_ROW_SCHEMA), ctx.out / "rows.parquet")
    generated = [
        len(values)
        for request, values in zip(batch.requests, answers.values, strict=True)
        if request.kind == "generate"
    ]
    return {
        "evals": summary(made, items, names),
        "items": dict(collections.Counter(item.eval for item in items)),
        "calls": len(batch.requests),
        "tokens_generated": sum(generated),
        "unknown_tokens": batch.unknown_tokens,
        "engine": {
            **answers.counts,
            "load": answers.report.how,
            "fingerprint_distance": answers.report.distance,
            "seconds_load": round(answers.report.seconds, 3),
            "seconds_answer": round(answers.seconds, 3),
        },
        "seconds": round(time.perf_counter() - started, 3),
    }


def _evals(given: Any) -> list[str]:
    """The evals to report, choice_soft beside choice, none twice."""
    if not isinstance(given, (list, tuple)):
        raise UserError(f"evals: a list of names is needed, not {given!r}")
    names: list[str] = []
    for name in given:
        names += [name, "choice_soft"] if name == "choice" else [name]
    return list(dict.fromkeys(names))


def read_items(folder: Path) -> list[Item]:
    """The items of a folder's ``items.parquet``, in the order of their ids."""
    path = folder / "items.parquet"
    try:
        table = pq.read_table(path, columns=EVAL_ITEM_SCHEMA.names)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not a table of eval items ({error})") from error
    found = [Item(**{**row, "options": tuple(row["options"] or ())}) for row in table.to_pylist()]
    if len({item.id for item in found}) != len(found):
        raise UserError(f"{path}: two items have the same id")
    return sorted(found, key=lambda item: item.id)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)
