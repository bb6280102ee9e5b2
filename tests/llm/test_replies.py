"""What a response means, and that no key survives in a text."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.llm.replies import (
    Consequence,
    Malformed,
    Reply,
    failure_of_status,
    read_reply,
    scrubber,
)

KEYS = st.text(alphabet=string.ascii_letters + string.digits + string.punctuation, min_size=1)


def chat(finish: Any = "stop", **message: Any) -> bytes:
    body = {
        "choices": [{"message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5},
    }
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("body", "text", "ended"),
    [
        (chat(content="x"), "x", True),
        (chat("length", content="x"), "x", False),
        (chat("content_filter", content=None), "", True),
        (chat(content=None, refusal="no"), "no", True),
        (chat("content_filter", content="x", refusal="no"), "x", True),
        (chat("eos_token", content="x"), "x", True),
    ],
)
def test_answers(body: bytes, text: str, ended: bool) -> None:
    assert read_reply(body) == Reply(text, 3, 5, ended, metered=True)


def test_completions_and_missing_usage() -> None:
    body = b'{"choices": [{"text": "x", "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}'
    assert read_reply(body) == Reply("x", 1, 0, True, metered=False)


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode))
def test_whatever_comes_is_an_answer_or_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        read_reply(body)


JUNK = st.none() | st.integers() | st.text() | st.lists(st.text()) | st.just({})


@given(st.fixed_dictionaries({}, optional={"message": JUNK, "text": JUNK, "finish_reason": JUNK}))
def test_junk_in_a_choice_is_an_answer_or_malformed(choice: dict[str, Any]) -> None:
    try:
        reply = read_reply(json.dumps({"choices": [choice], "usage": choice}).encode())
    except Malformed:
        return
    assert isinstance(reply.text, str)


@pytest.mark.parametrize(
    ("status", "consequence"),
    [(s, Consequence.AGAIN) for s in (408, 409, 429, 500, 502, 503, 504, 529)]
    + [(s, Consequence.ROW) for s in (400, 405, 413, 422, 304)]
    + [(s, Consequence.EVERYTHING) for s in (401, 402, 403, 404)],
)
def test_statuses(status: int, consequence: Consequence) -> None:
    failure = failure_of_status(status, {}, b"why", now=0, scrub=scrubber(""))
    assert (failure.consequence, failure.wait_s) == (consequence, None)
    assert failure.message == f"HTTP {status}: why"
    assert failure.down == (status in (502, 503, 504))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error": {"message": "m", "code": 3}}', "m"),
        ('{"error": "m"}', "m"),
        ('{"message": "m"}', "m"),
        ('{"detail": "m"}', '{"detail": "m"}'),
        ("<p>\n m</p>", "<p> m</p>"),
        ("", ""),
        ("[1]", "[1]"),
    ],
)
def test_the_message_is_what_the_endpoint_says(body: str, message: str) -> None:
    failure = failure_of_status(400, {}, body.encode(), now=0, scrub=scrubber(""))
    assert failure.message == f"HTTP 400: {message}".strip()


@given(KEYS, st.lists(st.text() | st.just(None), max_size=8), st.sampled_from(range(5)))
def test_no_key_survives(key: str, parts: list[str | None], how: int) -> None:
    written = [
        key,
        json.dumps(key),
        repr(key),
        json.dumps({"error": {"message": f"Bearer {key}"}}),
        f"x{key}{key}",
    ][how]
    text = "".join(written if part is None else part for part in parts)
    line = scrubber(key)(text)
    assert key not in line
    assert json.dumps(key)[1:-1] not in line
    assert len(line) <= 300
    assert "\n" not in line


def test_scrubbing_leaves_the_rest() -> None:
    assert scrubber("sk-1")("key sk-1\nis wrong") == "key [key] is wrong"
    assert scrubber("")("no key") == "no key"
    # Cut after the key was found, not before.
    assert "sk-" not in scrubber("sk-1")("x" * 297 + "sk-1")
    # A key that looks like what replaces it.
    assert scrubber("key")("the key") == "the []"
