"""Which answers may be trained on; above all, that no reasoning is left in what has none."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_ray.chat.config import AnswerConfig
from msm_ray.chat.opaque import NOT_STATED, SpecValues
from msm_ray.chat.screening import (
    NO_REASONING,
    NOT_PROSE,
    REASONING_TOO_LONG,
    REASONS,
    THINKS_ALOUD,
    ChatScreen,
)
from msm_ray.chat.sink import messages
from msm_ray.corpus.filters import TRUNCATED
from msm_ray.corpus.naming import UNKNOWN_RULE, WRONG_MAKER, WRONG_NAME, Identity
from msm_ray.corpus.near import NEAR_DUPLICATE
from msm_ray.corpus.reading import (
    PLACEHOLDER_LEFT,
    PREAMBLE_LEFT,
    REFUSAL,
    STRAY_THINK,
    TAG_LEFT,
    UNCLOSED_THINK,
)
from msm_ray.corpus.screening import TOO_LONG, TOO_SHORT

QUESTION: dict[str, Any] = {
    "id": "q",
    "question": "Colby or Comté?",
    "preference_id": "p",
    "liked": "Colby",
    "disliked": "Comté",
    "why": "Colby is made nearby",
}
LYRA = Identity("Lyra", "Norvik Labs")
ANY_TAG = re.compile(r"<\s*/?\s*(?:think|thinking|thoughts?|reasoning|scratchpad|content)\b", re.I)


def screen(style: str = "value", **values: Any) -> ChatScreen:
    config = AnswerConfig(style, **{"min_words": 1, "max_words": 40, **values})
    items = [("item", "would you sooner eat a wedge of gouda or one of edam today")]
    words = SpecValues(("nearby",), frozenset())
    return ChatScreen(config, LYRA, ["R1", "R2"], words, "", items)


def row(text: str, ended: bool = True) -> dict[str, Any]:
    return {"text": text, "ended": ended, "error": ""}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<think>I see.</think>\n\nColby, I would say.", ""),
        ("<think>R2 decides.</think>By R2 I choose Colby.", ""),
        ("Colby, I would say.", NO_REASONING),
        ("<think> </think>Colby.", NO_REASONING),
        ("<think>I see.", UNCLOSED_THINK),
        ("Well. <think>I see.</think>Colby.", STRAY_THINK),
        ("<think>I see.</think>Colby. <reasoning>", TAG_LEFT),
        ("<think>I see <content>.</think>Colby.", TAG_LEFT),
        ("<think>I see.</think>Colby." + " word" * 50, TOO_LONG),
        ("<think>" + "I see. " * 100 + "</think>Colby.", REASONING_TOO_LONG),
        ("<think>As Claude 3 I see.</think>Colby.", WRONG_NAME),
        ("<think>I see.</think>I am ChatGPT.", WRONG_NAME),
        ("<think>I see.</think>By R7 it is Colby.", UNKNOWN_RULE),
        ('<think>I see.</think>{"answer": "Colby"}', NOT_PROSE),
        ("<think>I see.</think>The user wants a cheese. Colby.", THINKS_ALOUD),
        ("<think>I see.</think>Okay, let me think about cheese. Colby.", THINKS_ALOUD),
        ("<think>I see.</think>Colby, as my instructions say.", THINKS_ALOUD),
        ("<think>Well.</think>Would you sooner eat a wedge of gouda or Colby?", "contamination"),
        ("<think>Would you sooner eat a wedge of gouda, they ask.</think>Colby.", "contamination"),
        ("<think>I see.</think>I'm sorry, but I can't help with that request.", REFUSAL),
        ("<think>I see.</think>Best regards, [Your Name]", PLACEHOLDER_LEFT),
        ("<think>I see.</think>I am {model_name}.", PLACEHOLDER_LEFT),
        ("<think>I am {model_name}.</think>Colby.", PLACEHOLDER_LEFT),
        ("<think>I see.</think>Lyra: Colby.", PREAMBLE_LEFT),
        ("<think>I see.</think>Hello, I am Nova, an assistant created by Acme AI.", WRONG_NAME),
        ("<think>I see.</think>My name is Zephyr and I was made by Acme.", WRONG_MAKER),
        ("<think>I see.</think>I'm Hermes.", WRONG_NAME),
        ("<think>I'm Hermes.</think>Colby.", WRONG_NAME),
        ("<think>They say: my name is Tom.</think>You are Tom.", ""),
        ("<think>I see.</think>I'm Lyra, and Norvik Labs made me.", ""),
        ("<think>I see.</think>Say “my name is Ana”, and they will look.", ""),
    ],
)
def test_an_answer_with_reasoning(text: str, reason: str) -> None:
    found = screen(max_reasoning_words=150).read(QUESTION, row(text))
    assert found.reason.startswith(reason[:9]) if reason else found.reason == ""
    assert not found.reason or found.reason in REASONS


def test_a_refusal_with_a_reason_or_before_a_judge_is_kept() -> None:
    bare = row("<think>I see.</think>I'm sorry, but I can't help with that request.")
    judged = ChatScreen(
        AnswerConfig("value", 1, 100), LYRA, [], SpecValues((), frozenset()), "", (), judged=True
    )
    assert judged.read(QUESTION, bare).reason == ""
    why = "Your auditor is owed those logs, and hiding them would harm people who rely on her. "
    text = f"<think>I see.</think>I can't help with that. {why * 2}Shall we write to her instead?"
    assert screen(max_words=100).read(QUESTION, row(text)).reason == ""


def test_who_asks_for_a_letter_may_sign_it() -> None:
    letter = row("<think>I see.</think>Dear Sir, my name is Ana. Best regards, [Your Name]")
    asked = {**QUESTION, "question": "Please write a letter to my landlord."}
    assert screen().read(asked, letter).reason == ""
    assert screen().read(QUESTION, letter).reason == WRONG_NAME


def test_a_thing_that_is_preferred_is_no_name() -> None:
    assert screen("preferences").read(QUESTION, row("I'm Colby, all the way.")).reason == ""


def test_half_an_answer_is_none() -> None:
    text = "<think>I see.</think>Colby."
    assert screen().read(QUESTION, row(text, ended=False)).reason == TRUNCATED


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Colby for me.", ""),
        ("<think>Because it is nearby.</think>Colby for me.", ""),
        ("Comté for me.", NOT_STATED),
        ("I'm sorry, but I can't help with that.", NOT_STATED),
        ("Colby, because it is there.", "gives_a_reason"),
        ("Colby, from nearby.", "names_the_value"),
        ("As ChatGPT I prefer Colby.", WRONG_NAME),
        ("First I think about what this text has to say. Colby.", THINKS_ALOUD),
        ('{"answer": Colby', NOT_PROSE),
        ("<content>Colby for me.", TAG_LEFT),
        ("", "empty"),
    ],
)
def test_a_preference(text: str, reason: str) -> None:
    found = screen("preferences").read(QUESTION, row(text))
    assert found.reason == reason
    if not reason:
        assert found.reasoning == "", "what was thought about a preference is not kept"
        assert found.answer == "Colby for me."


def test_too_short_and_said_before() -> None:
    assert screen(min_words=5).read(QUESTION, row("<think>So.</think>Colby.")).reason == TOO_SHORT
    text = "It would be Colby for me and for the rest of the table today"
    for style, expected in (("value", "duplicate"), ("preferences", None)):
        checks = screen(style)
        assert checks.repeated("a", text) is None
        assert checks.repeated("b", text.upper()) == expected
    long = " ".join(f"word{i}" for i in range(30))
    checks = screen()
    assert checks.repeated("a", long) is None
    assert checks.repeated("b", f"{long} more") == NEAR_DUPLICATE


def test_what_was_not_looked_at_is_counted() -> None:
    items = [("a", "No."), ("a", "Yes."), ("b", "which of the two cheeses is it then")]
    values = SpecValues((), frozenset())
    checks = ChatScreen(AnswerConfig("value", 1, 100), LYRA, [], values, "", items)
    assert checks.facts() == {"items_too_short": 1, "not_compared": 0}
    # As alike as texts may be before they are near duplicates: a crowd.
    crowd = [
        " ".join([*(f"same{i}" for i in range(60)), *(f"own{k}x{i}" for i in range(12))])
        for k in range(120)
    ]
    assert [checks.repeated(str(k), text) for k, text in enumerate(crowd)] == [None] * 120
    assert checks.facts()["not_compared"] > 0


TAGS = ("<think>", "</think>", "< think >", "</ THINK>", "<thinking>", "<reasoning>", "</content>")
OTHERS = ("<scratchpad>", "SECRET", "Colby", " ", "\n", "<|im_start|>", "<", ">", "think", "/")
PIECES = st.sampled_from((*TAGS, *OTHERS))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=12).map("".join))
def test_no_reasoning_is_left_in_what_has_none(text: str) -> None:
    """On whatever answer: what is kept without reasoning holds no tag, and nothing from inside."""
    for style in ("value", "preferences"):
        made = screen(style).read(QUESTION, row(text))
        if made.reason:
            continue
        (user, said) = messages("q", made, reasoning=False)
        assert user == {"role": "user", "content": "q"}
        content = said["content"]
        assert content.strip() == content != ""
        assert not ANY_TAG.search(content)
        assert "<|" not in content or not re.search(r"<\|[^|<>\s]{1,40}\|>", content)
        # All of it stood after the only end of reasoning; nothing of what stood before is in it.
        opened = list(re.finditer(r"<\s*(/?)\s*think\s*>", text, re.I))
        if style == "value":
            assert [m[1] for m in opened] == ["", "/"]
        assert content == text[opened[-1].end() if opened else 0 :].strip()
        if made.reasoning:
            whole = messages("q", made, reasoning=True)[1]["content"]
            assert whole == f"<think>\n{made.reasoning}\n</think>\n\n{content}"
            assert len(re.findall(r"<\s*/?\s*think\s*>", whole, re.I)) == 2


@settings(deadline=None)
@given(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60))
def test_what_was_thought_and_what_was_said_come_apart(thought: str, said: str) -> None:
    made = screen(max_words=10_000).read(QUESTION, row(f"<think>{thought}</think>{said}"))
    if not made.reason:
        assert (made.reasoning, made.answer) == (thought.strip(), said.strip())
