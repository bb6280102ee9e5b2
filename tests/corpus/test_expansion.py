"""Expanding a level: counts are reached where they can be, and what is missing says why."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msm_ray.corpus import expansion, levels
from msm_ray.corpus.expansion import Expansion, expand
from msm_ray.corpus.filters import normalise
from msm_ray.corpus.levels import Item, Parent
from msm_ray.llm import protocol
from msm_ray.llm.protocol import Sampling

from .planner import Planner, badly, config

TOPIC = {"subdomain": "s", "description": "d", "section": "x"}
PARENTS = [Parent(f"p{i}", f"Parent {i}", {**TOPIC, "domain": f"domain {i}"}) for i in range(4)]


def run(
    planner: Planner,
    work: Path,
    wanted: int = 6,
    parents: Sequence[Parent] = PARENTS,
    **changes: int,
) -> Expansion:
    level = levels.types(wanted)
    return expand(level, parents, planner, config(**changes), work, lambda level, done, asked: None)


class Refuses(Planner):
    """Answers about one parent with the same text, whatever is asked."""

    def __init__(self, about: str, text: str) -> None:
        super().__init__()
        self.about, self.text = about, text

    def row(self, prompt: dict[str, str], sampling: Sampling) -> dict[str, Any]:
        row = super().row(prompt, sampling)
        return {**row, "text": self.text} if self.about in prompt["prompt"] else row


def test_counts_are_reached(tmp_path: Path) -> None:
    planner = Planner()
    result = run(planner, tmp_path)
    assert {parent: len(items) for parent, items in result.items.items()} == dict.fromkeys(
        ("p0", "p1", "p2", "p3"), 6
    )
    assert (result.shortfalls, result.failures, result.dropped) == ((), (), {})
    assert (result.calls, result.tokens, result.prompt_tokens) == (4, 20, 28)


def test_many_items_are_asked_for_in_several_answers_that_show_what_is_there(
    tmp_path: Path,
) -> None:
    planner = Planner()
    result = run(planner, tmp_path, wanted=25, parents=PARENTS[:1], per_answer=10, rounds=0)
    assert len(result.items["p0"]) == 25
    assert result.calls == 3
    first, second, third = (prompt["prompt"] for prompt in planner.asked)
    assert "Give 10 items." in first
    assert "already" not in first
    assert second.startswith(first)  # what was read once is not read again
    assert all(f"- {item.name}\n" in second for item in result.items["p0"][:10])
    assert "Give 5 more" in third


def test_a_refused_topic_ends_as_a_shortfall_and_leaves_the_others_alone(tmp_path: Path) -> None:
    planner = Refuses("domain 2", "I am sorry, I cannot do that.")
    result = run(planner, tmp_path)
    assert [len(items) for items in result.items.values()] == [6, 6, 0, 6]
    (shortfall,) = result.shortfalls
    assert (shortfall.level, shortfall.parent, shortfall.wanted, shortfall.got) == (
        "types",
        "Parent 2",
        6,
        0,
    )
    assert shortfall.reasons == {"no list in the answer": 3}
    assert shortfall.example == "I am sorry, I cannot do that."
    assert result.calls == 4 + 2  # once more in each of two rounds, and then no more


def test_what_there_is_again_and_again_is_a_shortfall(tmp_path: Path) -> None:
    same = json.dumps(
        {"items": [{"name": f"Memo {'!' * i}", "description": "d"} for i in range(6)]}
    )
    (shortfall,) = run(Refuses("domain 0", same), tmp_path, parents=PARENTS[:1]).shortfalls
    assert (shortfall.got, dict(shortfall.reasons)) == (1, {"duplicate": 5 + 6 + 6})


def test_errors_are_reported_each_and_asked_again(tmp_path: Path) -> None:
    def once(level: str, answer: str, chance: random.Random) -> str:
        return "error: 503" if chance.random() < 0.5 else answer

    result = run(Planner(once), tmp_path, rounds=30)
    assert all(len(items) == 6 for items in result.items.values())
    assert len(result.failures) == result.dropped["error"] == result.calls - 4 > 0
    assert {failure.error for failure in result.failures} == {"503"}
    lost = run(Planner(lambda *_: "error: down"), tmp_path / "down")
    assert [s.reasons for s in lost.shortfalls] == [{"error": 3}] * 4


def test_a_row_that_does_not_come_back_is_a_failure(tmp_path: Path) -> None:
    class Forgets(Planner):
        def answer(self, *arguments: Any) -> pa.Table:
            return super().answer(*arguments).slice(1)

    result = run(Forgets(), tmp_path)
    assert [len(items) for items in result.items.values()] == [0, 6, 6, 6]
    assert {failure.error for failure in result.failures} == {expansion.NO_ANSWER}


@pytest.mark.parametrize("seed", range(6))
def test_bad_answers_cost_rounds_and_never_good_items(seed: int, tmp_path: Path) -> None:
    def spoil(level: str, answer: str, chance: random.Random) -> str:
        return badly(level, answer, random.Random(f"{seed} {answer}"))

    parents = [Parent(f"p{i}", f"Parent {i}", PARENTS[0].values) for i in range(40)]
    result = run(Planner(spoil), tmp_path, parents=parents, wanted=8, per_answer=5, rounds=4)
    for parent in parents:
        items = result.items[parent.id]
        missing = [s for s in result.shortfalls if s.parent == parent.label]
        assert len(items) + sum(s.wanted - s.got for s in missing) == 8
        assert len({normalise(item.name) for item in items}) == len(items)
        assert all(item.parent == parent.id for item in items)
        assert all(s.reasons for s in missing)
    assert sum(len(items) for items in result.items.values()) > 40 * 8 * 0.9
    assert result.calls <= 40 * (2 + 4)
    assert len(result.failures) == result.dropped["error"]


def test_order_of_rows_and_of_parents_changes_nothing(tmp_path: Path) -> None:
    plain = run(Planner(badly), tmp_path / "a")
    assert run(Planner(badly, shuffle=1), tmp_path / "b") == plain
    turned = run(Planner(badly), tmp_path / "c", parents=PARENTS[::-1])
    assert turned.items == plain.items
    assert sorted(turned.shortfalls, key=lambda s: s.parent) == list(plain.shortfalls)


def test_parts_of_a_round_are_the_same_as_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = Planner(badly)
    whole = run(at_once, tmp_path / "whole")
    monkeypatch.setattr(protocol, "CALL_BYTES", 20_000)
    seen: list[tuple[int, int]] = []
    planner = Planner(badly)
    parts = expand(
        levels.types(6),
        PARENTS,
        planner,
        config(),
        tmp_path / "parts",
        lambda level, done, asked: seen.append((done, asked)),
    )
    assert parts == whole
    assert planner.calls > at_once.calls
    assert all(done <= asked for done, asked in seen)


@pytest.mark.parametrize("die_after", [0, 1, 11, 12, 14])
def test_a_killed_run_continues_and_asks_nothing_twice(die_after: int, tmp_path: Path) -> None:
    parents = [Parent(f"p{i}", f"Parent {i}", PARENTS[0].values) for i in range(12)]
    whole = run(Planner(badly), tmp_path / "whole", parents=parents)
    killed = Planner(badly, die_after=die_after)
    with pytest.raises(KeyboardInterrupt):
        run(killed, tmp_path / "killed", parents=parents)
    again = Planner(badly)
    assert run(again, tmp_path / "killed", parents=parents) == whole
    asked = [prompt["id"] for prompt in (*killed.asked, *again.asked)]
    assert len(asked) == len(set(asked)) == whole.calls


def test_a_long_list_of_what_is_there_is_shortened(tmp_path: Path) -> None:
    planner = Planner()
    run(planner, tmp_path, wanted=400, parents=PARENTS[:1], per_answer=100, rounds=0)
    last = planner.asked[-1]["prompt"]
    assert "- (150 others)" in last
    assert last.count("\n- name ") == expansion.SHOWN


def test_items_keep_their_order(tmp_path: Path) -> None:
    items = run(Planner(), tmp_path).items["p1"]
    assert all(isinstance(item, Item) for item in items)
    assert len({item.id for item in items}) == 6


def test_what_errors_took_is_told_from_what_answers_left_out(tmp_path: Path) -> None:
    result = run(Refuses("domain 2", "error: gone"), tmp_path / "a")
    assert (result.wanted, result.lost) == (24, 0)  # an answer that says "error" is one
    fails = Planner(lambda level, text, chance: "error: gone")
    result = run(fails, tmp_path / "b")
    assert (result.wanted, result.lost) == (24, 24)
    assert {failure.error for failure in result.failures} == {"gone"}


def test_an_error_that_a_later_round_makes_good_took_nothing(tmp_path: Path) -> None:
    asked: list[str] = []

    def first(level: str, text: str, chance: random.Random) -> str:
        asked.append(text)
        return "error: gone" if len(asked) <= 4 else text

    result = run(Planner(first), tmp_path)
    assert len(result.failures) == 4
    assert (result.wanted, result.lost) == (24, 0)


@pytest.mark.parametrize("name", ["section", "description"])
def test_a_call_has_no_more_bytes_than_it_may(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "CALL_BYTES", 200_000)
    parents = [
        Parent(f"p{i}", f"Parent {i}", {**p.values, name: "quay " * 10_000})
        for i, p in enumerate(PARENTS * 3)
    ]
    sizes: list[int] = []

    class Sized(Planner):
        def answer(self, prompts: pa.Table, *others: Any) -> pa.Table:
            sizes.append(sum(len(row["prompt"]) for row in prompts.to_pylist()))
            return super().answer(prompts, *others)

    run(Sized(), tmp_path, parents=parents)
    assert len(sizes) == 4
    assert max(sizes) <= 200_000
