"""What the stages of tasks have in common: a checkpoint, its items, an engine, a table of rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray import device
from msm_ray.errors import UserError
from msm_ray.evaluate.checkpoints import read_checkpoint
from msm_ray.evaluate.engine_settings import START_SECONDS, EngineSettings
from msm_ray.evaluate.leasing import Answers, answer
from msm_ray.evaluate.pool import MAX_ENGINES
from msm_ray.evaluate.requests import Request
from msm_ray.records import TASK_ROW_SCHEMA
from msm_ray.stage import Stage
from msm_ray.tasks.items import Row
from msm_ray.tasks.subject import Subject

if TYPE_CHECKING:
    from msm_ray.stage import StageContext

LEAST_SECONDS = 2.0  # of a small model, with everything around it


@dataclass(frozen=True)
class Made:
    """What came of asking: rows (TASK_ROW_SCHEMA), the facts of each eval, and further facts."""

    rows: Sequence[Row]
    evals: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Size:
    """What asking one checkpoint comes to; tokens are English at four characters each."""

    calls: int
    prompt_tokens: float
    tokens: float = 0.0

    def estimate(self, inputs: Mapping[str, Stage], engine: EngineSettings) -> dict[str, float]:
        """For a stage's estimate: calls, generated tokens and device-seconds."""
        parameters = float(inputs["model"].estimate.get("parameters", 0))
        read = 2 * parameters * self.prompt_tokens / (device.FLOPS * device.UTILISATION)
        weights = device.WEIGHT_BYTES * parameters
        steps = self.tokens / engine.max_num_seqs  # each reads the weights once
        wrote = steps * weights / device.MEMORY_BYTES
        # An adapter comes to an engine that holds its base already.
        load = 0.0 if "base" in inputs else weights / device.STORE_BYTES
        return {
            "seconds": LEAST_SECONDS + load + read + wrote,
            "start": START_SECONDS,  # of whoever comes first
            "calls": self.calls,
            "tokens": round(self.tokens),
            "prompt_tokens": round(self.prompt_tokens),
        }


def task_stage(
    kind: str,
    version: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Stage],
    run: str,
    label: str,
    engine: EngineSettings,
    size: Size,
) -> Stage:
    """The stage that asks a checkpoint (``inputs["model"]``) something through an engine."""
    return Stage(
        kind=kind,
        version=version,
        config=dict(config),
        inputs=dict(inputs),
        run=run,
        label=label,
        runtime={"engine": asdict(engine)},
        estimate=size.estimate(inputs, engine),
    )


def ask_checkpoint(ctx: StageContext, ask: Callable[[Subject], Made]) -> dict[str, Any]:
    """Have ``ask`` question the checkpoint of a stage. Inside a Ray cluster.

    Inputs: ``model``, a Hugging Face folder with ``fingerprint.json``; ``base`` where that is an
    adapter. Runtime: ``engine`` (fields of `EngineSettings`), ``engines`` (most on a machine).
    Writes ``rows.parquet`` (TASK_ROW_SCHEMA).

    Returns:
        ``evals``, how the model was asked, what that took, and what the engine had to do to be
        proven to hold the checkpoint.
    """
    started = time.perf_counter()
    engine = Engine(ctx)
    subject = Subject(engine.tokenizer, engine.context, engine)
    made = ask(subject)
    write_rows(ctx.out, made.rows)
    return {
        "evals": {name: dict(entry) for name, entry in made.evals.items()},
        **made.facts,
        "asked_in": subject.form,
        "calls": subject.calls,
        "tokens_generated": subject.tokens,
        "engine": engine.facts(),
        "seconds": round(time.perf_counter() - started, 3),
    }


class Engine:
    """Answers requests with a stage's checkpoint; leased anew for each round of them."""

    def __init__(self, ctx: StageContext) -> None:
        self._ctx = ctx
        base = ctx.inputs.get("base")
        self._checkpoint = read_checkpoint(ctx.inputs["model"], base)
        self._settings = EngineSettings(**ctx.runtime.get("engine", {}))
        self._limit = int(ctx.runtime.get("engines", MAX_ENGINES))
        self.context = min(self._checkpoint.context, self._settings.max_length)
        self.tokenizer = tokenizer_of(ctx.inputs["model"], base)
        self._rounds: list[Answers] = []

    def __call__(self, requests: Sequence[Request]) -> Sequence[Sequence[float]]:
        """One list for each request; see `Request`."""
        self._ctx.progress(0.1, {"requests": len(requests)})
        end = self.tokenizer.eos_token_id
        got = answer(self._checkpoint, requests, end, self._settings, self._limit)
        self._ctx.progress(0.9, {"requests": len(requests)})
        self._rounds.append(got)
        return got.values

    def facts(self) -> dict[str, Any]:
        """What it took: counts of all rounds, and how the first one got its engine."""
        if not self._rounds:
            return {}
        counts: dict[str, int] = {}
        for got in self._rounds:
            for name, value in got.counts.items():
                counts[name] = counts.get(name, 0) + value
        first = self._rounds[0].report
        return {
            **counts,
            "load": first.how,
            "fingerprint_distance": first.distance,
            "seconds_load": round(sum(got.report.seconds for got in self._rounds), 3),
            "seconds_answer": round(sum(got.seconds for got in self._rounds), 3),
        }


def tokenizer_of(model: Path, base: Path | None) -> Any:
    """The checkpoint's own tokenizer; of an adapter without one, that of the model below."""
    from transformers import AutoTokenizer

    own = any((model / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    folder = model if own or base is None else base
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def items_in(ctx: StageContext, name: str = "items") -> list[Row]:
    """The items of a stage's input, in the order of their ids."""
    text = (ctx.inputs[name] / "items.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def write_rows(out: Path, made: Sequence[Row]) -> None:
    """``rows.parquet`` (TASK_ROW_SCHEMA)."""
    pq.write_table(pa.Table.from_pylist(list(made), TASK_ROW_SCHEMA), out / "rows.parquet")


# ---- rows and rates -------------------------------------------------------------------------


def row(
    item: Mapping[str, Any],
    name: str,
    value: float | None,
    *,
    prompt: str,
    answer: str = "",
    status: str = "ok",
    order: int = 0,
    weight: float = 1.0,
) -> Row:
    """A row of TASK_ROW_SCHEMA. Both orders of one item are a pair."""
    return {
        "id": f"{item['id']}/{order}",
        "eval": name,
        "domain": item["domain"],
        "pair": item["id"],
        "order": order,
        "value": value,
        "weight": weight,
        "answer": answer,
        "status": status,
        "prompt": prompt,
    }


def rate(rows: Sequence[Row]) -> dict[str, Any]:
    """``{rate, n}`` of the rows that have a value; a row's weight counts."""
    counted = [r for r in rows if r["value"] is not None]
    if not counted:
        raise UserError("a rate needs at least one item with a value")
    weight = sum(r["weight"] for r in counted)
    return {"rate": sum(r["value"] * r["weight"] for r in counted) / weight, "n": len(counted)}


def by(rows: Iterable[Row], key: str) -> dict[str, dict[str, Any]]:
    """`rate` by a column; groups without a value are left out."""
    groups: dict[Any, list[Row]] = {}
    for r in rows:
        if r["value"] is not None:
            groups.setdefault(r[key], []).append(r)
    return {str(name): rate(groups[name]) for name in sorted(groups)}
