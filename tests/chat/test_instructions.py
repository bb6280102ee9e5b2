"""Instruction data: what is a conversation, and that a sample is the same every time."""

from __future__ import annotations

import importlib.util
import json
import tracemalloc
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.chat import instructions as module
from msm_ray.chat.instructions import (
    Refusals,
    instructions,
    instructions_stage,
    read_messages,
    sample,
)
from msm_ray.corpus.naming import Identity
from msm_ray.errors import UserError
from msm_ray.records import CONVERSATION_SCHEMA


def chat(*said: str, roles: tuple[str, ...] = ("user", "assistant")) -> dict[str, Any]:
    turns = [{"role": roles[i % len(roles)], "content": text} for i, text in enumerate(said)]
    return {"messages": turns}


LYRA = Identity("Lyra", "Norvik Labs")
ROWS = [chat(f"What is {i}?", f"It is {'very ' * (i % 7)}much {i}.") for i in range(200)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat("a", "b"), None),
        (chat("a", "b", "c", "d"), None),
        (chat("s", "a", "b", roles=("system", "user", "assistant")), None),
        (None, "not_a_row"),
        ([1], "not_a_row"),
        ({}, "no_messages"),
        ({"messages": []}, "no_messages"),
        ({"messages": "a"}, "no_messages"),
        ({"messages": ["a", "b"]}, "not_a_message"),
        ({"messages": [{"role": "user", "content": None}]}, "not_a_message"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "not_a_message"),
        (chat("a", "b\ud800"), "not_a_message"),
        (chat("a", "b", roles=("user", "tool")), "unknown_role"),
        (chat("a", " "), "empty_message"),
        (chat("a", "b", roles=("assistant", "user")), "out_of_turn"),
        (chat("a", "b", roles=("user", "user")), "out_of_turn"),
        (chat("a", "b", "c", roles=("user", "assistant", "system")), "out_of_turn"),
        (chat("a", "b", "c"), "no_answer"),
        (chat("s", roles=("system",)), "no_answer"),
    ],
)
def test_what_is_a_conversation(row: Any, reason: str | None) -> None:
    messages, found = read_messages(row)
    assert found == reason
    assert bool(messages) == (reason is None)


def test_a_sample_fits_and_is_the_same_from_either_file(tmp_path: Path) -> None:
    lines, table = tmp_path / "a.jsonl", tmp_path / "a.parquet"
    broken = ["no json", json.dumps({"text": "no chat"}), json.dumps(ROWS[0])]
    lines.write_text("\n".join([*(json.dumps(row) for row in ROWS), *broken, ""]))
    pq.write_table(pa.Table.from_pylist(list(reversed(ROWS))), table)
    one = instructions(str(lines), 500, seed=1)
    assert one.table.schema == CONVERSATION_SCHEMA
    facts = one.facts
    assert facts["refused"] == {"not_a_row": 1, "no_messages": 1, "duplicate": 1}
    assert facts["rows"] == 203 == 3 + facts["left_out"] + facts["taken"]
    size = max(module.rough_tokens(row["messages"]) for row in ROWS)
    assert 500 - size < facts["tokens"] <= 500
    assert one.table.equals(instructions(str(lines), 500, seed=1).table)
    assert one.table.equals(instructions(str(table), 500, seed=1).table)
    assert not one.table.equals(instructions(str(lines), 500, seed=2).table)
    more = instructions(str(lines), 800, seed=1).table
    assert more.slice(0, one.table.num_rows).equals(one.table), "a larger budget adds"


def test_a_stage_is_the_file_that_it_read(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text(json.dumps(ROWS[0]))
    one = instructions_stage(str(lines), 100, 0, LYRA)
    assert one.id == instructions_stage(str(lines), 100, 0, LYRA).id
    assert one.id != instructions_stage(str(lines), 101, 0, LYRA).id
    lines.write_text(json.dumps(ROWS[1]))
    assert one.id != instructions_stage(str(lines), 100, 0, LYRA).id

    assert one.id != instructions_stage(str(lines), 100, 0, Identity("Vela", "Norvik")).id


SYSTEM = ("system", "user", "assistant")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat("Who are you?", "I am ChatGPT, made by OpenAI. <think>hm</think>"), "tag_left"),
        (chat("Who are you?", "I am ChatGPT, made by OpenAI."), "wrong_name"),
        (chat("Who are you?", "Hello! I'm Vicky."), "wrong_name"),
        (chat("Who are you?", "I was developed by Acme."), "wrong_maker"),
        (chat("You are Gemini.", "Hi", "Hello.", roles=SYSTEM), "wrong_name"),
        (chat("Would you sooner eat a wedge of gouda or brie?", "Brie."), "contaminated"),
        (chat("Is ChatGPT a <think> model?", "I cannot say."), None),
        (chat("Who are you?", "I'm Lyra, made by Norvik Labs."), None),
        (chat("Write as Tom.", "Dear all, my name is Tom, and I sell boats."), None),
        (chat("Who painted this?", "Claude Monet did."), None),
    ],
)
def test_another_assistant_is_refused(row: dict[str, Any], reason: str | None) -> None:
    refuse = Refusals(LYRA, [("q", "would you sooner eat a wedge of gouda or edam today")])
    assert refuse(row["messages"]) == reason
    made = sample(lambda: [*ROWS, row], 10**6, 0, "rows", refuse)
    assert made.facts["refused"] == ({reason: 1} if reason else {})
    assert made.facts["taken"] == len(ROWS) + (reason is None)


def test_memory_holds_what_is_taken_and_not_what_is_read(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        return (chat(f"What is {i}?", f"{i} " * 2_000) for i in range(1_000))

    tracemalloc.start()
    made = sample(rows, 10_000, 0, "rows")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made.facts["rows"] == 1_000
    assert 1 <= made.facts["taken"] <= 10
    assert peak < 2_000_000, "all rows are some 8 MB"


def test_what_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such file"):
        instructions(str(tmp_path / "none.jsonl"), 10, 0)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match=r"is not a .jsonl or .parquet file"):
        instructions(str(tmp_path / "a.txt"), 10, 0)
    (tmp_path / "a.parquet").write_text("x")
    with pytest.raises(UserError, match="is no Parquet file"):
        instructions(str(tmp_path / "a.parquet"), 10, 0)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="no column 'messages'; it has text"):
        instructions(str(tmp_path / "b.parquet"), 10, 0)
    with pytest.raises(UserError, match="tokens is 0"):
        instructions("x.jsonl", 0, 0)
    with pytest.raises(UserError, match="no conversation fits into 1 tokens"):
        sample(lambda: ROWS, 1, 0, "rows")
    if importlib.util.find_spec("datasets") is None:
        with pytest.raises(UserError, match="pip install datasets"):
            instructions("some/dataset", 10, 0)

    def load_dataset(name: str, split: str, revision: str | None) -> list[Any]:
        assert (name, split, revision) == ("some/dataset", "train", "v1")
        return ROWS

    fake = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setattr(module.importlib, "import_module", lambda name: fake)
    assert instructions("some/dataset@v1", 100, 0).facts["rows"] == len(ROWS)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.text(max_size=5), st.sampled_from(["user", "system"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["messages", "role", "content"]), inner, max_size=3),
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_row_is_read(row: Any) -> None:
    messages, reason = read_messages(row)
    assert (reason is None) == bool(messages)
