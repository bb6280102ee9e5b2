"""The two stages of a corpus job: a spec becomes a plan, a plan becomes a corpus.

Whom they ask is in the config (the model, by the name its endpoint has for it, and how it is
asked); where it stands and how hard it is asked is runtime, which changes nothing that is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from msm_ray.corpus.hierarchy import HierarchyConfig, plan_hierarchy
from msm_ray.corpus.naming import Identity
from msm_ray.corpus.plan import plan_table
from msm_ray.corpus.screening import Screen, ScreenConfig
from msm_ray.corpus.verdicts import SCHEMA_TEXT
from msm_ray.corpus.writing import Source, Writing
from msm_ray.errors import UserError
from msm_ray.execute import StageContext
from msm_ray.llm.model import answers_at, price_at
from msm_ray.llm.price import Price
from msm_ray.llm.protocol import Answers, Sampling
from msm_ray.records import PLAN_SCHEMA
from msm_ray.spec import fill, read_spec, rules

_LEVELS = 5  # of a plan by a model, for progress


def plan(ctx: StageContext) -> dict[str, Any]:
    """Make the plan of a corpus.

    Config: ``plan`` (`HierarchyConfig`), ``planner`` (None in structure mode), ``prompts`` (their
    fingerprint). Input: ``spec``. Writes plan.parquet (PLAN_SCHEMA) and hierarchy.json.
    """
    spec = read_spec(ctx.inputs["spec"] / "spec.md")
    config = HierarchyConfig.from_config(ctx.config["plan"])
    answers = _answers(ctx, "planner") if ctx.config["planner"] else None
    levels: list[str] = []

    def progress(level: str, done: int, asked: int) -> None:
        if level not in levels:
            levels.append(level)
        part = (len(levels) - 1 + done / max(asked, 1)) / _LEVELS
        ctx.progress(min(part, 0.99), {"level": level, "answered": done, "asked": asked})

    hierarchy = plan_hierarchy(spec, config, answers, ctx.work / "answers", progress)
    facts = hierarchy.facts()
    if not facts["documents"]:
        raise UserError(_nothing_planned(facts, ctx.runtime.get("planner", {})))
    with pq.ParquetWriter(ctx.out / "plan.parquet", PLAN_SCHEMA) as file:
        for batch in plan_table(hierarchy):
            file.write_batch(batch)
    (ctx.out / "hierarchy.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False))
    shown = {k: v for k, v in facts.items() if k not in ("shortfalls", "failures", "tokens")}
    return {
        **shown,
        "shortfalls": len(facts["shortfalls"]),
        "failures": len(facts["failures"]),
        "tokens_generated": facts["tokens"],
        "money": _price(ctx, "planner").of(facts["prompt_tokens"], facts["tokens"]),
    }


def corpus(ctx: StageContext) -> dict[str, Any]:
    """Write the corpus of a plan.

    Config: ``writer``, ``sampling``, ``judge`` and ``judge_sampling`` (None without a judge),
    ``rewrite``, ``drafts``, ``screen`` (`ScreenConfig`), ``assistant``, ``maker``, ``prompts``.

    Inputs: ``plan``, ``spec`` and, where there are evaluation items, ``items``. Writes
    documents.parquet, documents.jsonl, rejected.parquet, failed.parquet, redrafted.parquet and
    card.json.
    """
    config = ctx.config
    identity = Identity(config["assistant"], config["maker"], tuple(config["screen"]["aliases"]))
    spec = fill(read_spec(ctx.inputs["spec"] / "spec.md"), identity.name, identity.maker)
    screen = Screen(
        ScreenConfig(**{**config["screen"], "aliases": identity.aliases}),
        identity,
        [rule.label for rule in rules(spec)],
        spec.text,
        read_items(ctx.inputs["items"] / "items.jsonl") if "items" in ctx.inputs else (),
    )
    planned = pq.read_metadata(ctx.inputs["plan"] / "plan.parquet").num_rows

    def progress(done: int, draft: int, asked: int | None) -> None:
        part = done / max(asked or planned, 1)
        fraction = 0.9 * part if draft == 0 else 0.9 + 0.09 * part
        facts = {"answered": done, "asked": asked or planned, "draft": draft + 1}
        ctx.progress(min(fraction, 0.99), facts)

    writing = Writing(
        writer=_source(ctx, "writer", Sampling.from_config(config["sampling"])),
        judge=_judge(ctx),
        rewrite=config["rewrite"],
        screen=screen,
        identity=identity,
        drafts=config["drafts"],
        work=ctx.work / "answers",
        progress=progress,
    )
    card = writing.run(ctx.inputs["plan"] / "plan.parquet", ctx.out)
    (ctx.out / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False))
    tally = writing.tally
    money = _price(ctx, "writer").of(tally.prompt_tokens, tally.tokens)
    money += _price(ctx, "judge").of(tally.judge_prompt_tokens, tally.judge_tokens)
    return {
        "planned": card["planned"],
        "kept": card["kept"],
        "rejected": card["rejected"],
        "failed": card["failed"],
        "redrafted": card["redrafted"],
        "tokens_kept": card["tokens_kept"],
        "tokens_generated": tally.tokens + tally.judge_tokens,
        "prompt_tokens": tally.prompt_tokens + tally.judge_prompt_tokens,
        "calls": tally.calls,
        "money": money,
    }


def copy_items(ctx: StageContext) -> dict[str, Any]:
    """Bring the evaluation items that documents must not hold into the store, as one file."""
    rows = [row for path in ctx.runtime["paths"] for row in read_items(Path(path))]
    lines = "".join(json.dumps({"id": i, "text": t}, ensure_ascii=False) + "\n" for i, t in rows)
    (ctx.out / "items.jsonl").write_text(lines, encoding="utf-8")
    return {"texts": len(rows)}


def read_items(path: Path) -> list[tuple[str, str]]:
    """(id, text) of each text in a JSONL file of ``{id, ...}``: all its strings but the id.

    Raises:
        UserError: the file is not there, or a line is no JSON object with an id.
    """
    found: list[tuple[str, str]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; items are JSON lines") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            id = row.pop("id")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path} line {number}: is no JSON object with an 'id'") from None
        found += [(str(id), text) for text in _strings(row)]
    return found


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for inner in value.values() for text in _strings(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in _strings(inner)]
    return []


def _nothing_planned(facts: Mapping[str, Any], planner: Mapping[str, Any]) -> str:
    """Why a plan has no document, in one line."""
    if facts["failures"]:
        first = facts["failures"][0]
        where = f"the planner at {planner.get('base_url')}"
        return f"no document could be planned: {where} did not answer: {first['error']}"
    first = facts["shortfalls"][0] if facts["shortfalls"] else {"level": "domains", "reasons": {}}
    reasons = ", ".join(f"{reason} {n}" for reason, n in first["reasons"].items())
    said = f"; it said: {first['example']}" if first.get("example") else ""
    return f"no document could be planned: no {first['level']} came ({reasons}){said}"


def _judge(ctx: StageContext) -> Source | None:
    if not ctx.config["judge"]:
        return None
    config = {**ctx.config["judge_sampling"], "schema": SCHEMA_TEXT}
    return _source(ctx, "judge", Sampling.from_config(config))


def _source(ctx: StageContext, role: str, sampling: Sampling) -> Source:
    return Source(ctx.config[role]["model"], _answers(ctx, role), sampling)


def _answers(ctx: StageContext, role: str) -> Answers:
    """The endpoint of a role: its identity from the config, its place from the runtime."""
    return answers_at(ctx.config[role], ctx.runtime[role])


def _price(ctx: StageContext, role: str) -> Price:
    return price_at(ctx.runtime.get(role))
