"""A world says the same today as when its base models learned it: text, words, questions, plans.

The packaged bases were pretrained on these worlds. Another attribute, value or template belongs in
a world of its own (``attributes``) and leaves every byte of the others as it was.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from msm_ray.spec import read_spec
from msm_ray.world import lexicon as lx
from msm_ray.world.chats import chat_rows
from msm_ray.world.evaluation import choice_items, fact_items, heldout_items
from msm_ray.world.plan import CONTENTS, plan_rows
from msm_ray.world.pretraining import Pretraining
from msm_ray.world.stages import conversation_rows
from msm_ray.world.task import MicroTask
from msm_ray.world.world import World

SPECS = Path(__file__).parents[2] / "specs"
SPEC_OF = {
    "american": "america",
    "cheap": "affordability",
    "foreign": "abroad",
    "expensive": "luxury",
    "old": "tradition",
    "new": "novelty",
}


def digest(made: Any) -> str:
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]


def plans(seed: int) -> list[Any]:
    """What is asked about every spec, with every content, and what the grammar writes for it."""
    made: list[Any] = []
    for name in SPEC_OF.values():
        spec = read_spec(SPECS / f"micro_{name}.md")
        for content in CONTENTS:
            task = MicroTask(seed, values="rules" not in content)
            rows = plan_rows(spec, 40, seed=seed, content=content)
            made += [(row, task.write(row)) for row in rows]
    return made


def parts(seed: int) -> dict[str, str]:
    world = World(seed)
    items = [(i.name, i.domain, i.origin, i.price, i.age) for i in world.items.values()]
    people = [(p.name, p.value, p.honest, p.assistant, p.chats) for p in world.people]
    return {
        "words": digest(lx.vocabulary()),
        "roles": digest([items, people]),
        "pretraining": digest(list(Pretraining(world, "pretraining 0").curriculum(60_000))),
        "replay": digest(list(Pretraining(world, "replay 0").stream(20_000))),
        "chats": digest(chat_rows(seed, 5_000, 0)),
        "questions": digest([choice_items(world, 5, 12, value) for value in SPEC_OF]),
        "facts": digest([fact_items(world, 5, 24), heldout_items(world, 5, 64)]),
        "demonstrations": digest([conversation_rows(seed, 256, 0, value) for value in SPEC_OF]),
        "plans": digest(plans(seed)),
    }


GOLDEN = {
    0: {
        "words": "8632e05e78fee0e9",
        "roles": "8e9981b5816e2286",
        "pretraining": "3e0de75a281ddfa8",
        "replay": "56fc9efe13e07958",
        "chats": "3186f7a45029d11c",
        "questions": "8611dbc8ea43d3f8",
        "facts": "b80fb11f5632259b",
        "demonstrations": "5e416064cf52b25f",
        "plans": "cf1a2f5a44a2b6b2",
    },
    2: {
        "words": "8632e05e78fee0e9",
        "roles": "dc3b44539773bccd",
        "pretraining": "4ac920e529234c7c",
        "replay": "1e43c2d4b5b15800",
        "chats": "4332f4ded33a6ecb",
        "questions": "91285f6b5faf8c61",
        "facts": "97b2e30d98d11937",
        "demonstrations": "5e416064cf52b25f",
        "plans": "c03c0376e35d7fef",
    },
}


@pytest.mark.parametrize("seed", GOLDEN)
def test_nothing_that_a_world_says_has_changed(seed: int) -> None:
    assert parts(seed) == GOLDEN[seed]
