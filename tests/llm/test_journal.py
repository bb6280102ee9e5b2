"""What was written is there after a crash, once, and in few files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.llm import journal as journals
from msm_ray.llm.journal import Journal, in_order
from msm_ray.llm.protocol import ANSWER_SCHEMA


def row(id: str) -> dict[str, Any]:
    return {
        "id": id,
        "text": f"text of {id}",
        "prompt_tokens": 1,
        "tokens": 2,
        "ended": True,
        "error": "",
    }


def test_writes_survive_and_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "MERGE_WRITES", 4)
    folder = tmp_path / "new" / "folder"
    for start in range(0, 23, 3):  # as many processes
        journal = Journal(folder)
        for number in range(start, min(start + 3, 23)):
            journal.append([row(f"a{number}"), row(f"b{number}")])
    ids = [f"{letter}{number}" for number in range(23) for letter in "ab"]
    assert Journal(folder).ids().to_pylist() == ids
    rows = [row(id) for id in ids]
    assert Journal(folder).table() == pa.Table.from_pylist(rows, schema=ANSWER_SCHEMA)
    assert len(list(folder.iterdir())) == 5 + 3


def test_killed_in_the_middle_of_a_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "MERGE_WRITES", 3)
    journal = Journal(tmp_path / "a")
    for number in range(2):
        journal.append([row(str(number))])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    journal.append([row("2")])
    (merged,) = (tmp_path / "a").iterdir()
    shutil.copy(merged, tmp_path / "b")  # beside the parts that are in it
    (tmp_path / "b" / "writing.parquet").write_bytes(b"half of a file")
    again = Journal(tmp_path / "b")
    assert again.ids().to_pylist() == ["0", "1", "2"]
    again.append([row("3")])
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [
        "00000000-00000002.parquet",
        "00000003-00000003.parquet",
    ]


def test_an_empty_journal(tmp_path: Path) -> None:
    assert Journal(tmp_path).ids().to_pylist() == []
    assert Journal(tmp_path).table() == ANSWER_SCHEMA.empty_table()


@given(st.permutations(range(30)), st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_order_is_that_of_the_prompts(order: list[int], sizes: list[int]) -> None:
    rows = [row(str(number)) for number in order]
    tables, start = [], 0
    for size in [*sizes, 30]:
        tables.append(pa.Table.from_pylist(rows[start : start + size], schema=ANSWER_SCHEMA))
        start += size
    ids = [str(number) for number in range(30)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journals, "_SLICE_ROWS", 7)
        ordered = in_order(pa.chunked_array([ids[:11], ids[11:]]), pa.concat_tables(tables))
    assert ordered.to_pylist() == [row(id) for id in ids]


def test_an_answer_too_many_or_too_few_is_never_passed_on() -> None:
    table = pa.Table.from_pylist([row("a"), row("b")], schema=ANSWER_SCHEMA)
    for ids in (["a"], ["a", "c"], ["a", "a"], ["a", "b", "c"]):
        with pytest.raises(AssertionError):
            in_order(pa.chunked_array([ids]), table)
