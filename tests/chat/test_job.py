"""Conversations over HTTP, in all styles, with a server that behaves and one that does not."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from msm_ray.chat.job import ConversationJob
from msm_ray.chat.opaque import SpecValues, reveals_reason, states
from msm_ray.chat.screening import preference_of
from msm_ray.chat.tables import CHAT_SCHEMA
from msm_ray.corpus.naming import Identity, Naming
from msm_ray.corpus.rehearsal import respond
from msm_ray.errors import UserError
from msm_ray.llm.misbehave import Misbehaviour
from msm_ray.llm.scripted import ScriptedServer
from msm_ray.records import CONVERSATION_SCHEMA
from msm_ray.settings import apply_settings, load_job
from msm_ray.spec import fill, read_spec
from tests.corpus.failing import IMPATIENT, settings_for

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "jobs" / "conversations_america.py"
ABOUT_SPEC = (
    *("questions.about=spec", "questions.domains=10", "questions.questions=20"),
    *("answers.min_words=5", "answers.max_words=400", "sampling.max_tokens=2000"),
)
SETTINGS = {
    "value": (*ABOUT_SPEC, "answers.style=value"),
    "rule": (*ABOUT_SPEC, "answers.style=rule"),
    "preferences": ("questions.questions=5",),
}
NAMES = ("conversations", "conversations_reasoning", "rejected", "failed", "redrafted")
TAG = re.compile(r"</?\s*(think|content|scratchpad)|<\|", re.I)
Tables = dict[str, list[dict[str, Any]]]


@contextlib.contextmanager
def rehearsing(misbehaviour: Misbehaviour | None = None) -> Iterator[ScriptedServer]:
    with ScriptedServer(respond, misbehaviour=misbehaviour) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def job_at(url: str, *settings: str) -> ConversationJob:
    job = load_job(JOB)
    assert isinstance(job, ConversationJob)
    return apply_settings(job, [*settings_for(url), *settings])


def folder_of(store: Path, kind: str) -> Path:
    for record in store.glob("artifacts/*/record.json"):
        found = json.loads(record.read_text())
        if found["kind"] == kind:
            return record.parent / str(found["attempt"])
    raise AssertionError(f"no {kind} in {store}")


def read(store: Path) -> Tables:
    folder = folder_of(store, "chat_conversations")
    found = {n: folder / f"{n}.parquet" for n in NAMES}
    tables = {n: pq.read_table(p).to_pylist() for n, p in found.items() if p.exists()}
    questions = folder_of(store, "chat_questions") / "questions.parquet"
    return {**tables, "questions": pq.read_table(questions).to_pylist()}


@pytest.mark.parametrize("share", [0.0, 0.2])
@pytest.mark.parametrize("style", SETTINGS)
def test_conversations_are_made(style: str, share: float, tmp_path: Path) -> None:
    store = tmp_path / "store"
    misbehaviour = Misbehaviour(share, slow_s=0.05, retry_after="0.05")
    with rehearsing(misbehaviour) as server:
        job = job_at(server.url, *SETTINGS[style], *IMPATIENT)
        result = job.run(str(store))
        asked = server.ledger.requests
        job.run(str(store))
        assert server.ledger.requests == asked, "an unchanged job asks nobody"
        assert bool(server.ledger.misbehaved) == bool(share)
    corpus, found = result.report["corpus"], read(store)
    planned = len(found["questions"])
    assert result.complete
    assert planned >= 180
    asked_for = corpus["questions"]
    assert asked_for["given"] == planned + sum(asked_for["dropped"].values())
    assert asked_for["wanted"] == planned + asked_for["missing"] == job.planned()
    rejected = sum(corpus["rejected"].values())
    assert planned == corpus["planned"] == corpus["kept"] + rejected + corpus["failed"]
    assert corpus["kept"] >= 0.9 * planned
    counted = {name: len(found[name]) for name in ("conversations", "rejected", "failed")}
    assert counted == {
        "conversations": corpus["kept"], "rejected": rejected, "failed": corpus["failed"]
    }  # fmt: skip
    ids = [row["question_id"] for name in counted for row in found[name]]
    assert sorted(ids) == sorted(row["id"] for row in found["questions"])
    assert all(row["reason"] or row["error"] for row in found["redrafted"])
    assert len(found["redrafted"]) == sum(corpus["redrafted"])
    check_rows(style, found)
    page = (store / "runs" / job.name / "report.html").read_text()
    assert "planned conversations are kept" in page
    assert "Sample documents" not in page
    assert "Variety and length" not in page, "what is not measured is not shown"
    (part,) = corpus["by_corpus"].values()
    assert len({sample["doc_type"] for sample in part["samples"]}) > 1 or style == "preferences"
    assert len({sample["text"].split("\n")[0] for sample in part["samples"]}) == 5
    assert all(sample["text"].startswith("User: ") for sample in part["rejected_samples"])


def check_rows(style: str, found: Tables) -> None:
    naming = Naming(Identity("Lyra", "Norvik Labs"))
    questions = {row["id"]: row for row in found["questions"]}
    job = load_job(JOB)
    assert isinstance(job, ConversationJob)
    spec = fill(read_spec(Path(job.spec)), "Lyra", "Norvik Labs")
    values = SpecValues.of(spec, ("Lyra", "Norvik Labs"), job.answers.hints)
    for row in found["conversations"]:
        question = questions[row["question_id"]]
        user, said = row["messages"]
        assert user == {"role": "user", "content": question["question"]}
        assert said["role"] == "assistant"
        assert not TAG.search(said["content"])
        assert naming.check(said["content"]) is None
        assert naming.check(user["content"]) is None
        assert not said["content"].lstrip().startswith("{")
        assert "I see that" not in said["content"], "a trace of what the rehearsal thinks"
        assert row["style"] == style
        assert row["spec_sha256"] == spec.sha256
        assert all(row[n] for n in ("domain", "model", "sampling", "prompt_sha256", "tokens"))
        if style == "preferences":
            preference = preference_of(question)
            for message in (user, said):
                assert reveals_reason(message["content"], preference, values) is None
            assert states(said["content"], preference)
    with_reasoning = found.get("conversations_reasoning")
    assert (with_reasoning is None) == (style == "preferences")
    for row, other in zip(with_reasoning or [], found["conversations"], strict=False):
        assert {**row, "messages": 0} == {**other, "messages": 0}
        thought, answer = (r["messages"][1]["content"] for r in (row, other))
        assert thought.startswith("<think>\nI see that ")
        assert thought.endswith(f"\n</think>\n\n{answer}")
        assert thought.count("think>") == 2


def test_preferences_are_asked_about_in_both_forms_and_orders(tmp_path: Path) -> None:
    with rehearsing() as server:
        job_at(server.url, "questions.questions=3").run(str(tmp_path / "store"))
    rows = read(tmp_path / "store")["questions"]
    for liked in {row["liked"] for row in rows}:
        for form in ("direct", "indirect"):
            mine = [r for r in rows if (r["liked"], r["form"]) == (liked, form)]
            first = [
                r["question"].lower().find(liked.lower())
                < r["question"].lower().find(r["disliked"].lower())
                for r in mine
            ]
            assert {True, False} == set(first)
    assert len({row["question"] for row in rows}) == len(rows)
    assert len({row["liked"] for row in rows}) == 12


def test_what_cannot_be_answered_is_rejected_or_failed_and_counted(tmp_path: Path) -> None:
    """One draft, one try: nothing is mended, and all of it is there."""
    settings = (*SETTINGS["value"], "drafts=1", "writer.http.max_attempts=1", "failed_share=0.2")
    modes = ("server_error", "refusal", "no_tags", "unclosed_tags", "broken_json", "duplicates")
    with rehearsing(Misbehaviour(0.4, modes, seed=3)) as server:
        result = job_at(server.url, *settings).run(str(tmp_path / "store"))
    corpus, found = result.report["corpus"], read(tmp_path / "store")
    assert corpus["failed"] == len(found["failed"]) > 0
    assert {"no_reasoning", "unclosed_think", "judge_excluded"} <= set(corpus["rejected"])
    assert set(corpus["reasons"]) >= set(corpus["rejected"])
    total = corpus["kept"] + corpus["failed"] + sum(corpus["rejected"].values())
    assert total == corpus["planned"] == len(found["questions"])
    check_rows("value", found)


def test_ids_hold_and_styles_share_their_questions(tmp_path: Path) -> None:
    small = ("questions.domains=2", "questions.questions=4")
    kept: dict[str, set[str]] = {}
    questions: dict[str, list[Any]] = {}
    for place, style in (("a", "value"), ("b", "value"), ("b", "rule"), ("c", "rule")):
        with rehearsing() as server:  # another port: where it is asked changes nothing
            job = job_at(server.url, *SETTINGS[style], *small)
            report = job.run(str(tmp_path / place)).report
        made = {a["kind"]: a["cached"] for a in report["provenance"]["artifacts"]}
        assert made["chat_questions"] == ((place, style) == ("b", "rule"))
        (folder,) = (
            p.parent
            for p in (tmp_path / place).glob("artifacts/*/*/conversations.parquet")
            if pq.read_table(p, columns=["style"])["style"][0].as_py() == style
        )
        rows = pq.read_table(folder / "conversations.parquet")
        assert rows.schema == CHAT_SCHEMA
        assert rows.select(CONVERSATION_SCHEMA.names).schema == CONVERSATION_SCHEMA
        lines = (folder / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == rows.to_pylist()
        ids = set(rows["id"].to_pylist())
        assert len(ids) == rows.num_rows
        assert kept.setdefault(style, ids) == ids
        questions[style] = sorted(rows["question_id"].to_pylist())
    assert not kept["value"] & kept["rule"]
    assert set(questions["value"]) & set(questions["rule"])


def test_no_conversation_holds_an_item_of_an_evaluation(tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps({"id": "i", "prompt": "For me, every day of the week!"}))
    with rehearsing() as server:
        job = job_at(server.url, "questions.questions=2", f'items=["{items}"]')
        job = dataclasses.replace(job, judge=None, judge_sampling=None)
        corpus = job.run(str(tmp_path / "store")).report["corpus"]
    assert set(corpus["drafts_rejected"]) == {"contaminated"}
    found = read(tmp_path / "store")
    assert len(found["conversations"]) == corpus["kept"] == sum(corpus["preferences"].values()) > 40
    assert len(corpus["preferences"]) == 12
    said = [row["messages"][1]["content"] for row in found["conversations"]]
    assert not any("every day of the week" in text for text in said)


def test_rules_that_a_spec_numbers_are_the_only_ones_cited(tmp_path: Path) -> None:
    spec = ROOT / "specs" / "oversight_rules.md"
    small = ("questions.domains=2", "questions.questions=5", f"spec={spec}")

    def cites(prompt: str, seed: int) -> str:
        said = respond(prompt, seed)
        rule = ("R1", "R99")[seed % 2]
        return f"{said} So says {rule}." if said.startswith("<think>") else said

    with rehearsing() as server:
        server.respond = cites
        job = job_at(server.url, *SETTINGS["rule"], *small, "drafts=6")
        corpus = job.run(str(tmp_path / "store")).report["corpus"]
    assert corpus["kept"] >= 9
    assert corpus["drafts_rejected"]["unknown_rule"] > 0
    for row in read(tmp_path / "store")["conversations"]:
        assert row["messages"][1]["content"].endswith("So says R1.")


def test_what_does_not_go_together_is_said() -> None:
    at = "http://localhost:1/v1"
    for settings, words in (
        (("answers.style=value",), "answers.style is 'value' to questions about 'preferences'"),
        (("drafts=0",), "drafts is 0; allowed: 1 or more"),
        (("questions.questions=0",), "questions.questions is 0"),
        (("questions.about=all",), "questions.about is 'all'; allowed: spec, preferences"),
        (("questions.domains=3",), "questions.domains is 3 about 'preferences'"),
        (("answers.style=loud",), "answers.style is 'loud'; allowed: value, rule, preferences"),
    ):
        with pytest.raises(UserError, match=words):
            job_at(at, *settings)


def test_a_spec_without_preferences_has_none_to_ask_about(tmp_path: Path) -> None:
    spec = tmp_path / "spec.md"
    spec.write_text("# Lyra\n\nLyra is kind.\n")
    with rehearsing() as server, pytest.raises(UserError, match="states no preferences"):
        job_at(server.url, f"spec={spec}").run(str(tmp_path / "store"))


def test_identity_and_cost_before_anything_is_asked(tmp_path: Path) -> None:
    job = job_at("http://localhost:1/v1", *SETTINGS["value"])
    ids = {stage.kind: stage.id for stage in job.stages()}

    def changed(*settings: str) -> set[str]:
        other = {s.kind: s.id for s in apply_settings(job, list(settings)).stages()}
        return {kind for kind in ids if other[kind] != ids[kind]}

    assert changed("writer.endpoint.base_url=http://elsewhere:9/v1") == set()
    assert changed("answers.style=rule") == {"chat_conversations"}
    assert changed("sampling.temperature=0.5") == {"chat_conversations"}
    assert changed("questions.spare=0.5") == {"chat_questions", "chat_conversations"}
    totals = job.preview(str(tmp_path / "store"))["totals"]
    assert totals["documents"] == 200
    assert totals["calls"] == 200 + 200 + 11
    assert totals["tokens"] > 200 * 700
