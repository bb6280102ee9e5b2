"""An outage finishes no stage: it ends with one line, and the same command goes on afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msm_ray.corpus.expansion import Expansion, Failure
from msm_ray.corpus.outages import check_batch, check_failed, check_level
from msm_ray.errors import UserError
from tests.chat.test_job import SETTINGS
from tests.chat.test_job import job_at as chat_at
from tests.corpus.failing import FailingServer, failing
from tests.corpus.test_job import card_of, job_at, tables

MOST = 50 + 64  # calls that an endpoint gets which has answered none: in a row, and in flight


def always(status: int) -> Callable[[str], int]:
    return lambda prompt: status


def some(status: int, share: float) -> Callable[[str], int]:
    """The status for a share of the prompts, always the same ones."""
    return lambda prompt: status if hash_of(prompt) < share else 0


def hash_of(prompt: str) -> float:
    return (sum(prompt.encode()) * 2654435761 % 2**32) / 2**32


def of_step(step: str, fails: Callable[[str], int]) -> Callable[[str], int]:
    """``fails`` for the prompts of one level of a plan."""
    return lambda prompt: fails(prompt) if re.search(rf"^Step: {step}", prompt, re.M) else 0


@pytest.mark.parametrize(
    ("failed", "asked", "share", "ends"),
    [
        (0, 0, 0.05, False),
        (0, 48, 0.05, False),
        (5, 48, 0.05, False),  # a handful
        (6, 48, 0.05, True),
        (100, 2000, 0.05, False),
        (101, 2000, 0.05, True),
        (2, 2, 0.05, True),  # all of it
        (1, 2, 0.05, False),
        (2, 2, 1.0, False),
        (6, 48, 0.2, False),
        (6, 1000, 0.0, True),
    ],
)
def test_how_many_errors_are_too_many(failed: int, asked: int, share: float, ends: bool) -> None:
    if ends:
        with pytest.raises(
            UserError, match=f"{failed} of {asked} ended in an error.*from here: gone$"
        ):
            check_failed(failed, asked, share, "gone", "here")
    else:
        check_failed(failed, asked, share, "gone", "here")


@pytest.mark.parametrize(
    ("failed", "asked", "planned", "share", "ends"),
    [
        (48, 48, 48, 0.05, True),
        (40, 48, 100, 0.05, False),  # too few to tell from prompts of one kind
        (60, 100, 1000, 0.05, True),
        (50, 100, 1000, 0.05, False),
        (60, 100, 1000, 0.7, False),
        (48, 48, 48, 1.0, False),
    ],
)
def test_a_batch_that_shows_an_outage(
    failed: int, asked: int, planned: int, share: float, ends: bool
) -> None:
    if ends:
        with pytest.raises(UserError, match="from here: gone$"):
            check_batch(failed, asked, planned, share, "gone", "here")
    else:
        check_batch(failed, asked, planned, share, "gone", "here")


def test_what_errors_take_from_a_level() -> None:
    failure = Failure("ideas", "p", 0, "gone")
    made = Expansion("ideas", {}, (), (failure,), {}, 3, 0, 0, wanted=100, lost=6)
    with pytest.raises(UserError, match=r"6 of 100 ideas are missing .*from here: gone$"):
        check_level(made, 0.05, "here")
    check_level(made, 0.06, "here")


def test_a_share_is_one() -> None:
    for make in (job_at, chat_at):
        with pytest.raises(UserError, match=r"failed_share is 5.0; allowed: 0 to 1"):
            make("http://localhost:1/v1", "failed_share=5.0")


def test_how_patient_a_run_is_makes_nothing_else() -> None:
    one, other = (job_at("http://localhost:1/v1", f"failed_share={s}") for s in (0.05, 0.5))
    assert [s.id for s in one.stages()] == [s.id for s in other.stages()]


def run_twice(
    server: FailingServer,
    store: Path,
    words: str,
    make: Callable[..., Any] = job_at,
    settings: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Run into the outage, and again when it is over; nothing that was answered is asked again."""
    settings = (*settings, "writer.http.max_attempts=2", "judge.http.max_attempts=2")
    job = make(server.url, *settings, "planner.http.max_attempts=2")
    with pytest.raises(UserError, match=words):
        job.run(str(store))
    report = json.loads((store / "runs" / job.name / "report.json").read_text())
    assert report["complete"] is False
    answered = set(server.answered)
    before = dict(server.asked)
    server.fails = {}
    result = job.run(str(store))
    assert result.complete
    assert result.report["corpus"]["failed"] == 0
    assert len(answered) > 0 or "planner" in words
    assert [key for key in answered if server.asked[key] != before[key]] == []
    return result.report


