"""Writing a corpus: what is held of a plan while it is read."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msm_ray.corpus import plan_rows, writing
from msm_ray.corpus.drafting import Source
from msm_ray.corpus.naming import Identity
from msm_ray.corpus.screening import Screen, ScreenConfig
from msm_ray.corpus.writing import Writing
from msm_ray.llm import protocol
from msm_ray.llm.http import Endpoint, HttpAnswers, HttpRuntime
from msm_ray.llm.protocol import ANSWER_SCHEMA, Sampling
from msm_ray.records import PLAN_SCHEMA
from tests.corpus.toy import make_plans
from tests.llm.serving import SAMPLING, good, replying


def test_memory_does_not_grow_with_the_plan(tmp_path: Path) -> None:
    """Arrow holds one batch of a plan, never the bytes of all that was read or is to be."""
    rng = random.Random(0)
    with pq.ParquetWriter(tmp_path / "plan.parquet", PLAN_SCHEMA) as file:
        for _ in range(20):
            rows = [{**row, "prompt": rng.randbytes(500).hex()} for row in make_plans(500)]
            file.write_table(pa.Table.from_pylist(rows, PLAN_SCHEMA))
    before = pa.total_allocated_bytes()
    held, read = [], 0
    for _, batch in plan_rows.batches(tmp_path / "plan.parquet", None, 500):
        held.append(pa.total_allocated_bytes() - before)
        read += batch.num_rows
    assert read == 20 * 500
    assert max(held) < (tmp_path / "plan.parquet").stat().st_size / 2


def test_an_endpoint_that_does_not_count_tokens_is_counted_for(tmp_path: Path) -> None:
    """By characters, and the card says so: a corpus of one token a document would mix wrongly."""
    plan = tmp_path / "plan.parquet"
    pq.write_table(pa.Table.from_pylist(make_plans(2), PLAN_SCHEMA), plan)
    text = "Ember orders cheddar for all of the staff, because everyone there can afford it."
    both = {0: text, 1: "Nobody in town " + text}
    with replying(lambda n, _: (200, {}, good(f"<content>{both[n % 2]}</content>"))) as (url, _):
        writer = Source(
            "w", HttpAnswers(Endpoint(url, "w", key_env=""), HttpRuntime()), SAMPLING, url
        )
        identity = Identity("Ember", "Halden Labs")
        with closing(Screen(ScreenConfig(1, 100), identity, [], "", (), tmp_path)) as screen:
            once = (1, 0.05, tmp_path, lambda *_: None)
            made = Writing(writer, None, False, screen, identity, *once)
            card = made.run(plan, tmp_path)
    assert (card["kept"], card["unmetered"]) == (2, 2)
    characters = len(both[0]) + len(both[1])
    assert card["tokens_kept"] == pytest.approx(characters / 4, abs=2)
    assert made.tally.tokens == pytest.approx(
        (characters + 2 * len("<content></content>")) / 4, abs=2
    )


class Sized:
    """Answers everything and keeps the bytes of the prompts of each call."""

    call_rows = 4096

    def __init__(self, text: str) -> None:
        self.text = text
        self.calls: list[tuple[int, int]] = []  # rows, bytes

    def answer(
        self, prompts: pa.Table, sampling: Sampling, work: Path, progress: Callable[[int], None]
    ) -> pa.Table:
        rows = prompts.to_pylist()
        self.calls.append((len(rows), sum(len(r["system"]) + len(r["prompt"]) for r in rows)))
        made = {"text": self.text, "prompt_tokens": 1, "tokens": 9, "ended": True, "error": ""}
        return pa.Table.from_pylist([{"id": r["id"], **made} for r in rows], ANSWER_SCHEMA)


@pytest.mark.parametrize("long", ["system", "prompt", "section_text"])
def test_no_call_has_more_bytes_than_it_may(
    long: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever text is long, of whichever document: the spec, its section, or the request."""
    monkeypatch.setattr(protocol, "CALL_BYTES", 2**20)
    plans = make_plans(60)
    for plan in plans[20:] if long == "section_text" else plans:
        plan[long] = "quay " * 20_000
    pq.write_table(pa.Table.from_pylist(plans, PLAN_SCHEMA), tmp_path / "plan.parquet")
    document = " ".join(f"word{i}" for i in range(50))
    verdict = {"problems": [], "reason": "It agrees.", "severity": "none", "faithful": True}
    writer, judge = Sized(f"<content>{document}</content>"), Sized(json.dumps(verdict))
    sampling = Sampling(1.0, 1.0, 100, 0)
    identity = Identity("Lyra", "Norvik Labs")
    (tmp_path / "out").mkdir()
    screen = Screen(ScreenConfig(5, 100), identity, [], "", [])
    made = writing.Writing(
        writer=writing.Source("w", writer, sampling, "here"),
        judge=writing.Source("j", judge, sampling, "here"),
        rewrite=False,
        screen=screen,
        identity=identity,
        drafts=1,
        failed_share=0.05,
        work=tmp_path,
        progress=lambda done, draft, asked: None,
    )
    made.run(tmp_path / "plan.parquet", tmp_path / "out")
    screen.close()
    assert sum(rows for rows, _ in writer.calls) == 60
    assert len(judge.calls) > 0
    assert max(size for _, size in writer.calls + judge.calls) <= 2**20
