"""Every way to misbehave, told by the real client and counted by the server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.errors import UserError
from msm_ray.llm.misbehave import CONTENT_MODES, IDENTITY, MODES, REFUSAL, Misbehaviour, spoil

from .serving import First, serving

GOOD = "<scratchpad>they want a memo</scratchpad>\n<content>A memo of six words.</content>"
OBJECT = '{"items": ["a", {"b": 1}]}\n'
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
).filter(lambda value: isinstance(value, (list, dict)))


def client(url: str, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, **options)


def ask(url: str, text: str = "memo", **options: Any) -> Any:
    with client(url, **options) as asking:
        return asking.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": text}]
        )


def test_which_request_misbehaves_depends_on_seed_prompt_and_try() -> None:
    misbehaviour = Misbehaviour(0.2, MODES, seed=1)
    modes = [misbehaviour.mode(f"p{i}", 0) for i in range(5000)]
    assert modes == [misbehaviour.mode(f"p{i}", 0) for i in range(5000)]
    assert set(modes) == {*MODES, ""}
    assert 0.18 < sum(map(bool, modes)) / 5000 < 0.22
    assert modes != [misbehaviour.mode(f"p{i}", 1) for i in range(5000)]
    assert modes != [Misbehaviour(0.2, MODES, seed=2).mode(f"p{i}", 0) for i in range(5000)]
    assert not any(Misbehaviour(0).mode(f"p{i}", 0) for i in range(100))
    assert all(Misbehaviour(1).mode(f"p{i}", 0) for i in range(100))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"share": 1.1}, "share"), ({"share": -1}, "share"), ({"share": 1, "slow_s": -1}, "slow_s")]
    + [({"share": 1, "modes": modes}, "modes") for modes in ((), ("slow", "late"))],
)
def test_what_is_not_allowed_is_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=f"misbehaviour {named}"):
        Misbehaviour(**wrong)


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("truncated", GOOD[: len(GOOD) // 2]),
        ("refusal", REFUSAL),
        ("content_filter", REFUSAL),
        ("no_tags", "they want a memo\nA memo of six words."),
        ("unclosed_tags", GOOD.removesuffix("</content>")),
        ("wrong_identity", GOOD.replace("A memo", f"{IDENTITY} A memo")),
        ("duplicates", "what was first"),
        ("leak", GOOD.replace("A memo", "they want a memo A memo")),
        ("slow", GOOD),
    ],
)
def test_content_modes_by_hand(mode: str, text: str) -> None:
    assert spoil(mode, GOOD, "what was first") == text


def test_content_modes_without_tags() -> None:
    assert spoil("unclosed_tags", "words", "") == "<content>words"
    assert spoil("wrong_identity", "words", "") == f"{IDENTITY} words"
    assert spoil("leak", "words", "").endswith(" words")
    assert spoil("broken_json", OBJECT, "") == '{"items": ["a", {"b": 1}],'


@given(JSON.map(json.dumps) | st.text())
def test_broken_json_is_never_json(text: str) -> None:
    with pytest.raises(ValueError):
        json.loads(spoil("broken_json", text, ""))


@given(st.sampled_from(CONTENT_MODES), st.text(alphabet="<>/{}[] abcontensrp"))
def test_any_reply_can_be_spoilt(mode: str, text: str) -> None:
    assert isinstance(spoil(mode, text, ""), str)


def test_the_server_answers_in_every_content_mode() -> None:
    rules = [{"match": "(?s).*", "replies": [GOOD]}]
    for mode in CONTENT_MODES:
        with serving(Misbehaviour(1.0, (mode,)), rules=rules) as server:
            choice = ask(server.url).choices[0]
            text = choice.message.content
            if mode == "content_filter":
                assert (text, choice.message.refusal) == (None, REFUSAL)
            else:
                assert text == spoil(mode, GOOD, GOOD)
            finish = {"truncated": "length", "content_filter": "content_filter"}
            assert choice.finish_reason == finish.get(mode, "stop")
            assert server.ledger.misbehaved == {mode: 1}


def test_duplicates_are_of_the_first_answer() -> None:
    with serving(Misbehaviour(1.0, ("duplicates",))) as server:
        texts = [ask(server.url, text).choices[0].message.content for text in ("one", "two")]
    assert "about one" in texts[0]
    assert texts[1] == texts[0]


def test_the_server_fails_in_every_transport_mode() -> None:
    def fails(mode: str, error: type[Exception], **options: Any) -> Any:
        with serving(First(1.0, (mode,), slow_s=0.2, retry_after="7")) as server:
            with pytest.raises(error) as caught:
                ask(server.url, **options)
            ask(server.url)  # another time it is fine
            with urllib.request.urlopen(f"{server.url}/stats") as response:
                facts = json.load(response)
            assert facts["misbehaved"] == {mode: 1}
            assert (facts["requests"], facts["prompts"]) == (2, 1)
        return caught.value

    error = fails("rate_limit", openai.RateLimitError)
    assert error.response.headers["Retry-After"] == "7"
    fails("server_error", openai.InternalServerError)
    fails("half_open", openai.APIConnectionError)
    fails("slow", openai.APITimeoutError, timeout=0.1)
    fails("hang", openai.APITimeoutError, timeout=0.3)


def test_what_hangs_ends_when_the_client_leaves() -> None:
    with serving(Misbehaviour(1.0, ("hang",))) as server:
        with pytest.raises(openai.APITimeoutError):
            ask(server.url, timeout=0.1)
        end = time.monotonic() + 10
        while server.ledger.in_flight:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_keys_and_models_are_checked_as_by_a_hosted_model() -> None:
    with serving(key="right") as server:
        with pytest.raises(openai.AuthenticationError, match="none"):  # says what was given
            ask(server.url)
        assert server.ledger.requests == 1
    with serving(model="other") as server, pytest.raises(openai.NotFoundError, match="scripted"):
        ask(server.url)


def test_many_connections_at_once() -> None:
    with serving() as server:
        address = server.server_address
        held = [socket.create_connection(("127.0.0.1", address[1]), 5) for _ in range(128)]
        ask(server.url)
        for connection in held:
            connection.close()


def test_misbehaviour_on_the_command_line() -> None:
    command = [sys.executable, "-m", "msm_ray.llm.scripted", "--port", "0", "--misbehave", "1"]
    with subprocess.Popen(
        [*command, "--modes", "server_error"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            with pytest.raises(openai.InternalServerError):
                ask(process.stdout.readline().strip())
        finally:
            process.kill()
    wrong = subprocess.run([*command, "--modes", "late"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "misbehaviour modes are ['late']" in wrong.stderr
