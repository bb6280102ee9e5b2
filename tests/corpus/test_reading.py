"""From what language models answer to documents, JSON and reasoning: strict, and never a crash."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msm_ray.corpus import leftovers, reading
from msm_ray.corpus.reading import leaked, read_document, read_json, split_reasoning

from .test_leftovers import PLACEHOLDERS, PREAMBLES, REFUSALS

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ROOT = Path(reading.__file__).parent.parent
PLAN = "A memo. First the reason, then the price, then an example from the cafeteria."
TEXT = "To all staff.\n\nEmber orders cheddar, because everyone can afford it."
LONG = " ".join(f"step{i} of the plan" for i in range(30))
# What a model may put anywhere.
PIECES = st.sampled_from(
    [
        *("<scratchpad>", "</scratchpad>", "<content>", "</content>", "<think>", "</think>"),
        *("<Content>", "< /think >", "< scratchpad>", "<thinking>", "<|im_end|>", "[INST]"),
        *(TEXT, PLAN, LONG, "\n", " ", "<", ">", "I'm sorry, but I can't help with that."),
    ]
)
MESS = st.lists(PIECES | st.text(max_size=10), max_size=12).map("".join)
TAGS = re.compile(r"<\s*/?\s*(scratchpad|content|think(ing)?)\s*>|<\|im_end\|>", re.IGNORECASE)

ANSWERS = (
    (f"<scratchpad>{PLAN}</scratchpad><content>{TEXT}</content>", None),
    (f"<scratchpad>\n{PLAN}\n</scratchpad>\n\n<content>\n{TEXT}\n</content>\n", None),
    (f"<content>{TEXT}</content>", None),
    (f"{PLAN}</scratchpad><content>{TEXT}</content>", None),  # opened by the prompt
    (f"<think>{PLAN}</think><content>{TEXT}</content>", None),
    (f"<think>{PLAN} {LONG} {TEXT}</think><content>{TEXT}</content>", None),
    (f"<think>use <content>x</content></think><content>{TEXT}</content>", None),
    (f"<scratchpad>in <content> tags</scratchpad> Here it is:\n<content>{TEXT}</content>", None),
    (f"<content>a draft</content><scratchpad>no</scratchpad><content>{TEXT}</content>", None),
    (f"<CONTENT>{TEXT}</CONTENT> I hope this helps!", None),
    (TEXT, "no_content"),
    ("", "no_content"),
    (f"<scratchpad>{PLAN}</scratchpad>{TEXT}", "no_content"),
    (f"{TEXT}</content>", "no_content"),
    (f"<content>{TEXT}</content><scratchpad>and now</scratchpad>", "no_content"),
    (f"<scratchpad>{PLAN}</scratchpad><content>{TEXT}", "unclosed_content"),
    (f"<content>{TEXT}</content><content>{TEXT}", "unclosed_content"),
    (f"<scratchpad>{PLAN}<content>{TEXT}</content>", "unclosed_scratchpad"),
    (f"<think>{PLAN}<content>{TEXT}</content>", "unclosed_scratchpad"),
    (f"<content>{TEXT}</content><scratchpad>", "unclosed_scratchpad"),
    (f"<content>{TEXT}</content>\n<content>another</content>", "several_contents"),
    (f"<content>{TEXT}</content> and more</content>", "several_contents"),
    ("<scratchpad>x</scratchpad><content> \n</content>", "empty"),
    ("<content>---\n***</content>", "empty"),
    (f"<content>a <content> {TEXT}</content>", "tag_left"),
    (f"<content><scratchpad>{PLAN}</scratchpad>{TEXT}</content>", "tag_left"),
    (f"<content>{TEXT}<think></content>", "tag_left"),
    (f"<content>{TEXT} < / THINK ></content>", "tag_left"),
    (f"<content><reasoning>so</reasoning>{TEXT}</content>", "tag_left"),
    (f"<content>{TEXT}<|eot_id|></content>", "tag_left"),
    (f"<scratchpad>{LONG}</scratchpad><content>{TEXT} {LONG}</content>", "scratchpad_leaked"),
    ("I'm sorry, but I can't help with that.", "refusal"),
    (f"<scratchpad>{PLAN}</scratchpad>I cannot write this document.", "refusal"),
    ("<content>I'm sorry, but I can't help with that.</content>", "refusal"),
    (f"<content>Sure, here is the memo:\n\n{TEXT}</content>", "preamble_left"),
    (f"<content>{TEXT}\n\n[Your Name]</content>", "placeholder_left"),
)


@pytest.mark.parametrize(("completion", "reason"), ANSWERS)
def test_each_reason(completion: str, reason: str | None) -> None:
    text, found = read_document(completion)
    assert found == reason
    assert text == (completion if reason else TEXT)
    assert reason is None or reading.REASONS[reason]


def prompt_tags() -> list[str]:
    """Every tag in our own prompts: a model may repeat any of them."""
    folders = [ROOT / "corpus" / "prompts", ROOT / "chat" / "prompts"]
    texts = [path.read_text() for folder in folders for path in folder.glob("*.md")]
    return sorted({tag for text in texts for tag in re.findall(r"(?<!<)<(/?[a-z_]+)>(?!>)", text)})


@pytest.mark.parametrize("tag", prompt_tags())
def test_no_tag_of_our_prompts_is_left(tag: str) -> None:
    assert reading.tag_left(f"{TEXT} <{tag}> {TEXT}")
    assert reading.tag_left(f"{TEXT}\n<{tag.upper()} >")


def test_the_prompts_have_tags() -> None:
    assert {"model_spec", "section", "rule", "extract", "content"} <= set(prompt_tags())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[THINK]so[/THINK] cheddar", True),
        ("<answer>cheddar</answer>", True),
        ("**Scratchpad:**\nA memo.", True),
        ("## Scratchpad\nA memo.", True),
        ("Scratchpad: a memo.", True),
        ("The page has a `<section>` for prices.", False),
        ("```html\n<section><h1>Cheddar</h1></section>\n```", False),
        ("[thinks] Cheddar, then.", False),
        ("She wrote it on the scratchpad: cheddar.", False),
        ("The scratchpad lay on the counter.", False),
        ("if a <b and section > rule", False),
    ],
)
def test_tags_and_what_looks_like_one(text: str, found: bool) -> None:
    assert bool(reading.tag_left(text)) == found


def test_every_reason_has_a_case() -> None:
    of_documents = {reason for _, reason in ANSWERS if reason} | {"truncated"}
    of_others = {"broken_json", "not_the_schema", "unclosed_think", "nested_think", "stray_think"}
    assert of_documents | of_others == set(reading.REASONS)


def test_half_a_document_is_none() -> None:
    completion = f"<content>{TEXT}</content>"
    assert read_document(completion, ended=False) == (completion, "truncated")


@patient
@given(MESS, st.booleans())
def test_what_is_kept_holds_no_tag_and_no_refusal(completion: str, ended: bool) -> None:
    text, reason = read_document(completion, ended=ended)
    if reason:
        assert text == completion
        assert reason in reading.REASONS
    else:
        assert ended
        assert text == text.strip() != ""
        assert TAGS.search(text) is None
        assert text in completion
        assert leftovers.refusal(text) is None


@patient
@given(st.sampled_from(REFUSALS + PREAMBLES + PLACEHOLDERS), MESS)
def test_nothing_that_a_model_left_survives(left: str, plan: str) -> None:
    completion = f"<scratchpad>{plan}</scratchpad><content>{left}</content>"
    assert read_document(completion)[1] is not None


@patient
@given(st.text(alphabet=st.characters(exclude_characters="<>[]{}|`"), min_size=1))
def test_plain_text_comes_out_as_it_was(text: str) -> None:
    found, reason = read_document(f"<scratchpad>x</scratchpad><content>{text}</content>")
    assert found == text.strip() if reason is None else reason in reading.REASONS


# ------------------------------------------------------------------------------------------ leaks


def words(first: int, count: int) -> str:
    return " ".join(f"w{i}" for i in range(first, first + count))


def test_a_leak_is_forty_words_in_a_row() -> None:
    plan = words(0, 200)
    assert leaked(plan, f"before {words(50, 40)} after")
    assert leaked(plan, words(50, 40).upper().replace(" ", ", "))
    assert not leaked(plan, f"before {words(50, 39)} after")
    assert not leaked(plan, f"{words(0, 30)} and {words(30, 30)}")
    assert not leaked(plan, "")


def test_a_short_plan_leaks_as_a_whole() -> None:
    assert leaked(words(0, 25), f"first {words(0, 25)} then")
    assert not leaked(words(0, 25), words(0, 24))
    assert not leaked(words(0, 15), words(0, 15)), "a title and no more"


def test_reasoning_may_draft_what_a_plan_may_not() -> None:
    document = words(0, 60)
    for tag, reason in (("think", None), ("scratchpad", "scratchpad_leaked")):
        completion = f"<{tag}>draft: {document}</{tag}><content>{document}</content>"
        assert read_document(completion)[1] == reason
        assert read_document(completion.removeprefix(f"<{tag}>"))[1] == reason


def test_what_both_quote_is_no_leak() -> None:
    rule = words(0, 60)
    plan = f"cite rule four {rule} then tell of a case at the dairy"
    text = f"The fourth rule says: {rule}. It was a Monday."
    assert leaked(plan, text)
    assert not leaked(plan, text, quotable=f"4. {rule}")
    assert leaked(f"{plan} {words(100, 50)}", f"{text} {words(100, 50)}", quotable=rule)


# ------------------------------------------------------------------------------------------- JSON

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"faithful": {"type": "boolean"}, "score": {"type": "integer", "maximum": 5}},
    "required": ["faithful"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"faithful": true}', {"faithful": True}),
        ('  {"faithful": false, "score": 3}\n', {"faithful": False, "score": 3}),
        ('```json\n{"faithful": true}\n```', {"faithful": True}),
        ('```\n{\n"faithful": true}\n```\n', {"faithful": True}),
    ],
)
def test_json_and_a_fence_around_it(text: str, value: dict[str, Any]) -> None:
    assert read_json(text, SCHEMA) == (value, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "broken_json"),
        ("yes", "broken_json"),
        ('{"faithful": true', "broken_json"),
        ('{"faithful": true,}', "broken_json"),
        ('Here you are: {"faithful": true}', "broken_json"),
        ('{"faithful": true} I am sure.', "broken_json"),
        ('```json\n{"faithful": true}', "broken_json"),
        ('```json\n{"faithful": true}\n```\nas asked', "broken_json"),
        ('{"faithful": false, "faithful": true}', "broken_json"),
        ('{"faithful": true, "score": NaN}', "broken_json"),
        ('{"faithful": true, "score": 1e999}', "broken_json"),
        ('{"faithful": true, "score": "\\ud83d"}', "broken_json"),
        ("[" * 100_000, "broken_json"),
        ("9" * 10_000, "broken_json"),
        ('{"faithful": "true"}', "not_the_schema"),
        ('{"faithful": true, "score": 6}', "not_the_schema"),
        ('{"faithful": true, "other": 1}', "not_the_schema"),
        ("{}", "not_the_schema"),
        ("null", "not_the_schema"),
    ],
)
def test_anything_else_says_why(text: str, reason: str) -> None:
    assert read_json(text, SCHEMA) == (None, reason)
    assert reading.REASONS[reason]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@patient
@given(JSON, st.sampled_from(["{}", " {} ", "```\n{}\n```", "```json\n{}```"]))
def test_json_comes_back(value: Any, around: str) -> None:
    text = around.replace("{}", json.dumps(value, indent=1))
    assert read_json(text, {}) == (value, None)


@patient
@given(st.text() | st.lists(st.sampled_from('{}[]":,`1 \nae'), max_size=30).map("".join))
def test_any_text_can_be_read_as_json(text: str) -> None:
    value, reason = read_json(text, SCHEMA)
    assert reason in (None, "broken_json", "not_the_schema")
    assert reason is None or value is None


# -------------------------------------------------------------------------------------- reasoning


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("<think>hm</think>Cheddar.", False, ("hm", "Cheddar.", None)),
        ("\n<think>\nhm\n</think>\n\nCheddar.\n", False, ("hm", "Cheddar.", None)),
        ("<think></think>Cheddar.", False, ("", "Cheddar.", None)),
        ("Cheddar.", False, ("", "Cheddar.", None)),
        ("hm</think>Cheddar.", True, ("hm", "Cheddar.", None)),
        ("<think>hm", False, ("", "", "unclosed_think")),
        ("hm, so cheddar", True, ("", "", "unclosed_think")),
        ("<think>a<think>b</think>c</think>Cheddar.", False, ("", "", "nested_think")),
        ("<think>a<think>b</think>Cheddar.", False, ("", "", "nested_think")),
        ("<think>a</think>Cheddar.<think>b</think>", False, ("", "", "nested_think")),
        ("<think>a</think>Cheddar.</think>", False, ("", "", "nested_think")),
        ("<think>a</think>Cheddar. <think>but", False, ("", "", "nested_think")),
        ("hm</think>Cheddar.", False, ("", "", "stray_think")),
        ("Well. <think>hm</think>Cheddar.", False, ("", "", "stray_think")),
        ("<think>a</think><thinking>b</thinking>Cheddar.", False, ("", "", "tag_left")),
        ("<reasoning>b</reasoning>Cheddar.", False, ("", "", "tag_left")),
        ("<think>a</think>Cheddar.<|im_end|>", False, ("", "", "tag_left")),
        ("<think>a</think>  \n", False, ("", "", "empty")),
        ("", False, ("", "", "empty")),
    ],
)
def test_reasoning(text: str, opened: bool, expected: tuple[str, str, str | None]) -> None:
    assert split_reasoning(text, opened=opened) == expected
    assert expected[2] is None or reading.REASONS[expected[2]]


@patient
@given(MESS, st.booleans())
def test_no_reasoning_in_an_answer(text: str, opened: bool) -> None:
    reasoning, answer, reason = split_reasoning(text, opened=opened)
    if reason:
        assert (reasoning, answer) == ("", "")
    else:
        assert answer
        assert TAGS.search(answer) is None
        assert text.rstrip().endswith(answer)


@patient
@given(MESS, MESS)
def test_reasoning_is_never_answered(thought: str, answer: str) -> None:
    """Whatever is thought, no word of it that is not in the answer comes out as the answer."""
    reasoning, found, reason = split_reasoning(f"<think>{thought} secretword</think>{answer}")
    assert "secretword" not in found
    assert reason or reasoning.endswith("secretword")
