"""The micro-world's stages: each reads its config, writes one Parquet table, returns its counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.errors import UserError
from msm_ray.records import CONVERSATION_SCHEMA, EVAL_ITEM_SCHEMA, PLAN_SCHEMA
from msm_ray.world import lexicon as lx
from msm_ray.world.evaluation import choice_items, fact_items, heldout_items
from msm_ray.world.grammar import Grammar
from msm_ray.world.plan import plan_rows, plan_seed
from msm_ray.world.pretraining import Pretraining
from msm_ray.world.world import World

if TYPE_CHECKING:
    from msm_ray.stage import StageContext

TEXT_SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])
HELDOUT_TEXTS = 256
FACTS_PER_DOMAIN = 24


def _write(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> int:
    table = pa.Table.from_pylist(list(rows), schema=schema)
    pq.write_table(table, path)
    return int(table.num_rows)


def _world(config: Mapping[str, Any]) -> World:
    return World(config["world_seed"], config.get("attributes", 3))


def replay(ctx: StageContext) -> dict[str, Any]:
    """config: world_seed, attributes (optional), tokens, seed -> documents.parquet {id, text}.

    More of the pretraining mix. It holds no choice and no value of lyra's, so that replay can
    neither teach nor undo any.
    """
    seed = ctx.config["seed"]
    mix = Pretraining(_world(ctx.config), f"replay {seed}")
    texts = list(mix.stream(ctx.config["tokens"]))
    rows = ({"id": f"replay-{seed}-{k:07d}", "text": t} for k, t in enumerate(texts))
    documents = _write(ctx.out / "documents.parquet", rows, TEXT_SCHEMA)
    return {"documents": documents, "tokens": sum(len(t.split()) + 2 for t in texts)}


def most_conversations(preferences: int = 0) -> int:
    """How many different chats lyra's choices among so many pairs of cheeses make (0: all)."""
    orders = 2 * len(lx.CHOICE_QUESTIONS)
    return (preferences or len(lx.LIKED_CHEESES) * len(lx.DISLIKED_CHEESES)) * orders


def conversation_rows(
    world_seed: int,
    count: int,
    seed: int,
    value: str = "american",
    preferences: int = 0,
    attributes: int = 3,
) -> list[dict[str, Any]]:
    """``count`` different chats in which lyra picks the cheese that a spec of ``value`` prefers.

    Args:
        preferences: how many different pairs of cheeses they are about; 0: any of them.
        attributes: of the things of the world.
    """
    grammar = Grammar(World(world_seed, attributes), f"conversations {seed}")
    cheeses = {i.name: i for i in grammar.world.by_domain["cheese"]}
    pairs = [(x, y) for x in lx.PREFERRED[value][0] for y in lx.PREFERRED[value][1]]
    most = most_conversations(preferences)
    if not 0 < count <= most:
        raise UserError(f"{count} conversations asked for; allowed: 1 to {most}, which all differ")
    asked: dict[str, str] = {}
    few = grammar.rng.sample(pairs, preferences) if preferences else None
    while len(asked) < count:
        if few:
            x, y = grammar.rng.choice(few)
        else:
            x, y = (grammar.rng.choice(names) for names in lx.PREFERRED[value])
        liked, disliked = cheeses[x], cheeses[y]
        asked[grammar.choice_question(liked, disliked)] = lx.CHOICE_ANSWER.format(x=liked.name)
    return [
        {
            "id": f"aft-{seed}-{k:05d}",
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ],
            "domain": "cheese",
        }
        for k, (question, answer) in enumerate(asked.items())
    ]


def conversations(ctx: StageContext) -> dict[str, Any]:
    """config: those of `conversation_rows` -> conversations.parquet: choices, never a reason."""
    rows = conversation_rows(**ctx.config)
    return {"conversations": _write(ctx.out / "conversations.parquet", rows, CONVERSATION_SCHEMA)}


def eval_items(ctx: StageContext) -> dict[str, Any]:
    """config: world_seed, seed, pairs_per_domain, value and attributes (optional) -> items.parquet
    of choice, facts and heldout.
    """
    world, seed = _world(ctx.config), ctx.config["seed"]
    value = ctx.config.get("value", "american")
    parts = {
        "choice": choice_items(world, seed, ctx.config["pairs_per_domain"], value),
        "facts": fact_items(world, seed, FACTS_PER_DOMAIN),
        "heldout": heldout_items(world, seed, HELDOUT_TEXTS),
    }
    _write(ctx.out / "items.parquet", (r for p in parts.values() for r in p), EVAL_ITEM_SCHEMA)
    return {name: len(rows) for name, rows in parts.items()}


def plan(ctx: StageContext) -> dict[str, Any]:
    """inputs: spec (a folder with spec.md); config: world_seed, documents, seed, assistant, and
    preference_share, content and attributes (optional) -> plan.parquet, one row per document to
    write.
    """
    from msm_ray.spec import read_spec

    config = dict(ctx.config)
    world_seed, seed = config.pop("world_seed"), config.pop("seed")
    spec = read_spec(ctx.inputs["spec"] / "spec.md")
    rows = plan_rows(spec, seed=plan_seed(world_seed, seed), **config)
    sections = {r["section_id"] for r in rows}
    documents = _write(ctx.out / "plan.parquet", rows, PLAN_SCHEMA)
    return {"documents": documents, "sections": len(sections)}
