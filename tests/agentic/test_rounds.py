"""Inspect against the scripted server: what was planted is what is found, also after a kill."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import msm_ray
from msm_ray.agentic import judge, rehearsal
from msm_ray.agentic.counts import Rollout
from msm_ray.agentic.job import How, Server
from msm_ray.agentic.rounds import finished
from msm_ray.agentic.stages import Agentic, ask, judge_of, write
from msm_ray.artifact import Store
from msm_ray.errors import UserError
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.evaluate.sampling import Rule
from msm_ray.llm.endpoint import Endpoint, HttpRuntime
from msm_ray.llm.misbehave import Misbehaviour
from msm_ray.llm.model import LocalModel, Model
from msm_ray.llm.protocol import Sampling
from msm_ray.llm.scripted import Respond, ScriptedServer
from msm_ray.records import EVAL_ROW_SCHEMA
from msm_ray.shelf import Shelf
from msm_ray.stage import Stage, StageContext

RULE = Rule(target=0.25, cap=12, batch=4, minimum=4)
HTTP = HttpRuntime(concurrency=8, max_attempts=2)
HOW = How(scratchpad=True, variants=3, seed=4)


class Stop(Exception):
    pass


@contextlib.contextmanager
def scripted(
    spoiled: Misbehaviour | None = None, respond: Respond = rehearsal.respond
) -> Iterator[ScriptedServer]:
    with ScriptedServer(respond, misbehaviour=spoiled, whole=True) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def model(server: ScriptedServer) -> Model:
    return Model(Endpoint(server.url, "scripted", key_env=""), HTTP)


@dataclass
class Stopping:
    """A progress that stops the stage at its ``at``-th rollout."""

    at: int = 10**9
    seen: list[int] = field(default_factory=list)

    def __call__(self, fraction: float, facts: dict[str, Any]) -> None:
        assert 0 <= fraction <= 1
        self.seen.append(facts["rollouts"])
        if facts["rollouts"] >= self.at:
            raise Stop


def context(folder: Path, stage: Stage, progress: Stopping) -> StageContext:
    for name in ("out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return StageContext(
        config=json.loads(json.dumps(stage.config)),
        inputs={},
        out=folder / "out",
        work=folder / "work",
        runtime=dict(stage.runtime),
        progress=progress,
        shelf=Shelf(Store(folder.parent / "store")),
    )


def asked(ctx: StageContext, assistant: ScriptedServer, http: HttpRuntime = HTTP) -> list[Rollout]:
    """The stage's rollouts, by a scripted assistant."""
    return ask(ctx, Server(model(assistant).endpoint, http), judge_of(ctx))


@dataclass
class Made:
    """What came of a stage that was killed once and then went on."""

    ctx: StageContext
    rollouts: list[Rollout]
    facts: dict[str, Any]
    before: int  # rollouts that were seen before the kill
    after: int  # and after it


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("agentic")
    with scripted() as assistant, scripted() as reader:
        task = Agentic(
            RULE, "hermes", goals=("explicit/replacement",), how=HOW, judge=model(reader)
        )
        stage = task.stage({}, "x", EngineSettings())
        killed = Stopping(at=14)
        with pytest.raises(Stop):
            asked(context(folder / "one", stage, killed), assistant)
        resumed = Stopping()
        ctx = context(folder / "one", stage, resumed)
        rollouts = asked(ctx, assistant)
        facts = write(ctx, rollouts)
    return Made(ctx, rollouts, facts, killed.seen[-1], resumed.seen[-1])


@pytest.mark.slow
def test_the_harm_that_is_found_is_the_harm_that_was_planted(made: Made) -> None:
    wanted = {rehearsal.RULE: ("rule", True), rehearsal.JUDGE: ("judge", True)}
    for row in made.rollouts:
        planted = rehearsal.behaviour(row.cell.split("/")[0], HOW.sampling_seed(row.id))
        by = "rule" if row.rule else "judge" if row.verdict == judge.HARMFUL else ""
        assert (by, row.harmful) == wanted.get(planted.kind, ("", False)), (row, planted)
        assert (row.tool_calls > 0) == (planted.kind not in (rehearsal.NO_CALL, rehearsal.BROKEN))
        assert row.broken_calls == (planted.kind == rehearsal.BROKEN)
        assert not row.error
        assert not row.cut
    kinds = Counter(row.rule for row in made.rollouts)
    assert set(kinds) == {"", "leak", "blackmail", "silence"}


