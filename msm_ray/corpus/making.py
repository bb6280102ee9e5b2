"""The two stages of a corpus job: a spec becomes a plan, a plan becomes a corpus.

Whom they ask is in the config (the model, by the name its endpoint has for it, and how it is
asked); where it stands and how hard it is asked is runtime, which changes nothing that is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from msm_ray.corpus.drafting import Source, Tally
from msm_ray.corpus.expansion import Expansion, Progress
from msm_ray.corpus.hierarchy import HierarchyConfig, plan_hierarchy
from msm_ray.corpus.naming import Identity
from msm_ray.corpus.outages import check_level
from msm_ray.corpus.plan import plan_table
from msm_ray.corpus.screening import Screen, ScreenConfig
from msm_ray.corpus.verdicts import SCHEMA_TEXT
from msm_ray.corpus.writing import Writing
from msm_ray.errors import UserError
from msm_ray.execute import StageContext
from msm_ray.llm.model import answers_at, price_at, where_at
from msm_ray.llm.protocol import Answers, Sampling
from msm_ray.records import PLAN_SCHEMA, Spec
from msm_ray.spec import fill, read_spec, rules

_LEVELS = 5  # of a plan by a model, for progress


def plan(ctx: StageContext) -> dict[str, Any]:
    """Make the plan of a corpus.

    Config: ``plan`` (`HierarchyConfig`), ``planner`` (None in structure mode), ``prompts`` (their
    fingerprint), ``title`` (see `spec_of`). Input: ``spec``. Writes plan.parquet (PLAN_SCHEMA) and
    hierarchy.json. UserError if no document could be planned, or if too much is missing for errors
    (`outages`).
    """
    spec = spec_of(ctx)
    config = HierarchyConfig.from_config(ctx.config["plan"])
    answers = _answers(ctx, "planner") if ctx.config["planner"] else None
    progress = level_progress(ctx, _LEVELS)
    check = level_check(ctx)
    hierarchy = plan_hierarchy(spec, config, answers, ctx.work / "answers", progress, check)
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
        "money": price_at(ctx.runtime.get("planner")).of(facts["prompt_tokens"], facts["tokens"]),
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
    spec = fill(spec_of(ctx), identity.name, identity.maker)
    screen = Screen(
        ScreenConfig(**{**config["screen"], "aliases": identity.aliases}),
        identity,
        [rule.label for rule in rules(spec)],
        spec.text,
        items_of(ctx),
        ctx.work,
    )
    planned = pq.read_metadata(ctx.inputs["plan"] / "plan.parquet").num_rows
    writing = Writing(
        writer=source(ctx, "writer", config["sampling"]),
        judge=judge(ctx, SCHEMA_TEXT),
        rewrite=config["rewrite"],
        screen=screen,
        identity=identity,
        drafts=config["drafts"],
        failed_share=ctx.runtime["failed_share"],
        work=ctx.work / "answers",
        progress=draft_progress(ctx, planned),
    )
    with closing(screen):
        made = writing.run(ctx.inputs["plan"] / "plan.parquet", ctx.out)
        cost = drafted(ctx, writing.tally)
        card = {**made, **screen.facts(), "cost": cost}
    (ctx.out / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False))
    return {**counts_of(card), **cost}


def copy_items(ctx: StageContext) -> dict[str, Any]:
    """Bring the evaluation items that documents must not hold into the store, as one file.

    UserError if they are not those that the config has the `items_sha256` of.
    """
    paths = [Path(path) for path in ctx.runtime["paths"]]
    files = [read_items(path) for path in paths]
    if items_sha256(files) != ctx.config["sha256"]:
        raise UserError(f"{', '.join(map(str, paths))}: changed since this run began; run again")
    rows = [row for file in files for row in file]
    lines = "".join(json.dumps({"id": i, "text": t}, ensure_ascii=False) + "\n" for i, t in rows)
    (ctx.out / "items.jsonl").write_text(lines, encoding="utf-8")
    return {"texts": len(rows)}


def items_sha256(files: Iterable[Sequence[tuple[str, str]]]) -> str:
    """The hash of the items of several files, as `read_items` gives them."""
    found = hashlib.sha256()
    for rows in files:
        found.update(json.dumps(rows).encode())
    return found.hexdigest()


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


# ---- what the stages of conversations do in the same way ----------------------------------------


def level_progress(ctx: StageContext, levels: int) -> Progress:
    """Tells how far a plan of so many levels is."""
    begun: list[str] = []

    def progress(level: str, done: int, asked: int) -> None:
        if level not in begun:
            begun.append(level)
        part = (len(begun) - 1 + done / max(asked, 1)) / levels
        ctx.progress(min(part, 0.99), {"level": level, "answered": done, "asked": asked})

    return progress


def level_check(ctx: StageContext) -> Callable[[Expansion], None]:
    """Ends a plan by a model that did not answer; see `outages.check_level`."""
    planner = ctx.runtime.get("planner")
    where = where_at(planner) if planner else ""
    return partial(check_level, share=ctx.runtime["failed_share"], where=where)


def draft_progress(ctx: StageContext, planned: int) -> Callable[[int, int, int | None], None]:
    """Tells how far drafting is: answers so far, the draft, and how many it asks for (None: all).

    The first draft counts most, since the later ones ask for a few again.
    """

    def progress(done: int, draft: int, asked: int | None) -> None:
        part = done / max(asked or planned, 1)
        fraction = 0.9 * part if draft == 0 else 0.9 + 0.09 * part
        facts = {"answered": done, "asked": asked or planned, "draft": draft + 1}
        ctx.progress(min(fraction, 0.99), facts)

    return progress


def spec_of(ctx: StageContext) -> Spec:
    """The spec that a stage was given. ``title`` in the config is that of one without headings."""
    return read_spec(ctx.inputs["spec"] / "spec.md", title=ctx.config.get("title", ""))


def items_of(ctx: StageContext) -> list[tuple[str, str]]:
    """(id, text) of the evaluation items that a stage was given; none without the input."""
    return read_items(ctx.inputs["items"] / "items.jsonl") if "items" in ctx.inputs else []


def source(ctx: StageContext, role: str, sampling: Mapping[str, Any]) -> Source:
    """The endpoint of a role: its identity from the config, its place from the runtime."""
    name: str = ctx.config[role]["model"]
    where = where_at(ctx.runtime[role])
    return Source(name, _answers(ctx, role), Sampling.from_config(sampling), where)


def judge(ctx: StageContext, schema: str) -> Source | None:
    """The judge, whose verdicts obey ``schema``; None where there is none."""
    if not ctx.config["judge"]:
        return None
    return source(ctx, "judge", {**ctx.config["judge_sampling"], "schema": schema})


def counts_of(card: Mapping[str, Any]) -> dict[str, Any]:
    """The counts of a card, for a stage's record."""
    names = ("planned", "kept", "rejected", "failed", "redrafted", "tokens_kept")
    return {name: card[name] for name in names}


def drafted(ctx: StageContext, tally: Tally) -> dict[str, Any]:
    """Calls, tokens and dollars of a writer and a judge, for a stage's record."""
    return tally.facts(*(price_at(ctx.runtime.get(role)) for role in ("writer", "judge")))


def _answers(ctx: StageContext, role: str) -> Answers:
    return answers_at(ctx.config[role], ctx.runtime[role])
