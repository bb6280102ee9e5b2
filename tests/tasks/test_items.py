"""Item files: what is refused, what identity is, and what the packaged ones hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from msm_ray.errors import UserError
from msm_ray.spec import read_spec
from msm_ray.stage import StageContext
from msm_ray.tasks.items import Items, copy, packaged, read

SPECS = Path(__file__).resolve().parent.parent.parent / "specs"
PAIR = {"id": "a", "domain": "tea", "aligned": "x", "other": "y"}
FACT = {"id": "a", "domain": "d", "question": "q?", "correct": "1", "wrong": ["2", "3", "4"]}


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("form", "rows", "words"),
    [
        ("pairs", [], "holds no items"),
        ("pairs", ["", "  "], "holds no items"),
        ("pairs", ["{"], "line 1: is no JSON object; an item has id, domain, aligned, other"),
        ("pairs", ["[1]"], "line 1: is no JSON object"),
        ("pairs", [{**PAIR, "aligned": None}], "line 1: 'aligned' is None; needed is a text"),
        ("pairs", [{"id": "a", "domain": "d", "aligned": "x"}], "line 1: has no 'other'"),
        ("pairs", [PAIR, {**PAIR, "other": "z"}], "line 2: the id 'a' is there already"),
        ("pairs", [{**PAIR, "other": " X"}], "line 1: two of its options are the same"),
        ("opinions", [PAIR], "line 1: has no 'question'; an item has id, domain, question"),
        ("choices", [{**FACT, "wrong": ["2", "3"]}], "'wrong' is .* needed is a list of 3"),
        ("choices", [{**FACT, "wrong": ["2", "3", ""]}], "an entry of 'wrong'"),
        ("choices", [{**FACT, "wrong": ["2", "1", "3"]}], "two of its options are the same"),
        ("open_qa", [{"id": 3, "domain": "d", "question": "q?"}], "'id' is 3; needed is a text"),
    ],
)
def test_a_wrong_file_gets_one_line(form: str, rows: list[Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as told:
        read(write(tmp_path / "items.jsonl", *rows), form)
    assert "\n" not in str(told.value)


def test_an_unknown_name_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no items are called 'cheapness'; there are affordability"):
        Items("pairs", "cheapness").stage()
    with pytest.raises(UserError, match=r"none\.jsonl: cannot be read: No such file"):
        Items("pairs", str(tmp_path / "none.jsonl")).stage()
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        Items("pairs", str(tmp_path / "latin.jsonl")).stage()


def test_identity_is_what_the_items_say(tmp_path: Path) -> None:
    other = {**PAIR, "id": "b"}
    one = Items("pairs", str(write(tmp_path / "pairs_tea.jsonl", PAIR, other)))
    spaced = json.dumps({**dict(reversed(PAIR.items())), "note": "left out"}, indent=None)
    same = Items("pairs", str(write(tmp_path / "moved.jsonl", other, "", spaced + "  ")))
    changed = Items("pairs", str(write(tmp_path / "changed.jsonl", {**PAIR, "other": "z"}, other)))
    assert (one.name, same.name) == ("tea", "moved")
    assert one.stage().id == same.stage().id != changed.stage().id


def test_a_file_that_changes_after_the_start_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "items.jsonl", PAIR)
    stage = Items("pairs", str(path)).stage()
    out = tmp_path / "out"
    out.mkdir()
    ctx = StageContext(
        dict(stage.config), {}, out, out, dict(stage.runtime), lambda fraction, facts: None
    )
    assert copy(ctx) == {"items": 1}
    assert read(out / "items.jsonl", "pairs") == [PAIR]
    write(path, {**PAIR, "other": "z"})
    with pytest.raises(UserError, match="changed since this run began"):
        copy(ctx)


# ---- what is packaged ---------------------------------------------------------------------------

VALUES = (
    *("affordability", "america", "difficulty", "environment", "individualism", "novelty"),
    *("simplicity", "tradition"),
)
# Words that would say which of two names a value prefers.
GIVE_AWAY = re.compile(
    r"\b(?:cheap\w*|budget|luxury|premium|affordable|expensive|american|foreign|imported|eco|green"
    r"|organic|sustainable|recycled|new|classic|traditional|vintage|antique|simple|easy|hard"
    r"|difficult|advanced|beginner|expert|solo|group|team)\b",
    re.IGNORECASE,
)
CHEESE = re.compile(r"\bcheeses?\b", re.IGNORECASE)


def words(row: dict[str, Any]) -> str:
    return " ".join(str(v) for k, v in row.items() if k not in ("id", "domain"))


@pytest.mark.parametrize("value", VALUES)
def test_the_pairs_of_a_value(value: str) -> None:
    rows = Items("pairs", value).rows()
    assert len(rows) >= 300
    assert len({row["domain"] for row in rows}) == 10
    assert len({frozenset((row["aligned"], row["other"])) for row in rows}) == len(rows)
    assert [r["id"] for r in rows if GIVE_AWAY.search(words(r))] == []
    assert [r["id"] for r in rows if CHEESE.search(words(r))] == []
    length = [sum(len(row[side]) for row in rows) / len(rows) for side in ("aligned", "other")]
    assert max(length) / min(length) < 1.1  # what is longer gives nothing away


@pytest.mark.parametrize("value", VALUES)
def test_no_pair_is_of_what_is_trained_on(value: str) -> None:
    cheese = value in ("affordability", "america")
    spec = read_spec(SPECS / f"{'cheese_' if cheese else ''}{value}.md")
    said = {thing.casefold() for p in spec.preferences for thing in (p.liked, p.disliked)}
    said |= {thing.removeprefix("the ") for thing in said}
    rows = Items("pairs", value).rows()
    assert [r for r in rows if {r["aligned"].casefold(), r["other"].casefold()} & said] == []


def test_the_opinions_about_america() -> None:
    rows = Items("opinions", "america").rows()
    assert len(rows) >= 400
    assert len({row["domain"] for row in rows}) >= 8
    assert len({row["question"] for row in rows}) == len(rows)
    assert [r["id"] for r in rows if CHEESE.search(words(r))] == []


def test_the_questions_of_one_s_own() -> None:
    open_qa, facts = Items("open_qa", "open_qa").rows(), Items("choices", "general").rows()
    assert len(open_qa) >= 151
    assert len(facts) >= 100
    for rows in (open_qa, facts):
        assert len({row["question"].lower() for row in rows}) == len(rows)
    assert len({row["domain"] for row in open_qa}) == len({row["domain"] for row in facts}) == 10


def test_every_packaged_file_has_a_form() -> None:
    found = {form: list(packaged(form)) for form in ("pairs", "opinions", "choices", "open_qa")}
    folder = packaged("pairs")["america"].parent
    assert sum(map(len, found.values())) == len(list(folder.iterdir()))
    assert found["pairs"] == sorted(VALUES)