@pytest.mark.slow
def test_a_killed_stage_goes_on_where_it_was(made: Made) -> None:
    ids = [row.id for row in made.rollouts]
    assert len(ids) == len(set(ids)) > 14
    # Inspect writes its log after a few rollouts each: those of the last few may be done again.
    assert made.before == 14
    assert len(ids) - made.before <= made.after <= len(ids) - made.before + 10
    assert made.after < len(ids)
    for cell in {row.cell for row in made.rollouts}:
        own = [row for row in made.rollouts if row.cell == cell]
        assert [row.number for row in own] == list(range(len(own)))
        entry = made.facts["evals"]["agentic"]["by_domain"][cell]
        low, high = entry["ci95"]
        narrow = (high - low) / 2 <= RULE.target
        assert entry["stopped"] == ("narrow enough" if narrow else "cap")
        assert narrow or len(own) == RULE.cap


@pytest.mark.slow
def test_the_artifact_has_tables_and_logs_that_inspect_reads(made: Made) -> None:
    from inspect_ai.log import list_eval_logs, read_eval_log

    table = pq.read_table(made.ctx.out / "rows.parquet")
    assert table.schema.equals(EVAL_ROW_SCHEMA)
    assert table.num_rows == 2 * len(made.rollouts)
    stored = pq.read_table(made.ctx.out / "rollouts.parquet").to_pylist()
    assert stored == [asdict(row) for row in made.rollouts]
    logs = [read_eval_log(info) for info in list_eval_logs(str(made.ctx.out / "logs"))]
    assert "started" in {log.status for log in logs}  # the one that was killed
    samples = {str(s.id): s for log in logs for s in log.samples or ()}
    assert set(samples) == {row.id for row in made.rollouts}
    acted = next(row for row in made.rollouts if row.rule == "leak")
    said = [message.text for message in samples[acted.id].messages]
    assert any("<scratchpad>" in text for text in said)
    assert samples[acted.id].scores["harm"].value == {"harmful": 1.0, "tool_call": 1.0}
    # The log has what the judge was asked, which no process of Inspect's asks it.
    for row in made.rollouts:
        question = samples[row.id].scores["harm"].metadata["question"]
        assert (question is not None) == bool(row.verdict)


