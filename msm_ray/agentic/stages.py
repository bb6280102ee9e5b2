"""The stage that puts a checkpoint into the office, and the task of an experiment that asks for it.

The checkpoint is served by vLLM's own server and proven to be that checkpoint; a process of its own
runs Inspect AI against it (see :mod:`msm_ray.agentic.rounds`). Inspect's logs are part of what the
stage makes: ``inspect view --log-dir FOLDER/logs`` opens them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.agentic.counts import ROLLOUT_SCHEMA, Rollout, rated, rows
from msm_ray.agentic.job import How, Job, Server
from msm_ray.agentic.judge import MAX_TOKENS
from msm_ray.agentic.scenarios import ACTIONS, GOALS, check, fingerprint
from msm_ray.errors import UserError
from msm_ray.evaluate.checkpoints import read_checkpoint
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.evaluate.sampling import Rule
from msm_ray.evaluate.serve import Client, Served, check_tool_parser, free_port, serving_together
from msm_ray.llm.endpoint import Endpoint, HttpRuntime
from msm_ray.llm.model import AnyModel, Model, price_at
from msm_ray.records import EVAL_ROW_SCHEMA
from msm_ray.stage import Stage

if TYPE_CHECKING:
    from msm_ray.stage import StageContext

CONTEXT = 16_384  # tokens of one rollout at most, where the model has as many
NAME = "checkpoint"  # what the server calls it
# For a preview: rollouts run side by side, and a judge reads the situation and the deeds.
ROLLOUT_SECONDS = 1.0
JUDGE_PROMPT_TOKENS = 1_500
LOOK_SECONDS = 1.0  # between two looks at whether the stage is to stop


@dataclasses.dataclass(frozen=True)
class Agentic:
    """An e-mail assistant with tools: how often does it do harm, by action and goal condition?

    Its evals are ``name`` (the rate of harm) and ``name:tool_calls`` (that of rollouts with at
    least one tool call: a model that cannot call tools is not safe, it is untested). A report that
    compares rollouts with a scratchpad and without has two of these tasks, by two names.

    Attributes:
        actions, goals: the cells, see :mod:`msm_ray.agentic.scenarios`.
        rule: when a cell has rollouts enough.
        judge: who reads the deeds in which no rule has found harm; None for rules alone.
        tool_parser: by which vLLM reads the model's tool calls, as ``--tool-call-parser`` calls it.
    """

    rule: Rule
    tool_parser: str
    name: str = "agentic"
    actions: Sequence[str] = ACTIONS
    goals: Sequence[str] = GOALS
    how: How = dataclasses.field(default_factory=How)
    judge: Model | None = None

    def __post_init__(self) -> None:
        check(self.actions, self.goals)
        check_tool_parser(self.tool_parser)
        if not self.name or ":" in self.name:
            raise UserError(f"agentic name is {self.name!r}; allowed: a name without ':'")
        if self.judge is not None and self.judge.endpoint.api != "chat":
            raise UserError(
                f"agentic judge: its api is {self.judge.endpoint.api!r}; allowed: 'chat'"
            )

    @property
    def evals(self) -> Sequence[str]:
        """The rate of harm, and that of rollouts with a tool call."""
        return (self.name, f"{self.name}:tool_calls")

    def models(self) -> Sequence[AnyModel]:
        """The judge, if there is one."""
        return [self.judge] if self.judge else []

    def stage(self, inputs: Mapping[str, Stage], label: str, engine: EngineSettings) -> Stage:
        """See :class:`msm_ray.evaluate.protocol.Task`."""
        most = len(self.actions) * len(self.goals) * self.rule.cap
        return Stage(
            kind="agentic",
            version="1",  # of the tools, the assistant's loop, and the rules
            config={
                "name": self.name,
                "actions": list(self.actions),
                "goals": list(self.goals),
                "texts": fingerprint(),
                "how": dataclasses.asdict(self.how),
                "rule": dataclasses.asdict(self.rule),
                "tool_parser": self.tool_parser,
                **({"judge": self.judge.identity()} if self.judge else {}),
            },
            inputs=inputs,
            run="msm_ray.agentic.stages:rollouts",
            label=label,
            runtime={
                "engine": dataclasses.asdict(engine),
                "ray_gpus": engine.gpus,  # the server is this stage's own, and not of the pool
                **({"judge": self.judge.place()} if self.judge else {}),
            },
            estimate={"seconds": 30.0 + most * ROLLOUT_SECONDS, **self._bill(most)},
        )

    def _bill(self, rollouts: int) -> Mapping[str, float]:
        """What the judge costs at most: if it is asked about every rollout there may be."""
        if self.judge is None:
            return {}
        bill = self.judge.price.bill(rollouts, JUDGE_PROMPT_TOKENS, MAX_TOKENS)
        return {"calls": bill.calls, "money": round(bill.dollars, 4)}


def rollouts(ctx: StageContext) -> dict[str, Any]:
    """Roll scenarios out with a checkpoint until every cell is known well enough.

    Inputs:
        model: Hugging Face folder with ``fingerprint.json``, or an adapter's.
        base: the model below, where that is an adapter.
    Config:
        as `Agentic` writes it.
    Runtime:
        engine: fields of ``EngineSettings``; judge: where the judge is asked.
    Writes:
        ``rows.parquet`` (``EVAL_ROW_SCHEMA``), ``rollouts.parquet`` (``ROLLOUT_SCHEMA``) and
        ``logs/``, Inspect's own.

    Raises:
        RuntimeError: not one rollout of a cell came to its end, or a judge answered not once.
        FingerprintMismatch: the server computes something else than the checkpoint's trainer did.
    """
    started = time.perf_counter()
    if importlib.util.find_spec("inspect_ai") is None:
        raise ModuleNotFoundError("inspect_ai is not there", name="inspect_ai")
    given = EngineSettings(**ctx.runtime["engine"])
    settings = dataclasses.replace(given, max_length=max(given.max_length, CONTEXT))
    checkpoint = read_checkpoint(ctx.inputs["model"], ctx.inputs.get("base"))
    with serving_together(
        [Served(checkpoint, (NAME,))],
        free_port(),
        settings=settings,
        client=Client(ctx.config["tool_parser"]),
    ) as server:
        http = HttpRuntime(concurrency=settings.max_num_seqs)
        made = ask(ctx, Server(Endpoint(server.url, NAME, key_env=""), http))
    judged = [r for r in made if r.verdict]
    read = sum(r.judge_prompt_tokens for r in judged)
    written = sum(r.judge_tokens for r in judged)
    return {
        **write(ctx, made),
        "calls": sum(r.turns for r in made) + len(judged),
        "tokens_generated": sum(r.tokens for r in made),
        "judge": {"calls": len(judged), "prompt_tokens": read, "tokens": written},
        "money": price_at(ctx.runtime.get("judge")).of(read, written),
        "engine": {"fingerprint_distance": server.distance},
        "seconds": round(time.perf_counter() - started, 3),
    }


def ask(ctx: StageContext, server: Server) -> list[Rollout]:
    """The rollouts, against any endpoint; goes on where a killed process left ``ctx.work``."""
    config = ctx.config
    cells = tuple(f"{a}/{g}" for a in config["actions"] for g in config["goals"])
    asked = ctx.runtime.get("judge")
    judge = None
    if asked is not None:
        places = {"base_url": asked["base_url"], "key_env": asked["key_env"]}
        judge = Server(Endpoint(**config["judge"], **places), HttpRuntime(**asked["http"]))
    logs = ctx.work / "logs"
    logs.mkdir(exist_ok=True)
    job = Job(cells, How(**config["how"]), Rule(**config["rule"]), server, judge, logs)
    path = ctx.work / "job.json"
    path.write_text(job.to_json())
    done = 0
    with _process([sys.executable, "-m", "msm_ray.agentic.rounds", str(path)], ctx.work) as lines:
        for line in lines:
            done += line is not None
            ctx.progress(done / (len(cells) * job.rule.cap), {"rollouts": done})
    return [Rollout(**row) for row in json.loads((ctx.work / "rollouts.json").read_text())]


def write(ctx: StageContext, made: Sequence[Rollout]) -> dict[str, Any]:
    """Write the tables and the logs; the facts of the rollouts."""
    name, rule = ctx.config["name"], Rule(**ctx.config["rule"])
    table = pa.Table.from_pylist([dataclasses.asdict(r) for r in made], ROLLOUT_SCHEMA)
    pq.write_table(table, ctx.out / "rollouts.parquet")
    pq.write_table(
        pa.Table.from_pylist(rows(made, name), EVAL_ROW_SCHEMA), ctx.out / "rows.parquet"
    )
    shutil.copytree(ctx.work / "logs", ctx.out / "logs")
    return {**rated(made, name, rule), "rollouts": len(made)}


@contextlib.contextmanager
def _process(command: Sequence[str], work: Path) -> Iterator[Iterator[str | None]]:
    """A process for the length of the block: its lines as they come, None while there is none.

    It ends with the block, and with this process, whose end closes its standard input.
    """
    messages = work / "messages.txt"
    with messages.open("wb") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # Inspect keeps traces in the user's folders: here they end with the stage.
            env={**os.environ, "XDG_DATA_HOME": str(work / "inspect")},
            start_new_session=True,  # the terminal's Ctrl-C reaches this process only
        )
    try:
        yield _lines(process, messages)
    finally:
        process.kill()
        process.wait()


def _lines(process: subprocess.Popen[str], messages: Path) -> Iterator[str | None]:
    found: queue.Queue[str | None] = queue.Queue()
    assert process.stdout is not None

    def read(stream: IO[str]) -> None:
        for line in stream:
            found.put(line)
        found.put(None)

    threading.Thread(target=read, args=(process.stdout,), daemon=True).start()
    while True:
        try:
            line = found.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            yield None
            continue
        if line is None:
            break
        yield line
    if process.wait() != 0:
        said = messages.read_text(errors="replace").strip().splitlines() or ["no message"]
        raise RuntimeError(f"the rollouts ended with code {process.returncode}: {said[-1]}")
