"""Prompts: what is put in is text, and nothing is forgotten."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.corpus import prompts
from msm_ray.corpus.prompts import Prompt, fingerprint, load, names

FOLDER = Path(prompts.__file__).parent
SYSTEMS = ("planner", "writer")


def test_one_file_is_one_prompt() -> None:
    assert [f"{name}.md" for name in names()] == sorted(path.name for path in FOLDER.glob("*.md"))
    for name in names():
        prompt = load(name)
        assert prompt.text == prompt.text.strip()
        assert prompt.sha256 == hashlib.sha256(prompt.text.encode()).hexdigest()
        assert len({line for line in prompt.text.split("\n") if len(line) > 60}) > 0
    with pytest.raises(ValueError, match="no prompt 'nothing'; there are assertions, "):
        load("nothing")


def test_the_spec_stands_first_and_only_in_the_system_texts() -> None:
    for name in names():
        if name in SYSTEMS:
            assert load(name).text.startswith("<model_spec>\n<<spec>>\n</model_spec>\n")
            assert load(name).placeholders == {"spec", "assistant", "maker"}
        else:
            assert "spec" not in load(name).placeholders


def test_values_are_text_whatever_stands_in_them() -> None:
    prompt = Prompt("p", "a <<x>> {x} %s <<y>> <<x>> <<not one>> <<")
    filled = prompt.fill(x="<<y>> {y} \\1", y="<<x>>")
    assert filled == "a <<y>> {y} \\1 {x} %s <<x>> <<y>> {y} \\1 <<not one>> <<"


def test_what_is_missing_or_unknown_is_told() -> None:
    prompt = Prompt("p", "<<a>> <<b>>")
    with pytest.raises(ValueError, match=r"'p': no value for \['b'\], no placeholder for \['c'\]"):
        prompt.fill(a="", c="")
    assert prompt.fill(a="", b="") == " "


@given(st.lists(st.sampled_from(["<<a>>", "<<b>>", "<", ">", "{}", "\n", "<<a", "b>>"])), st.text())
def test_one_pass(parts: list[str], value: str) -> None:
    prompt = Prompt("p", "|".join(parts))
    values = dict.fromkeys(prompt.placeholders, f"<<b>>{value}")
    expected = "|".join(f"<<b>>{value}" if p in ("<<a>>", "<<b>>") else p for p in parts)
    assert prompt.fill(**values) == expected


def test_another_word_is_another_fingerprint() -> None:
    assert fingerprint(["writer", "write"]) == fingerprint(["write", "writer"])
    assert fingerprint(["write"]) != fingerprint(["writer"])
    assert Prompt("p", "a").sha256 != Prompt("p", "b").sha256
