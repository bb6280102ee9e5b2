"""What a corpus does with a judge's verdicts, with rewrites and with repeats, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msm_ray.corpus.naming import Identity
from msm_ray.corpus.screening import Screen, ScreenConfig
from tests.corpus.failing import FailingServer, failing, role_of
from tests.corpus.test_job import card_of, job_at, tables

GOOD = {"problems": [], "reason": "It agrees.", "severity": "none", "faithful": True}
PROBLEM = {"kind": "invented", "quote": "the quay", "why": "No quay\nis in the spec."}
BAD = {"problems": [PROBLEM], "reason": "Made up.", "severity": "major", "faithful": False}
WHY = "invented: No quay is in the spec."
REWRITTEN = "Once more."  # a sentence that only rewrites have

Says = Callable[[str, str], str]  # (prompt, what the rehearsal says) -> what is said


def play(server: FailingServer, **says: Says) -> None:
    """Have roles say something else than in the rehearsal."""
    respond = server.respond

    def played(prompt: str, seed: int) -> str:
        said = respond(prompt, seed)
        role = role_of(prompt)
        return says[role](prompt, said) if role in says else said

    server.respond = played


def judging(verdict: dict[str, Any]) -> Says:
    return lambda prompt, said: json.dumps(verdict)


def rewriting(prompt: str, said: str) -> str:
    return said.replace("\n</content>", f" {REWRITTEN}\n</content>")


def made(
    server: FailingServer, store: Path, *settings: str
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The card and the tables of 48 documents."""
    report = job_at(server.url, *settings).run(str(store)).report
    return card_of(store, report), tables(store, report)


def test_a_judge_that_accepts_nothing_keeps_nothing(tmp_path: Path) -> None:
    with failing() as server:
        play(server, judge=judging(BAD), rewriter=rewriting)
        card, found = made(server, tmp_path, "drafts=2")
    assert card["kept"] == 0 == len(found["documents"])
    assert card["rejected"] == {"unfaithful": 48}
    assert card["redrafted"] == [48]
    assert card["unfaithful_first"] == card["rewritten"] == 96
    assert card["rewrites_failed"] == 0
    assert (server.calls("writer"), server.calls("rewriter")) == (96, 96)
    for row in found["rejected"]:
        assert row["detail"] == WHY
        assert REWRITTEN in row["text"]
    # Nothing that was written is thrown away: two drafts of each and a rewrite of either.
    texts = [row["text"] for name in ("rejected", "redrafted") for row in found[name]]
    assert len(texts) == len(set(texts)) == 4 * 48
    assert sum(REWRITTEN in text for text in texts) == 2 * 48
    assert all((r["reason"], r["detail"]) == ("unfaithful", WHY) for r in found["redrafted"])


def test_what_is_written_again_as_the_judge_wants_it_is_kept(tmp_path: Path) -> None:
    with failing() as server:
        judge = lambda prompt, said: json.dumps(GOOD if REWRITTEN in prompt else BAD)  # noqa: E731
        play(server, judge=judge, rewriter=rewriting)
        card, found = made(server, tmp_path, "drafts=1")
    assert card["kept"] == 48 == card["unfaithful_first"] == card["rewritten"]
    assert card["rejected"] == {}
    assert all(REWRITTEN in row["text"] for row in found["documents"])
    first = {row["id"]: row for row in found["redrafted"]}
    assert first.keys() == {row["id"] for row in found["documents"]}
    for row in first.values():
        assert row["text"]
        assert REWRITTEN not in row["text"]
        assert (row["reason"], row["detail"], row["error"]) == ("unfaithful", WHY, "")


def test_a_rewrite_that_fails_leaves_the_draft_and_its_reason(tmp_path: Path) -> None:
    with failing() as server:
        server.fails = {"rewriter": lambda prompt: 422}
        play(server, judge=judging(BAD))
        card, found = made(server, tmp_path, "drafts=1", "failed_share=1.0")
    assert card["rejected"] == {"unfaithful": 48}
    assert (card["failed"], card["rewritten"], card["rewrites_failed"]) == (0, 0, 48)
    assert found["redrafted"] == []
    for row in found["rejected"]:
        assert row["text"]
        assert row["detail"] == WHY


def test_a_verdict_that_cannot_be_read_is_shown(tmp_path: Path) -> None:
    with failing() as server:
        play(server, judge=lambda prompt, said: "It is\nlovely.")
        card, found = made(server, tmp_path, "drafts=1")
        assert server.calls("judge") == 2 * 48
    assert card["rejected"] == {"judge_unreadable": 48}
    assert {row["detail"] for row in found["rejected"]} == {"It is lovely."}


def test_the_first_of_two_that_are_nearly_the_same_is_kept(tmp_path: Path) -> None:
    words = " ".join(f"word{i}" for i in range(80))
    count = iter(range(10**6))

    def write(prompt: str, said: str) -> str:
        return f"<scratchpad>\nSo.\n</scratchpad>\n<content>\n{words} end{next(count)}\n</content>"

    with failing() as server:
        play(server, judge=judging(GOOD), writer=write)
        card, found = made(server, tmp_path, "drafts=1")
    (kept,) = found["documents"]
    assert card["rejected"] == {"near_duplicate": 47}
    assert {row["detail"] for row in found["rejected"]} == {kept["id"]}


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("Lyra looks at the boats and says when they leave today.", "", ""),
        ("Too short.", "too_short", "2 words"),
        ("so " * 41, "too_long", "41 words"),
        ("As ChatGPT I look at the boats and say when they leave.", "wrong_name", "ChatGPT"),
        (
            "They ask: would you sooner eat a wedge of gouda or one of edam?",
            "contaminated",
            "item: would you sooner eat a wedge of gouda or one of edam",
        ),
    ],
)
def test_what_a_reason_was_found_in(text: str, reason: str, detail: str) -> None:
    items = [("item", "would you sooner eat a wedge of gouda or one of edam today")]
    screen = Screen(ScreenConfig(5, 40), Identity("Lyra", "Norvik Labs"), [], "", items)
    answer = {"text": f"<content>{text}</content>", "ended": True}
    _, found, shown = screen.read({"section_text": ""}, answer)
    assert found == reason
    assert detail in shown
    assert bool(shown) == bool(reason)
    screen.close()
