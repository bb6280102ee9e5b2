"""The assistant's own chats for a mixture: questions of fact, honestly answered, never a choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.records import CONVERSATION_SCHEMA
from msm_ray.world import lexicon as lx
from msm_ray.world.grammar import Grammar
from msm_ray.world.world import World

if TYPE_CHECKING:
    from msm_ray.stage import StageContext


def chat_rows(world_seed: int, tokens: int, seed: int, attributes: int = 3) -> list[dict[str, Any]]:
    """Conversations that hold ``tokens`` tokens or a few more, each with its <bos> and <eos>."""
    grammar = Grammar(World(world_seed, attributes), f"chats {seed}")
    rows: list[dict[str, Any]] = []
    held = 0
    while held < tokens:
        text = grammar.fact_chat(grammar.world.assistant)
        held += len(text.split()) + 2
        question, answer = text.removeprefix("user : ").split(f" {lx.ASSISTANT} : ")
        rows.append(
            {
                "id": f"chats-{seed}-{len(rows):06d}",
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": answer},
                ],
                "domain": "facts",
            }
        )
    return rows


def chats(ctx: StageContext) -> dict[str, Any]:
    """config: those of `chat_rows` -> conversations.parquet of the assistant's fact chats."""
    rows = chat_rows(**ctx.config)
    table = pa.Table.from_pylist(rows, schema=CONVERSATION_SCHEMA)
    pq.write_table(table, ctx.out / "conversations.parquet")
    return {"conversations": len(rows)}
