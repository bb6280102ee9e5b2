"""The client of endpoints, against servers that answer, fail, limit, hang and die."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msm_ray.errors import UserError
from msm_ray.llm.http import Endpoint, HttpAnswers, HttpRuntime
from msm_ray.llm.misbehave import REFUSAL, TRANSPORT_MODES, Misbehaviour
from msm_ray.llm.pacing import Clock
from msm_ray.llm.protocol import ANSWER_SCHEMA, PROMPT_SCHEMA, Sampling

from .serving import SAMPLING, FakeClock, First, good, prompts, replying, serving

KEY = "sk-Proj_9f8e7d6c5b4a"
FAST: dict[str, Any] = {"backoff_s": 0.01, "backoff_max_s": 0.05, "max_attempts": 4}


def source(
    url: str, *, key_env: str = "", clock: Clock | None = None, api: str = "chat", **runtime: Any
) -> HttpAnswers:
    endpoint = Endpoint(url, "scripted", api=api, key_env=key_env)
    return HttpAnswers(endpoint, HttpRuntime(**{**FAST, **runtime}), clock)


def ask(answers: HttpAnswers, table: pa.Table, work: Path) -> list[dict[str, Any]]:
    """One row for each prompt in their order, or the test fails."""
    answered = answers.answer(table, SAMPLING, work, lambda done: None)
    assert answered.schema == ANSWER_SCHEMA
    assert answered["id"].to_pylist() == table["id"].to_pylist()
    rows: list[dict[str, Any]] = answered.to_pylist()
    return rows


def test_chat_sends_what_the_prompt_and_the_sampling_say(tmp_path: Path) -> None:
    schema = '{"type":"object","properties":{"b":{},"a":{}}}'
    with serving() as server:
        endpoint = Endpoint(
            server.url, "scripted", key_env="", extra={"chat_template_kwargs": {"thinking": False}}
        )
        sampling = Sampling(0.5, 0.9, 50, 7, schema=schema)
        table = pa.Table.from_pylist(
            [
                {"id": "a", "system": "spec words", "prompt": "thing"},
                {"id": "b", "system": "", "prompt": "other thing"},
            ],
            schema=PROMPT_SCHEMA,
        )
        answers = HttpAnswers(endpoint, HttpRuntime(concurrency=1))
        rows = answers.answer(table, sampling, tmp_path, lambda done: None).to_pylist()
    first, second = (request for _, request in server.asked)
    assert first["messages"] == [
        {"role": "system", "content": "spec words"},
        {"role": "user", "content": "thing"},
    ]
    assert second["messages"] == [{"role": "user", "content": "other thing"}]
    assert (first["temperature"], first["top_p"], first["max_tokens"]) == (0.5, 0.9, 50)
    assert (first["seed"], second["seed"]) == (sampling.seed_of("a"), sampling.seed_of("b"))
    assert first["chat_template_kwargs"] == {"thinking": False}
    asked = first["response_format"]["json_schema"]["schema"]
    assert list(asked["properties"]) == ["b", "a"]
    assert rows[0] == {
        "id": "a",
        "text": "<scratchpad>for thing</scratchpad>\n<content>a text about thing</content>",
        "prompt_tokens": 3,
        "tokens": 5,
        "ended": True,
        "error": "",
    }


def test_completions_continue_a_text(tmp_path: Path) -> None:
    with serving() as server:
        rows = ask(source(server.url, api="completions"), prompts(3, system=""), tmp_path / "a")
        assert "about thing 2" in rows[2]["text"]
        assert "messages" not in server.asked[0][1]
        with pytest.raises(UserError, match="no system message"):
            ask(source(server.url, api="completions"), prompts(3), tmp_path / "b")


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("slow", None),
        ("rate_limit", "429"),
        ("server_error", "500"),
        ("hang", "timeout"),
        ("half_open", "connection"),
    ],
)
def test_what_fails_once_is_tried_again(mode: str, reason: str | None, tmp_path: Path) -> None:
    misbehaviour = First(1.0, (mode,), slow_s=0.05, retry_after="0.02")
    with serving(misbehaviour) as server:
        answers = source(server.url, timeout_s=1.5 if mode == "hang" else 30)
        rows = ask(answers, prompts(3), tmp_path)
        tries = [server.ledger.asked(f"spec\0thing {i}") for i in range(3)]
    assert [row["error"] for row in rows] == ["", "", ""]
    assert server.ledger.misbehaved == {mode: 3}
    if mode == "hang":  # on a busy machine a good answer may be late too
        assert min(tries) >= 2
        assert answers.facts["failed_tries"]["timeout"] >= 3
    else:
        assert tries == ([2, 2, 2] if reason else [1, 1, 1])
        assert answers.facts["failed_tries"] == ({reason: 3} if reason else {})


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("rate_limit", "HTTP 429: too many requests"),
        ("server_error", "HTTP 500: something went wrong"),
        ("hang", "no answer within 0.15 s"),
        ("half_open", "RemoteProtocolError"),
    ],
)
def test_what_always_fails_is_an_error_of_its_row_and_asked_again(
    mode: str, words: str, tmp_path: Path
) -> None:
    with serving(First(1.0, (mode,), retry_after="0.01", tries=3)) as server:
        answers = source(server.url, timeout_s=0.15 if mode == "hang" else 30, max_attempts=3)
        for row in ask(answers, prompts(2), tmp_path):
            assert words in row["error"]
            assert row["error"].endswith("(after 3 tries)")
            assert (row["text"], row["tokens"], row["ended"]) == ("", 0, False)
        # A resumed run tries again, and more patiently here.
        answers = source(server.url, timeout_s=3 if mode == "hang" else 30, max_attempts=9)
        assert [row["error"] for row in ask(answers, prompts(2), tmp_path)] == ["", ""]
        assert server.ledger.requests == 8 or mode == "hang"


def test_answers_that_a_filter_has_to_see(tmp_path: Path) -> None:
    for mode, ended in (("truncated", False), ("content_filter", True), ("refusal", True)):
        with serving(Misbehaviour(1.0, (mode,))) as server:
            (row,) = ask(source(server.url), prompts(1), tmp_path / mode)
        assert (row["ended"], row["error"]) == (ended, "")
        assert (row["text"] == REFUSAL) == (mode != "truncated")


def test_five_hundred_prompts_with_everything_going_wrong(tmp_path: Path) -> None:
    misbehaviour = Misbehaviour(0.2, TRANSPORT_MODES, seed=3, slow_s=0.05, retry_after="0.05")
    seen: list[int] = []
    with serving(misbehaviour) as server:
        answers = source(server.url, concurrency=48, timeout_s=1.5, max_attempts=9)
        table = answers.answer(prompts(500), SAMPLING, tmp_path, seen.append)
        rows = table.to_pylist()
    assert [row["id"] for row in rows] == [f"doc{i}" for i in range(500)]
    assert all(row["error"] == "" and f"thing {row['id'][3:]}<" in row["text"] for row in rows)
    assert set(server.ledger.misbehaved) == set(TRANSPORT_MODES)
    # Nothing is asked again that was answered. A try may end before the server has read it.
    failed = sum(answers.facts["failed_tries"].values())
    assert server.ledger.requests <= answers.facts["calls"] == 500 + failed
    assert seen == sorted(seen)
    assert seen[-1] == 500


def test_no_more_calls_at_once_than_allowed(tmp_path: Path) -> None:
    with serving(Misbehaviour(1.0, ("slow",), slow_s=0.05)) as server:
        ask(source(server.url, concurrency=7), prompts(40), tmp_path)
    assert server.ledger.most_in_flight == 7


def test_retry_after_holds_back_the_prompt_and_the_others(tmp_path: Path) -> None:
    with serving(First(1.0, ("rate_limit",), retry_after="0.3")) as server:
        rows = ask(source(server.url, concurrency=1), prompts(2), tmp_path)
        assert [row["error"] for row in rows] == ["", ""]
        for prompt in ("thing 0", "thing 1"):
            first, second = server.times(prompt)
            assert second - first >= 0.3
        times = [at for at, _ in server.asked]
    with serving(First(1.0, ("rate_limit",), retry_after="0.3")) as server:
        ask(source(server.url, concurrency=1, max_attempts=1), prompts(2), tmp_path / "other")
        times = [at for at, _ in server.asked]
        assert times[1] - times[0] >= 0.3  # another prompt, not asked before


def test_retry_after_may_be_a_date_and_too_far_away(tmp_path: Path) -> None:
    clock = FakeClock()
    date = formatdate(clock.now + 30, usegmt=True)
    with serving(First(1.0, ("rate_limit",), retry_after=date)) as server:
        ask(source(server.url, clock=clock), prompts(1), tmp_path / "near")
        assert clock.now >= 1_000_000.0 + 30
    with serving(Misbehaviour(1.0, ("rate_limit",), retry_after="3600")) as server:
        with pytest.raises(UserError, match="run again later .*Retry-After: 3600 s"):
            ask(source(server.url, concurrency=2), prompts(50), tmp_path / "far")
        assert server.ledger.requests <= 2


def test_rate_limits(tmp_path: Path) -> None:
    with serving() as server:
        clock = FakeClock()
        ask(source(server.url, clock=clock, requests_per_minute=60), prompts(30), tmp_path / "a")
        assert 29 <= clock.now - 1_000_000 < 31
        # Every request reserves its longest answer and gives back what it did not need.
        clock = FakeClock()
        limited = source(server.url, clock=clock, tokens_per_minute=600, concurrency=1)
        used = sum(r["prompt_tokens"] + r["tokens"] for r in ask(limited, prompts(30), tmp_path))
        assert used / 10 - 1 <= clock.now - 1_000_000 <= used / 10 + 10


def test_a_missing_key_is_one_line_and_a_finished_call_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(key=KEY) as server:
        answers = source(server.url, key_env="SOME_KEY")
        monkeypatch.delenv("SOME_KEY", raising=False)
        with pytest.raises(UserError, match="variable SOME_KEY is not set"):
            ask(answers, prompts(2), tmp_path)
        monkeypatch.setenv("SOME_KEY", f" {KEY}\n")
        rows = ask(answers, prompts(2), tmp_path)
        monkeypatch.delenv("SOME_KEY")
        assert ask(answers, prompts(2), tmp_path) == rows
    assert server.ledger.requests == 2


def test_no_key_of_another_endpoint_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"Authorization: Bearer {KEY}")
    with replying(lambda number, headers: (200, {}, good())) as (url, asked):
        ask(source(url), prompts(1), tmp_path / "a")
        assert "authorization" not in asked[0]
        assert KEY not in str(asked)
        monkeypatch.setenv("OWN_KEY", "other")
        ask(source(url, key_env="OWN_KEY"), prompts(1), tmp_path / "b")
        assert asked[1]["authorization"] == "Bearer other"


@pytest.mark.parametrize("status", [400, 401, 429, 500, 200])
def test_the_key_is_nowhere(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def echo(number: int, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], str]:
        said = headers["Authorization"]
        return status, {"X-Said": said}, json.dumps({"error": {"message": f"you said {said}"}})

    monkeypatch.setenv("SOME_KEY", KEY)
    texts = []
    with caplog.at_level(logging.DEBUG), replying(echo) as (url, asked):
        answers = source(url, key_env="SOME_KEY", max_attempts=2)
        try:
            rows = ask(answers, prompts(2), tmp_path)
            texts.append(str(rows))
            assert "you said Bearer [key]" in rows[0]["error"]
        except UserError as error:
            assert status == 401
            assert error.__cause__ is None
            assert error.__context__ is None
            texts.append(repr(error))
            assert "you said Bearer [key]" in str(error)
    assert asked[0]["authorization"] == f"Bearer {KEY}"
    with replying(lambda n, headers: (200, {}, good(headers["Authorization"]))) as (url, _):
        (row,) = ask(source(url, key_env="SOME_KEY"), prompts(1), tmp_path / "answer")
        assert row["text"] == "Bearer [key]"
    texts += [repr(answers), str(vars(answers)), caplog.text, str(answers.facts)]
    assert [text for text in texts if KEY in text] == []
    assert KEY.encode() not in pickle.dumps(answers)
    assert [f for f in tmp_path.rglob("*") if f.is_file() and KEY.encode() in f.read_bytes()] == []


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, "no", "key in SOME_KEY is not accepted"),
        (402, "no", "no credit"),
        (403, "no", "may not use it"),
        (404, "no", "does not exist"),
        (429, '{"error": {"code": "insufficient_quota", "message": "m"}}', "run again later"),
    ],
)
def test_what_holds_for_all_prompts_stops_at_once(
    status: int, body: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    with replying(lambda number, headers: (status, {}, body)) as (url, asked):
        with pytest.raises(UserError, match=words):
            ask(source(url, key_env="SOME_KEY", concurrency=4), prompts(300), tmp_path)
        assert len(asked) <= 4


def test_a_wrong_model_stops_at_once(tmp_path: Path) -> None:
    with serving(model="other") as server:
        with pytest.raises(UserError, match="'scripted'.*does not exist"):
            ask(source(server.url), prompts(300), tmp_path)
        assert server.ledger.requests <= 16


def test_what_is_wrong_with_one_prompt_is_its_error(tmp_path: Path) -> None:
    statuses = iter([200, 400, 403, 422, 200])

    def reply(number: int, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], str]:
        status = next(statuses)
        return status, {}, good() if status == 200 else '{"message": "not this one"}'

    with replying(reply) as (url, asked):
        rows = ask(source(url, concurrency=1), prompts(5), tmp_path)
    assert len(asked) == 5
    errors = [f"HTTP {status}: not this one" for status in (400, 403, 422)]
    assert [row["error"] for row in rows] == ["", *errors, ""]


@pytest.mark.parametrize(
    "body",
    [
        '{"choices": []}',
        '{"choices": null, "error": {"message": "broken"}}',
        '{"choices": [{"message": {"content": "x"}}]}',  # no finish_reason
        '{"choices": [{"message": {"content": ["x"]}, "finish_reason": "stop"}]}',
        "<html>bad gateway</html>",
        "[]",
        b"\xff\xfe",
    ],
)
def test_a_response_that_is_no_answer_is_tried_again(body: str | bytes, tmp_path: Path) -> None:
    with replying(lambda n, headers: (200, {}, good() if n == 1 else body)) as (url, asked):
        (row,) = ask(source(url), prompts(1), tmp_path / "a")
        assert (row["text"], row["error"]) == ("fine", "")
        (row,) = ask(source(url, max_attempts=2), prompts(1), tmp_path / "b")
        assert row["error"].endswith("(after 2 tries)")
        assert len(asked) == 4


def test_a_body_that_never_ends_is_given_up(tmp_path: Path) -> None:
    drops = [b" "] * 5000  # one every 20 ms, so that no single read waits long
    with replying(lambda number, headers: (200, {}, drops)) as (url, asked):
        (row,) = ask(source(url, timeout_s=0.3, max_attempts=2), prompts(1), tmp_path)
    assert row["error"] == "no answer within 0.3 s (after 2 tries)"
    assert len(asked) == 2


def test_a_limit_that_lets_some_through_costs_no_tries(tmp_path: Path) -> None:
    def reply(number: int, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], str]:
        return (200, {}, good()) if number % 9 == 8 else (429, {"Retry-After": "0.01"}, "slower")

    with replying(reply) as (url, asked):
        rows = ask(source(url, concurrency=8, max_attempts=6), prompts(40), tmp_path)
    assert sum(row["error"] == "" for row in rows) >= 36
    assert len(asked) > 8 * 36  # of 6 tries each, 240 would be the end


def test_no_usage_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with replying(lambda number, headers: (200, {}, good())) as (url, _):
        answers = source(url)
        (row,) = ask(answers, prompts(1), tmp_path)
    assert (row["prompt_tokens"], row["tokens"], answers.facts["unmetered"]) == (0, 0, 1)
    assert "gave no usage with 1 of 1 answers" in caplog.text


def test_an_endpoint_that_is_not_there_stops_soon(tmp_path: Path) -> None:
    with replying(lambda number, headers: (200, {}, good())) as (url, _):
        pass  # now nobody listens there
    answers = source(url, concurrency=4, max_attempts=50)
    with pytest.raises(UserError, match=r"cannot be used: .* tries in a row .*ConnectError"):
        ask(answers, prompts(2000), tmp_path / "a")
    assert answers.facts["calls"] <= 3 * 4 + 50 + 4
    # A gateway in front of nothing is not there either.
    with replying(lambda number, headers: (503, {}, "no backend")) as (url, asked):
        with pytest.raises(UserError, match="no backend"):
            ask(source(url, concurrency=4), prompts(2000), tmp_path / "b")
        assert len(asked) < 30


def test_an_endpoint_that_dies_for_good_stops_too(tmp_path: Path) -> None:
    def reply(number: int, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], str]:
        return (200, {}, good()) if number < 100 else (502, {}, "gone")

    with replying(reply) as (url, asked):
        with pytest.raises(UserError, match="cannot be used"):
            ask(source(url, max_attempts=2), prompts(2000), tmp_path)
        assert len(asked) < 200
        (folder,) = tmp_path.iterdir()
        assert sum(pq.read_metadata(f).num_rows for f in folder.glob("*-*.parquet")) == 100


@pytest.mark.parametrize("status", [400, 500])
def test_an_endpoint_that_answers_nothing_stops_soon(status: int, tmp_path: Path) -> None:
    """Each of its errors is that of a row; fifty of them with nothing else are not."""
    with replying(lambda number, headers: (status, {}, "unknown parameter")) as (url, asked):
        answers = source(url, concurrency=8, max_attempts=1)
        with pytest.raises(UserError, match=rf"5\d prompts in a row .*HTTP {status}: unknown"):
            ask(answers, prompts(2000), tmp_path / "a")
        assert len(asked) <= 50 + 8
        few = ask(answers, prompts(49), tmp_path / "b")  # whoever asked says what follows
    assert all(row["error"] for row in few)


def test_one_that_has_answered_may_refuse_many(tmp_path: Path) -> None:
    """A content filter may refuse all that a call, or a continued run, has left to ask."""
    good_until = 10

    def reply(number: int, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], str]:
        return (200, {}, good()) if number < good_until else (400, {}, "refused")

    with replying(reply) as (url, asked):
        answers = source(url, concurrency=1)
        for rows in (
            ask(answers, prompts(200), tmp_path / "a"),
            ask(answers, prompts(90), tmp_path / "b"),
        ):
            assert sum(row["error"] == "" for row in rows) in (10, 0)
        assert len(asked) == 200 + 90
        again = ask(source(url, concurrency=1), prompts(200), tmp_path / "a")
        assert [row["error"] for row in again[9:11]] == ["", "HTTP 400: refused"]


def test_what_raises_in_progress_ends_the_call_and_keeps_what_is_finished(tmp_path: Path) -> None:
    def stop(done: int) -> None:
        if done >= 20:
            raise RuntimeError("cancelled")

    with serving() as server:
        answers = source(server.url, concurrency=4, flush_rows=10)
        with pytest.raises(RuntimeError, match="cancelled"):
            answers.answer(prompts(500), SAMPLING, tmp_path, stop)
        first = server.ledger.requests
        assert 20 <= first < 500
        assert len(ask(answers, prompts(500), tmp_path)) == 500
        assert server.ledger.requests <= 500 + 4  # what was in flight


def test_prompts_may_be_taken_out_or_added(tmp_path: Path) -> None:
    with serving() as server:
        ask(source(server.url), prompts(10), tmp_path)
        ask(source(server.url), prompts(4), tmp_path)
        ask(source(server.url), prompts(0), tmp_path)
        ask(source(server.url), prompts(12), tmp_path)
        assert server.ledger.requests == 12
        # Another sampling is another question.
        other = Sampling(0.1, 0.9, 50, 7)
        source(server.url).answer(prompts(12), other, tmp_path, lambda done: None)
        assert server.ledger.requests == 24


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_goes_on_where_it_was(how: signal.Signals, tmp_path: Path) -> None:
    count = 600
    work = tmp_path / "work"
    with serving(Misbehaviour(1.0, ("slow",), slow_s=0.02)) as server:
        script = (
            f"import sys; sys.path[:0] = {sys.path!r}\n"
            "from pathlib import Path\n"
            "from llm.test_http import ask, prompts, source\n"
            f"answers = source({server.url!r}, concurrency=8, flush_rows=20)\n"
            f"ask(answers, prompts({count}), Path({str(work)!r}))\n"
        )
        process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
        try:
            wait_for(lambda: len(list(work.glob("*/*-*.parquet"))) >= 5)
        finally:
            process.send_signal(how)
            process.communicate()
        assert process.returncode != 0
        folder = work / os.listdir(work)[0]
        kept = {
            id
            for file in folder.glob("*-*.parquet")
            for id in pq.read_table(file, columns=["id"])["id"].to_pylist()
        }
        before = server.ledger.requests
        assert 100 <= len(kept) < count
        if how == signal.SIGINT:
            assert before - len(kept) <= 8  # only what was in flight
        rows = ask(source(server.url, concurrency=16), prompts(count), work)
        assert all(row["error"] == "" for row in rows)
        assert server.ledger.requests == before + count - len(kept)
        for i in range(count):
            asked = server.ledger.asked(f"spec\0thing {i}")
            assert asked == 1 if f"doc{i}" in kept else asked <= 2
        # In flight: 8; not yet written: what came during one write, besides the 20 of a batch.
        assert before - len(kept) <= 8 + 2 * 20 + 40


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        threading.Event().wait(0.01)
