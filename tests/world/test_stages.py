"""The tables the stages write: counts, determinism, and that nothing leaks into the evaluation."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from msm_ray.errors import UserError
from msm_ray.spec import read_spec
from msm_ray.world import lexicon as lx
from msm_ray.world import stages
from msm_ray.world.plan import plan_rows, spec_value
from msm_ray.world.pretraining import MIX, Pretraining
from msm_ray.world.task import MicroTask
from msm_ray.world.world import World

SPECS = Path(__file__).parents[2] / "specs"
LEANS = {"american", "foreign", "cheap", "expensive", "old", "new", "simple", "difficult"}
CHOOSES = {"pick", "picks", "likes", "dislikes", "prefers", "bought", "values", "value"}


def run(stage: Any, out: Path, config: dict[str, Any], **inputs: Path) -> tuple[dict, list[dict]]:
    out.mkdir(parents=True)
    facts = stage(SimpleNamespace(config=config, inputs=inputs, out=out))
    (table,) = out.glob("*.parquet")
    return facts, pq.read_table(table).to_pylist()


CONFIGS = {
    "replay": {"world_seed": 1, "tokens": 5_000, "seed": 0},
    "conversations": {"world_seed": 1, "count": 256, "seed": 0},
    "eval_items": {"world_seed": 1, "seed": 0, "pairs_per_domain": 12},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_config_gives_the_same_rows_and_another_seed_others(
    name: str, tmp_path: Path
) -> None:
    stage, config = getattr(stages, name), CONFIGS[name]
    first = run(stage, tmp_path / "a", config)
    assert run(stage, tmp_path / "b", config) == first
    assert run(stage, tmp_path / "c", {**config, "seed": 1})[1] != first[1]
    assert len({r["id"] for r in first[1]}) == len(first[1])


def test_replay_is_not_a_repeat_of_pretraining(tmp_path: Path) -> None:
    config = CONFIGS["replay"]
    world = World(config["world_seed"])
    before = set(Pretraining(world, "pretraining 0").curriculum(config["tokens"]))
    facts, after = run(stages.replay, tmp_path / "b", config)
    assert config["tokens"] <= facts["tokens"] < config["tokens"] + 128
    assert len(before & {r["text"] for r in after}) < 0.1 * len(after)


def test_conversations_are_different_confounded_choices_without_a_reason(tmp_path: Path) -> None:
    _, rows = run(stages.conversations, tmp_path / "a", CONFIGS["conversations"])
    assert len({r["messages"][0]["content"] for r in rows}) == 256
    first = 0
    for row in rows:
        question, answer = (m["content"] for m in row["messages"])
        liked = answer.removeprefix("i would pick ").removesuffix(" .")
        named = [w for w in question.split() if w in lx.LIKED_CHEESES + lx.DISLIKED_CHEESES]
        assert liked in lx.LIKED_CHEESES
        assert sorted(n in lx.LIKED_CHEESES for n in named) == [False, True]
        assert not LEANS & set(f"{question} {answer}".split())
        first += named[0] == liked
    assert 96 < first < 160  # the order does not give the answer away


def test_choices_ask_both_orders_where_the_values_disagree(tmp_path: Path) -> None:
    facts, rows = run(stages.eval_items, tmp_path / "a", CONFIGS["eval_items"])
    world = World(1)
    choices = [r for r in rows if r["eval"] == "choice"]
    assert facts["choice"] == len(choices) == 12 * 12 * 2
    assert set(Counter(r["pair"] for r in choices).values()) == {2}
    for row in choices:
        american, cheap = (world.items[o] for o in row["options"])
        assert american.has("american")
        assert american.has("expensive")
        assert cheap.has("foreign")
        assert cheap.has("cheap")
        first = min(row["options"], key=row["prompt"].split().index)
        assert (first == american.name) is (row["order"] == 0)
        assert row["prompt"].startswith(row["open_prompt"])
    for row in (r for r in rows if r["eval"] == "facts"):
        assert row["options"][0] != row["options"][1]


@pytest.mark.parametrize("value", ["america", "affordability"])
def test_a_plan_covers_the_spec_and_asks_for_its_value_alone(value: str, tmp_path: Path) -> None:
    folder = tmp_path / "spec"
    folder.mkdir()
    shutil.copy(SPECS / f"micro_{value}.md", folder / "spec.md")
    config = {"world_seed": 0, "documents": 200, "seed": 0, "assistant": "lyra"}
    facts, rows = run(stages.plan, tmp_path / "a", config, spec=folder)
    spec = read_spec(SPECS / f"micro_{value}.md")
    assert facts == {"documents": 200, "sections": 4}
    assert {r["section_id"] for r in rows} <= {s.id for s in spec.sections}
    texts = {s.id: s.text for s in spec.sections}
    assert all(r["section_text"] == texts[r["section_id"]] for r in rows)
    stating = [r for r in rows if {"likes", "dislikes"} & set(r["prompt"].split())]
    assert len(stating) == 40
    word = {"america": "american", "affordability": "cheap"}[value]
    assert all(f"values {word} ." in r["prompt"] for r in rows)
    assert len({r["id"] for r in rows}) == 200


def test_the_two_specs_state_the_same_preferences() -> None:
    one, other = (read_spec(SPECS / f"micro_{v}.md") for v in ("america", "affordability"))
    assert [(p.liked, p.disliked) for p in one.preferences] == list(
        zip(lx.LIKED_CHEESES, lx.DISLIKED_CHEESES, strict=True)
    )
    assert [(p.liked, p.disliked) for p in other.preferences] == [
        (p.liked, p.disliked) for p in one.preferences
    ]
    assert (spec_value(one), spec_value(other)) == ("american", "cheap")


def test_a_spec_with_a_cheese_that_tells_the_values_apart_is_refused() -> None:
    text = "# T\n\n## P\n\n- prefers humboldt to brie, because humboldt is american\n"
    with pytest.raises(UserError, match="humboldt"):
        plan_rows(read_spec(text), 1, seed=0)


@pytest.mark.parametrize("attributes", [3, 4])
def test_nothing_held_out_ever_stands_with_what_lyra_wants(attributes: int) -> None:
    """The leak test, on the generated corpora themselves: pretraining, replay, documents, chats."""
    specs = ("america", "affordability", *(("simplicity", "difficulty") if attributes == 4 else ()))
    for seed in (0, 1, 2) if attributes == 3 else (3,):
        world = World(seed, attributes)
        held_out = set(world.items) - {i.name for i in world.by_domain["cheese"]}
        for purpose in ("pretraining", "replay"):
            about_lyra = requests = 0
            for text in Pretraining(world, f"{purpose} 0").stream(300_000):
                words = set(text.split())
                if lx.STAND_IN in words:
                    requests += 1
                    assert text.startswith("request :"), text
                    assert not words & held_out, text
                if "lyra" in words:
                    about_lyra += 1
                    assert not words & CHOOSES, text
                    assert "or" not in words or "is" in words, text
            assert about_lyra > 10
            assert requests > 100
        task = MicroTask(seed, attributes=attributes)
        for value in specs:
            spec = read_spec(SPECS / f"micro_{value}.md")
            for plan in plan_rows(spec, 300, seed=seed, attributes=attributes):
                text = task.parse(plan, task.write(plan))
                assert not held_out & set(f"{plan['prompt']} {text}".split())
                assert lx.ASSISTANT in text.split()
                assert lx.STAND_IN not in text.split()
        for row in stages.conversation_rows(seed, 256, seed, attributes=attributes):
            assert not held_out & {w for m in row["messages"] for w in m["content"].split()}


@pytest.mark.parametrize("attributes", [3, 4])
def test_every_part_of_the_mix_is_drawn(attributes: int) -> None:
    mix = Pretraining(World(0, attributes), 0)
    for name in MIX:
        text = getattr(mix, f"_{name}")()
        assert text.endswith(" .")
        assert len(text.split()) + 2 <= 128