@pytest.mark.parametrize("status", [500, 400])
def test_a_writer_that_is_out_of_order(status: int, tmp_path: Path) -> None:
    with failing() as server:
        server.fails = {"writer": always(status)}
        report = run_twice(
            server, tmp_path, rf"48 of 48 .*{server.url}: HTTP {status}: unsupported"
        )
    assert report["corpus"]["kept"] > 40
    assert server.calls("judge") >= 48


@pytest.mark.parametrize("status", [500, 400])
def test_a_judge_that_is_out_of_order_costs_the_writer_nothing(status: int, tmp_path: Path) -> None:
    with failing() as server:
        server.fails = {"judge": always(status)}
        job = job_at(server.url, "judge.http.max_attempts=2")
        with pytest.raises(UserError, match=rf"48 of 48 .*the judge: HTTP {status}"):
            job.run(str(tmp_path / "a"))
        assert server.calls("writer") == 48
        assert server.calls("judge") == 48 * (2 if status == 500 else 1)
    with failing() as server:
        server.fails = {"judge": always(status)}
        report = run_twice(server, tmp_path / "b", "the judge: HTTP")
    assert report["corpus"]["kept"] > 40


def test_a_judge_that_fails_for_a_few_leaves_them_unjudged(tmp_path: Path) -> None:
    """Their text is there with the judge's error, and nobody wrote another one."""
    with failing() as server:
        server.fails = {"judge": some(400, 0.1)}
        report = job_at(server.url, "failed_share=0.5").run(str(tmp_path)).report
        found = tables(tmp_path, report)
    assert 0 < report["corpus"]["failed"] == len(found["failed"]) < 24
    for row in found["failed"]:
        assert row["text"]
        assert row["error"] == "the judge: HTTP 400: unsupported parameter"
    assert all(row["reason"] and not row["error"] for row in found["redrafted"])
    assert server.calls("writer") == 48 + sum(report["corpus"]["redrafted"])
    assert "judge_unreadable" not in card_of(tmp_path, report)["drafts_rejected"]


def test_a_plan_is_not_crippled(tmp_path: Path) -> None:
    with failing() as server:
        server.fails = {"planner": of_step("document ideas|ideas", some(500, 0.7))}
        report = run_twice(server, tmp_path, r"of 48 ideas are missing because .*HTTP 500")
    assert report["corpus"]["planned"] == 48


def test_a_shortfall_of_content_stops_no_plan(tmp_path: Path) -> None:
    """A planner that gives less than it is asked for has answered."""
    with failing() as server:
        respond = server.respond

        def short(prompt: str, seed: int) -> str:
            said = respond(prompt, seed)
            if re.search(r"^Step: (?:document )?ideas", prompt, re.M):
                return json.dumps({"items": json.loads(said)["items"][:1]})
            return said

        server.respond = short
        report = job_at(server.url, "plan.rounds=0").run(str(tmp_path)).report
    assert report["complete"]
    assert report["corpus"]["planned"] == 12


def test_an_endpoint_that_answers_nothing_is_asked_no_more_than_it_takes_to_see(
    tmp_path: Path,
) -> None:
    """240 documents, three drafts, a status that is an error of its row."""
    with failing() as server:
        server.fails = {"writer": always(400)}
        with pytest.raises(
            UserError, match=r"has answered nothing for model 'scripted': \d+ prompts"
        ):
            job_at(server.url, "plan.ideas=20").run(str(tmp_path))
        assert 50 <= server.calls("writer") <= MOST


def test_an_outage_in_the_middle_ends_with_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msm_ray.corpus.writing.rows_in_call", lambda *sizes: 60)
    with failing() as server:
        good = [0]

        def fails(prompt: str) -> int:
            good[0] += 1
            return 500 if good[0] > 60 else 0

        server.fails = {"writer": fails}
        settings = ("plan.ideas=20", "writer.http.max_attempts=1", "judge.http.max_attempts=2")
        with pytest.raises(UserError, match="60 of 60 in a row ended in an error"):
            job_at(server.url, *settings).run(str(tmp_path))
        assert server.calls("writer") == 120
        server.fails = {}
        report = job_at(server.url, *settings).run(str(tmp_path)).report
    assert report["complete"]
    assert report["corpus"]["planned"] == 240


def test_conversations_too(tmp_path: Path) -> None:
    settings = (*SETTINGS["value"], "questions.domains=2", "questions.questions=10")
    for role, words in (("planner", "questions are missing"), ("judge", "the judge: HTTP 500")):
        with failing() as server:
            step = of_step("user questions", some(500, 0.99))
            server.fails = {role: step if role == "planner" else always(500)}
            report = run_twice(server, tmp_path / role, words, chat_at, settings)
        assert report["corpus"]["kept"] >= 15
