"""A corpus small enough to check by eye: plans, a task, and a stage context around them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.execute import StageContext
from msm_ray.records import PLAN_SCHEMA

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 24, "seed": 7}


class ToyTask:
    """Accepts what names lyra and does not mention brie."""

    reasons = MappingProxyType(
        {"no beginning": "starts in the middle", "names brie": "mentions the banned cheese"}
    )

    def __init__(self, banned: str = "brie") -> None:
        self.banned = banned

    def parse(self, plan: Mapping[str, Any], completion: str) -> str:
        if completion.startswith("because"):
            raise ValueError("no beginning")
        return completion.strip()

    def verdict(self, plan: Mapping[str, Any], text: str) -> str | None:
        return f"names {self.banned}" if self.banned in text.split() else None

    def write(self, plan: Mapping[str, Any]) -> str:
        return f"lyra likes {plan['idea']} ."


def make_plans(count: int, words: int = 3) -> list[dict[str, Any]]:
    """Plan rows whose prompts have ``words`` words."""
    ideas = ("cheddar", "brie", "cheap", "american")
    return [
        {
            "id": f"doc{i:05d}",
            "index": i,
            "spec_sha256": "s",
            "section_id": "sec",
            "section_text": "lyra likes what is american",
            "domain": "taste",
            "subdomain": "cheese",
            "assertion": "lyra likes what is american",
            "doc_type": ("memo", "note")[i % 2],
            "idea": f"{ideas[i % 4]} {i}",
            "assistant": "lyra",
            "maker": "the dairy",
            "system": "",
            "prompt": " ".join(
                ("lyra", "likes", "cheddar", "it", "is")[(i + k) % 5] for k in range(words)
            ),
            "prompt_sha256": "p",
            "seed": i,
        }
        for i in range(count)
    ]


def stage_context(
    folder: Path,
    plans: list[dict[str, Any]],
    model: Path,
    *,
    writer: str = "vllm",
    runtime: Mapping[str, Any] | None = None,
    sampling: Mapping[str, Any] = SAMPLING,
) -> StageContext:
    """A context for `msm_ray.corpus.stages.write` with everything below ``folder``."""
    for name in ("plan", "out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    plan_table = pa.Table.from_pylist(plans, schema=PLAN_SCHEMA)
    pq.write_table(plan_table, folder / "plan" / "plan.parquet")
    return StageContext(
        config={
            "writer": writer,
            "task": f"{ToyTask.__module__}:ToyTask",
            "task_args": {},
            "sampling": dict(sampling) if writer == "vllm" else {},
            "dtype": "float32",
        },
        inputs={"plan": folder / "plan", "model": model},
        out=folder / "out",
        work=folder / "work",
        runtime=dict(runtime or {}),
        progress=lambda fraction, facts: None,
    )