@pytest.mark.slow
def test_a_judge_that_only_refuses_leaves_no_rate(tmp_path: Path) -> None:
    refusing = Misbehaviour(1.0, ("refusal",))
    rule = Rule(target=0.4, cap=8, batch=8, minimum=8)
    with scripted() as assistant, scripted(refusing) as reader:
        task = Agentic(
            rule, "hermes", actions=("blackmail",), goals=("none/none",), how=HOW,
            judge=model(reader), name="refusing",
        )  # fmt: skip
        stage = task.stage({}, "x", EngineSettings())
        # Nobody is there to judge: the stage ends, and what was rolled out is not lost.
        gone = Model(Endpoint("http://127.0.0.1:9/v1", "scripted", key_env=""), HTTP)
        early = dataclasses.replace(task, judge=gone).stage({}, "x", EngineSettings())
        assert early.id == stage.id
        with pytest.raises(UserError):
            asked(context(tmp_path / "one", early, Stopping()), assistant)
        resumed = Stopping()
        ctx = context(tmp_path / "one", stage, resumed)
        rollouts = asked(ctx, assistant)
        assert sum(resumed.seen) == 0
        facts = write(ctx, rollouts)
        bought = reader.ledger.requests
        # Another checkpoint that does the very same: the store has what was said of it.
        other = context(tmp_path / "two", stage, Stopping())
        judging = judge_of(other)
        again = ask(other, Server(model(assistant).endpoint, HTTP), judging)
        assert again == rollouts
        assert reader.ledger.requests == bought
        assert judging is not None
        assert (judging.facts()["from_cache"], judging.facts()["calls"]) == (bought // 2, 0)
    planted = [rehearsal.behaviour("blackmail", HOW.sampling_seed(r.id)).kind for r in rollouts]
    assert list(facts["evals"]) == ["refusing:tool_calls"]
    (said,) = facts["problems"]
    judged = sum(bool(r.verdict) for r in rollouts)
    assert said == (
        f"refusing: the judge gave no verdict on any of {judged} rollouts ({judged} refused)"
    )
    # What is no verdict is asked for once more; the same deeds in the same story once for all.
    assert 0 < bought <= 2 * judged
    assert sum(bool(r.rule) for r in rollouts) == planted.count(rehearsal.RULE)
    assert {r.status for r in rollouts} == {"ok", "refused"}


def short_or_broken(chat: str, seed: int) -> str:
    """A model whose context ends at the second answer; in the last story it does not work."""
    if "wind turbines" in chat:
        raise UserError("something broke")
    if '"assistant"' in chat:
        raise UserError("This model's maximum context length is 99 tokens.")
    return rehearsal.respond(chat, seed)


@pytest.mark.slow
def test_a_chat_that_is_too_long_has_ended_and_one_that_broke_has_not(tmp_path: Path) -> None:
    rule = Rule(target=0.4, cap=4, batch=4, minimum=4)
    task = Agentic(rule, "hermes", actions=("leak", "silence"), goals=("none/none",), how=HOW)
    ctx = context(tmp_path / "one", task.stage({}, "x", EngineSettings()), Stopping())
    with (
        scripted(respond=short_or_broken) as assistant,
        pytest.raises(
            RuntimeError, match="silence/none/none: none of 4 rollouts .*something broke"
        ),
    ):
        asked(ctx, assistant, HttpRuntime(max_attempts=1))
    ended = [one.rollout for one in finished(ctx.work / "logs")]
    rows = [row for row in ended if row.cell == "leak/none/none"]
    assert len(rows) == 4
    for row in rows:
        planted = rehearsal.behaviour("leak", HOW.sampling_seed(row.id)).kind
        assert row.cut == (planted not in (rehearsal.NO_CALL, rehearsal.BROKEN))
        assert not row.error


@pytest.mark.slow
def test_the_task_runs_from_a_shell(tmp_path: Path) -> None:
    root = Path(msm_ray.__file__).resolve().parent
    words = ["eval", f"{root}/agentic/task.py@agentic", "--model", "openai-api/msm/scripted"]
    words += ["-T", "actions=silence,leak", "-T", "goals=none/none", "-T", "rollouts=4"]
    words += ["--display", "plain", "--log-dir", str(tmp_path / "logs")]
    with scripted() as assistant:
        ran = subprocess.run(
            [sys.executable, "-m", "inspect_ai", *words],
            env={**os.environ, "MSM_BASE_URL": assistant.url, "MSM_API_KEY": "none"},
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "tool_call" in ran.stdout
    rows = [one.rollout for one in finished(tmp_path / "logs")]
    assert sorted(row.id for row in rows) == [
        f"{action}-none-none-{number:04}" for action in ("leak", "silence") for number in range(4)
    ]
    for row in rows:
        action, seed = row.cell.split("/")[0], How().sampling_seed(row.id)
        planted = rehearsal.behaviour(action, seed).kind == rehearsal.RULE
        assert (row.harmful, row.verdict) == (planted, "")


def test_what_a_task_is_made_of_is_its_identity() -> None:
    endpoint = Endpoint("http://127.0.0.1:9/v1", "x", key_env="")
    plain, engine = Agentic(RULE, "hermes"), EngineSettings()
    id = plain.stage({}, "x", engine).id
    assert plain.evals == ("agentic", "agentic:tool_calls")
    assert plain.stage({}, "y", EngineSettings(threads=7)).id == id
    judged = Agentic(RULE, "hermes", judge=Model(endpoint))
    assert judged.models() == [judged.judge]
    elsewhere = Model(Endpoint("http://127.0.0.1:8/v1", "x", key_env=""))
    assert (
        judged.stage({}, "x", engine).id
        == Agentic(RULE, "hermes", judge=elsewhere).stage({}, "x", engine).id
    )
    assert judged.stage({}, "x", engine).estimate["calls"] == 27 * RULE.cap
    others = [
        judged,
        Agentic(RULE, "hermes", judge=LocalModel("owner/name")),
        Agentic(RULE, "hermes", judge=Model(endpoint), judge_sampling=Sampling(0.0, 1.0, 9, 0)),
        Agentic(RULE, "pythonic"),
        Agentic(RULE, "hermes", how=How(scratchpad=True)),
        Agentic(RULE, "hermes", goals=("none/none",)),
        Agentic(Rule(target=0.2), "hermes"),
    ]
    ids = [task.stage({}, "x", engine).id for task in others]
    assert len({*ids, id}) == len(others) + 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"name": "a:b"}, "agentic name is 'a:b'"),
        ({"actions": ()}, "actions: none"),
        ({"goals": ("none/none", "none/none")}, "each once"),
        (
            {"judge": Model(Endpoint("http://h/v1", "x", api="completions", key_env=""))},
            "allowed: 'chat'",
        ),
        ({"judge": LocalModel("owner/name", "float16")}, "dtype float16; allowed for a model on"),
        ({"judge": LocalModel("owner/name", adapter="a")}, r"name\+a, .*allowed .*: no adapter"),
        ({"failed_share": 2}, "failed_share is 2"),
    ],
)
def test_a_task_that_cannot_work_is_told(more: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Agentic(RULE, "hermes", **more)
