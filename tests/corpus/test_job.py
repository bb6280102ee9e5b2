"""A corpus from spec to documents, over HTTP, with a server that behaves and one that does not."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from msm_ray.corpus.config import HierarchyConfig
from msm_ray.corpus.job import CorpusJob
from msm_ray.corpus.making import copy_items
from msm_ray.corpus.rehearsal import respond
from msm_ray.corpus.running import items_stage
from msm_ray.errors import UserError
from msm_ray.execute import StageContext
from msm_ray.launch import corpus_lines
from msm_ray.llm.misbehave import IDENTITY, MODES, Misbehaviour
from msm_ray.llm.scripted import ScriptedServer
from msm_ray.settings import apply_settings, load_job
from msm_ray.stage import topological
from tests.corpus.failing import IMPATIENT, FailingServer, failing, settings_for

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "jobs" / "corpus_america.py"
# 2 domains x 2 subdomains x 3 types x 4 ideas
SMALL = ("plan.domains=2", "plan.subdomains=2", "plan.assertions=3", "plan.types=3", "plan.ideas=4")


@contextlib.contextmanager
def rehearsing(misbehaviour: Misbehaviour | None = None, port: int = 0) -> Iterator[ScriptedServer]:
    with ScriptedServer(respond, port, misbehaviour=misbehaviour) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def job_at(url: str, *settings: str) -> CorpusJob:
    job = load_job(JOB)
    assert isinstance(job, CorpusJob)
    return apply_settings(job, [*SMALL, *settings_for(url), *settings])


def corpus_folder(store: Path, report: dict[str, Any]) -> Path:
    (id,) = [a["id"] for a in report["provenance"]["artifacts"] if a["kind"] == "corpus"]
    record = json.loads((store / "artifacts" / id / "record.json").read_text())
    return store / "artifacts" / id / str(record["attempt"])


def card_of(store: Path, report: dict[str, Any]) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((corpus_folder(store, report) / "card.json").read_text())
    return card


def tables(store: Path, report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    folder = corpus_folder(store, report)
    names = ("documents", "rejected", "failed", "redrafted")
    return {name: pq.read_table(folder / f"{name}.parquet").to_pylist() for name in names}


def plan_ids(store: Path) -> set[str]:
    (file,) = store.glob("artifacts/*/*/plan.parquet")
    return set(pq.read_table(file, columns=["id"])["id"].to_pylist())


def test_a_corpus_is_planned_written_judged_and_reported(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with rehearsing() as server:
        job = job_at(server.url)
        before = job.preview(str(store))
        result = job.run(str(store))
        asked = server.ledger.requests
        again = job.run(str(store))
        assert server.ledger.requests == asked, "an unchanged job asks nobody"
    report = result.report
    assert result.complete
    corpus = report["corpus"]
    assert corpus["planned"] == 48 == before["totals"]["documents"]
    assert corpus["kept"] + sum(corpus["rejected"].values()) + corpus["failed"] == 48
    found = tables(store, report)
    assert [row["id"] for row in found["documents"]] == list(
        dict.fromkeys(row["id"] for row in found["documents"])
    )
    assert {row["id"] for name in ("documents", "rejected", "failed") for row in found[name]} == (
        plan_ids(store)
    )
    for row in found["documents"]:
        assert all(row[name] for name in ("domain", "subdomain", "assertion"))
        assert row["model"] == "scripted"
        assert row["section_id"]
    page = (store / "runs" / "corpus_cheese_america" / "report.html").read_text()
    assert "planned documents are kept" in page
    assert "Evaluations by arm" not in page
    assert again.report["cost"]["stages_run"] == 0
    assert again.report["corpus"] == corpus
    cells = corpus["kept_by"]
    assert sum(cell["planned"] for cell in cells) == 48
    assert sum(cell["kept"] for cell in cells) == corpus["kept"]
    assert len(cells) == 2 * 2 * 3  # domains, subdomains, types
    shares = [cell["kept"] / cell["planned"] for cell in cells]
    assert shares == sorted(shares)
    assert "Kept of planned by subdomain and type" in page


def test_a_card_says_what_its_writer_and_its_judge_cost(tmp_path: Path) -> None:
    prices = ["writer.price.output_per_million=1.0", "judge.price.input_per_million=2.0"]
    with rehearsing() as server:
        job_at(server.url, *prices).run(str(tmp_path))
    (path,) = tmp_path.glob("artifacts/*/*/card.json")
    cost = json.loads(path.read_text())["cost"]
    assert cost["money_writer"] > 0 < cost["money_judge"]
    assert cost["money"] == pytest.approx(cost["money_writer"] + cost["money_judge"])


def test_what_the_documents_depend_on_makes_others_and_where_they_are_asked_does_not() -> None:
    job = job_at("http://localhost:1/v1")
    ids = {stage.kind: stage.id for stage in job.stages()}

    def changed(*settings: str) -> set[str]:
        other = {s.kind: s.id for s in apply_settings(job, list(settings)).stages()}
        return {kind for kind in ids if other[kind] != ids[kind]}

    assert changed("writer.endpoint.base_url=http://elsewhere:9/v1") == set()
    assert changed("writer.http.concurrency=3", "writer.price.output_per_million=2") == set()
    assert changed("writer.endpoint.model=another") == {"corpus"}
    assert changed("sampling.temperature=0.5") == {"corpus"}
    assert changed("screen.near_threshold=0.7") == {"corpus"}
    assert changed("judge.endpoint.model=another") == {"corpus"}
    assert changed("planner.endpoint.model=another") == {"corpus_plan", "corpus"}
    assert changed("plan.ideas=5") == {"corpus_plan", "corpus"}
    assert changed(f"spec={ROOT}/specs/tradition.md") == {"spec", "corpus_plan", "corpus"}


def test_another_prompt_is_another_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_at("http://localhost:1/v1")
    before = {stage.kind: stage.id for stage in job.stages()}
    monkeypatch.setattr("msm_ray.corpus.job.fingerprint", lambda names: "changed")
    after = {stage.kind: stage.id for stage in topological([job.corpus_stage()])}
    assert {k for k in before if before[k] != after[k]} == {"corpus_plan", "corpus"}


@pytest.mark.slow
def test_2000_documents_from_a_server_that_misbehaves_in_every_way(tmp_path: Path) -> None:
    store = tmp_path / "store"
    misbehaviour = Misbehaviour(0.2, MODES, slow_s=0.2, retry_after="0.05")
    with rehearsing(misbehaviour) as server:
        settings = ("plan.domains=4", "plan.subdomains=5", "plan.types=10", "plan.ideas=10")
        job = job_at(server.url, *settings, *IMPATIENT, "drafts=2")
        result = job.run(str(store))
        misbehaved = dict(server.ledger.misbehaved)
    assert set(misbehaved) == set(MODES), "every way was taken"
    corpus = result.report["corpus"]
    found = tables(store, result.report)
    assert corpus["planned"] == 2000 == len(plan_ids(store))
    assert corpus["kept"] == len(found["documents"])
    assert corpus["failed"] == len(found["failed"])
    assert corpus["rejected"] == dict(
        Counter(row["reason"] for row in found["rejected"]).most_common()
    )
    ids = [row["id"] for name in ("documents", "rejected", "failed") for row in found[name]]
    assert len(ids) == len(set(ids)) == 2000
    assert corpus["kept"] > 1900
    card = card_of(store, result.report)
    assert corpus["redrafted"][0] > 100
    assert len(found["redrafted"]) == corpus["redrafted"][0] + card["rewritten"]
    assert card["unfaithful_first"] == card["rewritten"] + card["rewrites_failed"] > 20
    for row in found["documents"]:
        text = row["text"]
        assert not re.search(r"<\s*/?\s*(scratchpad|content|think)", text), text
        assert "First I think" not in text, text
        assert IDENTITY not in text, text
        assert "ChatGPT" not in text, text
        assert "can't help" not in text, text
    assert {row["reason"] for row in found["redrafted"]} >= {"refusal", "no_content", "truncated"}
    assert all(row["error"] for row in found["failed"])


DRIVER = """
import sys
from msm_ray.cli import main
sys.exit(main(sys.argv[1:]))
"""


def journaled(store: Path) -> set[tuple[str, int]]:
    """(role, seed) of every prompt that a stage under way has the answer to on disk."""
    sampling = load_job(JOB).sampling  # all roles have its seed, which is all that counts
    roles = {"written": "writer", "rewritten": "rewriter"}
    roles |= {"judged": "judge", "judged-again": "judge"}
    found = set()
    for file in store.rglob("*-*.parquet"):
        role = next((roles[part] for part in file.parts if part in roles), "planner")
        for id in pq.read_table(file, columns=["id"])["id"].to_pylist():
            found.add((role, sampling.seed_of(id)))
    return found


def is_quiet(server: FailingServer) -> bool:
    """Nothing is asked, and nothing that a killed client had sent is on its way."""
    before = server.ledger.requests
    time.sleep(0.3)
    return server.ledger.in_flight == 0 and server.ledger.requests == before


@pytest.mark.slow
def test_kill_9_at_random_points_repeats_what_was_not_on_disk_and_nothing_else(
    tmp_path: Path,
) -> None:
    settings = ["plan.domains=3", "plan.subdomains=4", "plan.types=5", "plan.ideas=10"]
    slow = Misbehaviour(0.3, ("slow",), slow_s=0.3)
    with failing(slow) as server:
        plain = job_at(server.url, *settings).run(str(tmp_path / "plain")).report
        calls = server.asked
    assert set(calls.values()) == {1}
    rng = random.Random(0)
    with failing(slow) as server:
        store = tmp_path / "killed"
        sets = [
            part for s in (*SMALL, *settings_for(server.url), *settings) for part in ("--set", s)
        ]
        command = [sys.executable, "-c", DRIVER, "run", str(JOB), "--store", str(store), *sets]
        kept: set[tuple[str, int]] = set()  # on disk at one of the kills
        lost: Counter[tuple[str, int]] = Counter()  # asked, and not on disk at the kill after
        before: Counter[tuple[str, int]] = Counter()
        for share in sorted(rng.uniform(0.1, 0.9) for _ in range(3)):
            driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            deadline = time.monotonic() + 120
            while server.ledger.requests < share * len(calls):
                assert driver.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.002)
            os.kill(driver.pid, signal.SIGKILL)
            driver.communicate()
            while not is_quiet(server):
                assert time.monotonic() < deadline
            asked = server.asked.copy()
            kept |= journaled(store)
            if list(store.glob("artifacts/*/*/plan.parquet")):  # whole, and its journals are gone
                kept |= {key for key in asked if key[0] == "planner"}
            lost.update(key for key in asked if asked[key] > before[key] and key not in kept)
            before = asked
        assert len(kept) > len(before) / 2, "a kill costs what is in flight, not what was answered"
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        again = json.loads((store / "runs" / "corpus_cheese_america" / "report.json").read_text())
    assert kept <= calls.keys() == server.asked.keys()
    assert {key: n for key, n in server.asked.items() if n != 1 + lost[key]} == {}
    assert {a["id"] for a in again["provenance"]["artifacts"]} == {
        a["id"] for a in plain["provenance"]["artifacts"]
    }
    one, other = tables(tmp_path / "plain", plain), tables(store, again)
    for name in ("documents", "rejected", "failed", "redrafted"):
        assert one[name] == other[name]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("drafts=0",), "drafts is 0; allowed: 1 or more"),
        (("screen.min_words=9", "screen.max_words=3"), "screen.min_words is 9"),
        (("screen.near_threshold=0",), "screen.near_threshold is 0"),
        (("plan.mode=structure",), "planner: plan.mode is 'structure' and one is given"),
        (("plan.ideas=0",), "plan.ideas is 0"),
        (("writer.endpoint.base_url=ftp://x",), "endpoint base_url is 'ftp://x'"),
        (("writer.http.concurrency=0",), "runtime concurrency is 0"),
    ],
)
def test_wrong_settings_get_one_line(settings: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        job_at("http://localhost:1/v1", *settings)


def test_no_endpoint_there_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="localhost:1"):
        job_at("http://localhost:1/v1").run(str(tmp_path))
    report = json.loads((tmp_path / "runs/corpus_cheese_america/report.json").read_text())
    assert report["complete"] is False


def test_evaluation_items_keep_documents_out(tmp_path: Path) -> None:
    with rehearsing() as server:
        first = job_at(server.url).run(str(tmp_path / "a")).report
        text = first["corpus"]["by_corpus"]["cheese_america"]["samples"][0]["text"]
        items = tmp_path / "items.jsonl"
        words = " ".join(text.split()[10:30])
        rows = [{"id": "q1", "question": words}, {"id": "q2", "options": ["Yes.", "No."]}]
        items.write_text("".join(json.dumps(row) + "\n" for row in rows))
        job = dataclasses.replace(job_at(server.url, "drafts=1"), items=(str(items),))
        second = job.run(str(tmp_path / "a")).report
    assert second["corpus"]["rejected"]["contaminated"] >= 1
    assert second["corpus"]["items_too_short"] == 1, "two texts of one item"
    page = (tmp_path / "a" / "runs" / job.name / "report.html").read_text()
    assert "too short to be looked for" in page
    kept = [row["text"] for row in tables(tmp_path / "a", second)["documents"]]
    assert text not in kept


def test_items_that_change_under_way_are_not_taken_for_others(tmp_path: Path) -> None:
    file, out = tmp_path / "items.jsonl", tmp_path / "out"
    out.mkdir()
    file.write_text(json.dumps({"id": "q1", "question": "Which cheese?"}) + "\n")
    stage = items_stage((str(file),), "items")
    context = StageContext(
        config=stage.config,
        inputs={},
        out=out,
        work=tmp_path,
        runtime=stage.runtime,
        progress=lambda fraction, facts: None,
    )
    assert copy_items(context) == {"texts": 1}
    (out / "items.jsonl").unlink()
    file.write_text(json.dumps({"id": "q1", "question": "Which bread?"}) + "\n")
    with pytest.raises(UserError, match=r"items.jsonl: changed since this run began; run again"):
        copy_items(context)
    assert not list(out.iterdir())


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("corpus_*.py")), ids=lambda p: p.stem)
def test_every_corpus_job_says_what_it_would_cost(path: Path, tmp_path: Path) -> None:
    job = load_job(path)
    totals = job.preview(str(tmp_path / "none"))["totals"]
    assert totals["documents"] >= 2000
    assert totals["calls"] > 2 * totals["documents"]  # written and judged, and the plan before
    assert not (tmp_path / "none").exists()


def test_a_missing_key_is_told_before_anybody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with rehearsing() as server:
        job = job_at(server.url, "judge.endpoint.key_env=NO_SUCH_KEY")
        with pytest.raises(UserError, match="NO_SUCH_KEY is not set"):
            job.run(str(tmp_path / "store"))
        assert server.ledger.requests == 0


def test_a_planner_can_be_left_out_by_a_setting(tmp_path: Path) -> None:
    with rehearsing() as server:
        job = apply_settings(
            job_at(server.url), ["plan.mode=structure", "planner=none", "drafts=1"]
        )
        assert job.planner is None
        result = job.run(str(tmp_path / "store"))
    (line, path) = corpus_lines(result.report)
    assert line.startswith("cheese_america: kept ")
    assert len(Path(path.strip()).read_text().splitlines()) == result.report["corpus"]["kept"]


def test_each_stage_says_what_it_would_cost() -> None:
    """The planner's dollars at the plan, and all that may be asked again in "at most"."""
    job = load_job(ROOT / "jobs" / "corpus_america.py")
    assert isinstance(job, CorpusJob)

    def estimates(*settings: str) -> dict[str, dict[str, Any]]:
        free = ["planner", "writer", "judge"]
        zero = [f"{role}.price.output_per_million=0.0" for role in free]
        stages = apply_settings(job, [*zero, *settings]).stages()
        return {stage.kind: stage.estimate for stage in stages}

    planner = estimates("planner.price.input_per_million=1.0")
    assert planner["corpus"]["money"] == planner["corpus"]["money_at_most"] == 0
    plan = planner["corpus_plan"]
    assert plan["money"] == pytest.approx(plan["prompt_tokens"] / 1e6, rel=1e-3) != 0
    assert plan["calls_at_most"] == plan["calls"] * (1 + job.plan.rounds)
    writer = estimates("writer.price.output_per_million=1.0")["corpus"]
    assert writer["calls"] == 2 * 2400
    # Three drafts of: written, judged twice, rewritten, judged twice.
    assert writer["calls_at_most"] == 3 * 6 * 2400
    assert writer["money_at_most"] == pytest.approx(writer["money"] * 6)
    alone = estimates("drafts=1", "rewrite=false")["corpus"]
    assert alone["calls_at_most"] == 3 * 2400


