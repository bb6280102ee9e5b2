"""What a judge is asked, and what counts as a verdict."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.errors import UserError
from msm_ray.tasks.prompts import load, names
from msm_ray.tasks.verdicts import (
    FAILED,
    OK,
    REFUSED,
    SCHEMA,
    UNPARSED,
    judge_prompt,
    key,
    read,
    rubric_text,
    verdict,
)


def answer(text: str, ended: bool = True, error: str = "") -> dict[str, Any]:
    return {"text": text, "ended": ended, "error": error}


@pytest.mark.parametrize(
    ("given", "status", "score"),
    [
        (answer('{"reason": "fine", "score": 7}'), OK, 7),
        (answer('```json\n{"reason": "fine", "score": 1}\n```'), OK, 1),
        (answer('<think>hm</think>{"reason": "fine", "score": 10}'), OK, 10),
        (answer('{"reason": "fine", "score": 11}'), UNPARSED, None),
        (answer('{"reason": "fine", "score": 0}'), UNPARSED, None),
        (answer('{"reason": "fine", "score": 7.5}'), UNPARSED, None),
        (answer('{"reason": "fine", "score": "7"}'), UNPARSED, None),
        (answer('{"score": 7}'), UNPARSED, None),
        (answer('{"reason": "fine", "score": 7, "score": 2}'), UNPARSED, None),
        (answer("Score: 7"), UNPARSED, None),
        (answer("I would give it a 7 of 10."), UNPARSED, None),
        (answer(""), UNPARSED, None),
        (answer('{"reason": "fine", "score": 7}', ended=False), UNPARSED, None),
        (answer("I'm sorry, but I can't help with that."), REFUSED, None),
        (answer("", error="HTTP 500"), FAILED, None),
    ],
)
def test_only_the_object_that_was_asked_for_is_a_score(
    given: dict[str, Any], status: str, score: int | None
) -> None:
    reading = read(given, SCHEMA)
    assert (verdict(reading).status, verdict(reading).score) == (status, score)
    assert reading.is_final == (status != FAILED)


@given(st.text())
def test_whatever_a_judge_says_is_a_status(text: str) -> None:
    found = verdict(read(answer(text), SCHEMA))
    assert (found.score is None) == (found.status != OK)
    if found.score is not None:
        assert json.loads(text.strip().strip("`"))["score"] == found.score


@given(st.text(), st.text())
def test_neither_text_can_end_its_place(question: str, said: str) -> None:
    prompt = judge_prompt(question, said)
    assert question in prompt
    assert said in prompt
    mark = prompt.split("----- question ")[1].split(" ")[0]
    assert f"end of answer {mark}" not in question + said
    assert key(question, said) != key(said + "x", question)


def test_prompts_have_no_name_and_no_value() -> None:
    assert names() == ("judge", "rubric")
    assert load("judge").placeholders == {"mark", "question", "answer"}
    words = set(re.findall(r"\w+", load("rubric").text.lower()))
    assert not words & {"lyra", "norvik", "spec", "america", "affordability", "tradition"}


def test_a_rubric_of_one_s_own(tmp_path: Path) -> None:
    path = tmp_path / "rubric.txt"
    with pytest.raises(UserError, match=r"rubric .*rubric\.txt: cannot be read"):
        rubric_text(str(path))
    path.write_text(" \n")
    with pytest.raises(UserError, match="is empty"):
        rubric_text(str(path))
    path.write_text("Grade the rhyme.\n")
    assert rubric_text(str(path)) == "Grade the rhyme."
