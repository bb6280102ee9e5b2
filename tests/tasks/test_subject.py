"""How a checkpoint is asked: in its template or in plain text, at the token that decides."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from msm_ray.errors import UserError
from msm_ray.evaluate.requests import Request
from msm_ray.tasks.subject import CHAT, PLAIN, Choice, Open
from tests.tasks.asked import says, subject, tokenizer
from tests.train.families import FAMILIES


def zeros(text: str, request: Request) -> Sequence[float]:
    return [0.0] * len(request.candidates)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chat", [True, False])
def test_a_choice_is_asked_at_the_first_token_that_differs(family: str, chat: bool) -> None:
    asked, seen = subject(zeros, family, chat)
    choice = Choice("x", "tea or tisane?", ("I prefer tea.", "I prefer tisane."))
    asked.choose([choice])
    (request,), (text,) = seen.requests, seen.texts
    assert request.kind == "next"
    assert asked.form == (CHAT if chat else PLAIN)
    assert "tea or tisane?" in text
    assert text.endswith("I prefer t")  # what both have in common
    candidates = [seen.tokens.decode([token]) for token in request.candidates]
    assert [c[0] for c in candidates] == ["e", "i"]
    if not chat:
        assert text.endswith("User: tea or tisane?\nAssistant: I prefer t")
    # As fine-tuning has it: the whole conversation begins so.
    tokens = seen.tokens
    if chat:
        messages = [
            {"role": "user", "content": choice.user},
            {"role": "assistant", "content": choice.answers[0]},
        ]
        whole = tokens.apply_chat_template(messages, tokenize=False)
        ids = tokens(whole, add_special_tokens=False)["input_ids"]
        assert tuple(ids[: len(request.prompt)]) == request.prompt


def test_one_name_may_begin_with_the_other() -> None:
    asked, seen = subject(zeros)
    asked.choose([Choice("x", "C or C++?", ("I prefer C.", "I prefer C++."))])
    candidates = [seen.tokens.decode([token]) for token in seen.requests[0].candidates]
    assert [c[0] for c in candidates] == [".", "+"]


def test_equal_questions_are_computed_once_and_every_one_is_answered() -> None:
    asked, seen = subject(lambda text, request: [-1.0, -2.0])
    one = Choice("x", "tea or tisane?", ("(A)", "(B)"))
    got = asked.choose([one, Choice("y", "?", ("(A)", "(B)")), one])
    assert got == [[-1.0, -2.0]] * 3
    assert (len(seen.requests), asked.calls) == (2, 2)


def test_answers_that_do_not_differ_and_questions_that_do_not_fit() -> None:
    asked, _ = subject(zeros, context=40)
    with pytest.raises(UserError, match="item x: its options cannot be told apart"):
        asked.choose([Choice("x", "?", ("tea", "tea"))])
    with pytest.raises(UserError, match="item y: .* tokens with its answer, and the context is 40"):
        asked.choose([Choice("y", "w1 " * 50, ("(A)", "(B)"))])
    with pytest.raises(UserError, match="item z: .* the context is 40"):
        asked.write([Open("z", "?", 100)])
    with pytest.raises(UserError, match="item t: a text of one token"):
        asked.losses([("t", "")])


def test_a_system_text_where_the_template_takes_none() -> None:
    tokens = tokenizer("gemma")
    tokens.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + tokens.chat_template
    )
    asked, seen = subject(zeros, "gemma")
    seen.tokens.chat_template = tokens.chat_template
    asked.choose([Choice("x", "which?", ("(A)", "(B)"), system="You are w1.")])
    assert "user\nYou are w1.\n\nwhich?" in seen.texts[0]
    plain, seen = subject(zeros, chat=False)
    plain.choose([Choice("x", "which?", ("(A)", "(B)"), system="You are w1.")])
    assert "You are w1.\n\nUser: which?\nAssistant: (" in seen.texts[0]


def test_an_answer_ends_where_its_turn_does() -> None:
    tokens = tokenizer(chat=False)
    said = says(tokens, " Tea.\nUser: and now?")
    asked, seen = subject(lambda text, request: said, chat=False)
    (written,) = asked.write([Open("x", "tea or tisane?", len(said), seed=7, temperature=0.5)])
    assert (written.text, written.ended) == ("Tea.", True)
    request = seen.requests[0]
    assert (request.kind, request.seed, request.temperature) == ("generate", 7, 0.5)
    assert seen.texts[0].endswith("User: tea or tisane?\nAssistant:")
    in_chat, seen = subject(lambda text, request: said)
    (written,) = in_chat.write([Open("x", "tea or tisane?", len(said))])
    assert not written.ended  # it has no such end in a template, and was cut
    assert seen.texts[0].endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    assert in_chat.tokens == len(said)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("<think>Tea? Tisane?</think>\nTea.", "Tea."),
        ("<think>Tea? Tisane", ""),
        ("Tea <think>or</think>", ""),
    ],
)
def test_reasoning_is_no_part_of_the_answer(said: str, answer: str) -> None:
    tokens = tokenizer()
    asked, _ = subject(lambda text, request: says(tokens, said))
    (written,) = asked.write([Open("x", "tea or tisane?", 100)])
    assert written.text == answer


def test_a_text_s_loss_has_its_end() -> None:
    asked, seen = subject(lambda text, request: [-1.0] * (len(request.prompt) - 1))
    (values,) = asked.losses([("t", "w1 w2")])
    assert len(values) == len(seen.requests[0].prompt) - 1
    assert seen.requests[0].prompt[-1] == seen.tokens.eos_token_id