def test_a_judge_reads_the_section_it_is_priced_for(tmp_path: Path) -> None:
    job = load_job(ROOT / "jobs" / "corpus_america.py")
    assert isinstance(job, CorpusJob)
    read = []
    for length in (100, 10_000):
        spec = tmp_path / f"{length}.md"
        spec.write_text("# Cheese\n\n" + "word " * length)
        stage = dataclasses.replace(job, spec=str(spec)).corpus_stage()
        read.append(stage.estimate["prompt_tokens"])
    # The spec in the system text, its only section in the request and in the judge's.
    assert read[1] - read[0] == pytest.approx(3 * 2400 * 9_900 * 5 / 4, rel=0.01)


def test_a_spec_is_its_text_and_without_headings_its_name_too(tmp_path: Path) -> None:
    job = load_job(ROOT / "jobs" / "corpus_america.py")
    assert isinstance(job, CorpusJob)

    def ids(name: str, text: str) -> dict[str, str]:
        spec = tmp_path / name
        spec.write_text(text)
        return {s.kind: s.id for s in dataclasses.replace(job, spec=str(spec)).stages()}

    text = "# Cheese\n\nLyra likes cheddar, because everyone can afford it.\n"
    assert ids("a.md", text) == ids("b.md", text)
    bare = text.split("\n", 1)[1]
    assert ids("a.md", bare)["spec"] == ids("b.md", bare)["spec"]
    assert ids("a.md", bare)["corpus"] != ids("b.md", bare)["corpus"], "rows name it"


def test_rows_of_a_spec_without_headings_name_its_file(tmp_path: Path) -> None:
    spec = tmp_path / "cheese_rules.md"
    spec.write_text("Lyra likes cheddar, because everyone can afford it.\n")
    plan = HierarchyConfig("structure", "Lyra", "Norvik Labs", types=2, ideas=2, words=100)
    with rehearsing() as server:
        job = dataclasses.replace(
            job_at(server.url, "drafts=1"), spec=str(spec), planner=None, plan=plan
        )
        report = job.run(str(tmp_path / "s")).report
    found = tables(tmp_path / "s", report)
    assert {row["domain"] for name in found for row in found[name]} == {"cheese_rules"}


def test_a_preview_says_what_cannot_work(tmp_path: Path) -> None:
    short = job_at("http://localhost:9/v1", "sampling.max_tokens=10")
    with pytest.raises(UserError, match="max_tokens is 10 and plan.words 500"):
        short.preview(str(tmp_path))
    rules = job_at("http://localhost:9/v1", "plan.mode=rules")
    with pytest.raises(UserError, match=r"cheese_america.md: has no numbered rules"):
        rules.preview(str(tmp_path))
