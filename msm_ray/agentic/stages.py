"""The stage that puts a checkpoint into the office, and the task of an experiment that asks for it.

The checkpoint is served by vLLM's own server and proven to be that checkpoint; a process of its own
runs Inspect AI against it (see :mod:`msm_ray.agentic.rounds`), round by round. After each round the
judge is asked about the deeds that it has not been asked about before (`msm_ray.tasks.judging`).
Inspect's logs are part of what the stage makes: ``inspect view --log-dir FOLDER/logs`` opens them.
They say what the rules found; the verdicts are in ``rollouts.parquet``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.agentic import judge as judging
from msm_ray.agentic.counts import ROLLOUT_SCHEMA, Ended, Rollout, rated, rows
from msm_ray.agentic.job import How, Job, Server
from msm_ray.agentic.process import Rounds
from msm_ray.agentic.rolling import roll
from msm_ray.agentic.scenarios import ACTIONS, GOALS, check, fingerprint
from msm_ray.corpus.drafting import JUDGE_ATTEMPTS
from msm_ray.corpus.outages import FAILED_SHARE, check_share
from msm_ray.errors import UserError
from msm_ray.evaluate.checkpoints import Checkpoint, read_checkpoint, unproven
from msm_ray.evaluate.engine_settings import ATOL, EngineSettings
from msm_ray.evaluate.sampling import Rule
from msm_ray.evaluate.serve import (
    Client,
    Served,
    check_tool_parser,
    free_port,
    serving_together,
)
from msm_ray.evaluate.serve import Server as Serving
from msm_ray.llm.endpoint import Endpoint, HttpRuntime
from msm_ray.llm.http import HttpAnswers
from msm_ray.llm.model import AnyModel, LocalModel, needs_ray, on_this_machine
from msm_ray.llm.protocol import Answers, Sampling
from msm_ray.records import EVAL_ROW_SCHEMA
from msm_ray.stage import Stage
from msm_ray.tasks.judging import Judging, Source

if TYPE_CHECKING:
    from msm_ray.stage import StageContext

CONTEXT = 16_384  # tokens of one rollout at most, where the model has as many
NAME, JUDGE = "checkpoint", "judge"  # what servers call them
# For a preview: rollouts run side by side, and a judge reads the situation and the deeds.
ROLLOUT_SECONDS = 1.0
JUDGE_PROMPT_TOKENS, VERDICT_TOKENS = 1_500, 80


@dataclasses.dataclass(frozen=True)
class Agentic:
    """An e-mail assistant with tools: how often does it do harm, by action and goal condition?

    Its evals are ``name`` (the rate of harm) and ``name:tool_calls`` (that of rollouts with at
    least one tool call: a model that cannot call tools is not safe, it is untested). A report that
    compares rollouts with a scratchpad and without has two of these tasks, by two names.

    Attributes:
        actions, goals: the cells, see :mod:`msm_ray.agentic.scenarios`.
        rule: when a cell has rollouts enough.
        judge: who reads the deeds in which no rule has found harm; None for rules alone. A
            `LocalModel` has the stage's own GPUs while it judges, in the checkpoint's place.
        judge_sampling: how the judge answers; it may think first.
        failed_share: the stage ends, to be continued, where more than this share of a round's
            verdicts ended in an error.
        tool_parser: by which vLLM reads the model's tool calls, as ``--tool-call-parser`` calls it.
    """

    rule: Rule
    tool_parser: str
    name: str = "agentic"
    actions: Sequence[str] = ACTIONS
    goals: Sequence[str] = GOALS
    how: How = dataclasses.field(default_factory=How)
    judge: AnyModel | None = None
    judge_sampling: Sampling = dataclasses.field(
        default_factory=lambda: Sampling(temperature=0.0, top_p=1.0, max_tokens=1_000, seed=0)
    )
    failed_share: float = FAILED_SHARE

    def __post_init__(self) -> None:
        check_share(self.failed_share)
        check(self.actions, self.goals)
        check_tool_parser(self.tool_parser)
        if not self.name or ":" in self.name:
            raise UserError(f"agentic name is {self.name!r}; allowed: a name without ':'")
        if isinstance(self.judge, LocalModel):
            if self.judge.adapter or self.judge.dtype not in ATOL:
                raise UserError(
                    f"agentic judge: {self.judge.name}, dtype {self.judge.dtype}; allowed for a"
                    f" model on the cluster: no adapter, and dtype {' or '.join(ATOL)}"
                )
        elif self.judge is not None and self.judge.endpoint.api != "chat":
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
            version="2",  # of the tools, the assistant's loop, the rules, and the tables
            config={
                "name": self.name,
                "actions": list(self.actions),
                "goals": list(self.goals),
                "texts": fingerprint(),
                "how": dataclasses.asdict(self.how),
                "rule": dataclasses.asdict(self.rule),
                "tool_parser": self.tool_parser,
                **({"judged": self._judged(self.judge)} if self.judge else {}),
            },
            inputs=inputs,
            run="msm_ray.agentic.stages:rollouts",
            label=label,
            runtime={
                "engine": dataclasses.asdict(engine),
                "ray_gpus": engine.gpus,  # the server is this stage's own, and not of the pool
                **(
                    {"judge": self.judge.place(), "failed_share": self.failed_share}
                    if self.judge
                    else {}
                ),
            },
            estimate={"seconds": 30.0 + most * ROLLOUT_SECONDS, **self._bill(most)},
        )

    def _judged(self, judge: AnyModel) -> dict[str, Any]:
        """All that verdicts depend on besides the deeds; the name under which they are kept."""
        return {
            "judge": judge.identity(),
            "judge_sampling": self.judge_sampling.to_config(),
            "scorer": judging.SCORER,
        }

    def _bill(self, rollouts: int) -> Mapping[str, float]:
        """What the judge costs at most: if it is asked about every rollout there may be."""
        if self.judge is None:
            return {}
        bill = self.judge.price.bill(rollouts, JUDGE_PROMPT_TOKENS, VERDICT_TOKENS)
        return bill.estimate(bill * JUDGE_ATTEMPTS)


def rollouts(ctx: StageContext) -> dict[str, Any]:
    """Roll scenarios out with a checkpoint until every cell is known well enough.

    Inputs:
        model: Hugging Face folder with ``fingerprint.json``, or an adapter's.
        base: the model below, where that is an adapter.
    Config:
        as `Agentic` writes it.
    Runtime:
        engine: fields of ``EngineSettings``; judge: where the judge is asked; failed_share.
    Writes:
        ``rows.parquet`` (``EVAL_ROW_SCHEMA``), ``rollouts.parquet`` (``ROLLOUT_SCHEMA``) and
        ``logs/``, Inspect's own.

    Raises:
        RuntimeError: not one rollout of a cell came to its end.
        UserError: too many of a round's verdicts ended in an error; the next run goes on from here.
        FingerprintMismatch: the server computes something else than the checkpoint's trainer did.
    """
    started = time.perf_counter()
    if importlib.util.find_spec("inspect_ai") is None:
        raise ModuleNotFoundError("inspect_ai is not there", name="inspect_ai")
    given = EngineSettings(**ctx.runtime["engine"])
    settings = dataclasses.replace(given, max_length=max(given.max_length, CONTEXT))
    checkpoint = read_checkpoint(ctx.inputs["model"], ctx.inputs.get("base"))
    with _Place(checkpoint, settings, Client(ctx.config["tool_parser"])) as place:
        http = HttpRuntime(concurrency=settings.max_num_seqs)
        asked = Server(Endpoint(place.url, NAME, key_env=""), http)
        local = needs_ray(ctx.runtime.get("judge"))
        judge = judge_of(ctx, _local(ctx, place) if local else None)
        made = ask(ctx, asked, judge, place.open)
    facts = judge.facts() if judge else {"calls": 0, "money": 0.0}
    return {
        **write(ctx, made),
        "calls": sum(r.turns for r in made) + facts["calls"],
        "tokens_generated": sum(r.tokens for r in made),
        "judge": facts,
        "money": facts["money"],
        "engine": {"fingerprint_distance": place.distance},
        "seconds": round(time.perf_counter() - started, 3),
    }


def ask(
    ctx: StageContext,
    server: Server,
    judge: Judging | None = None,
    ready: Callable[[], None] = lambda: None,
) -> list[Rollout]:
    """The rollouts, against any endpoint; goes on where a killed process left ``ctx.work``.

    Args:
        ready: called before each round: from then on the server has to answer.
    """
    config = ctx.config
    cells = tuple(f"{a}/{g}" for a in config["actions"] for g in config["goals"])
    rule = Rule(**config["rule"])
    logs = ctx.work / "logs"
    logs.mkdir(exist_ok=True)
    path = ctx.work / "job.json"
    path.write_text(Job(How(**config["how"]), server, logs).to_json())
    ended = 0

    def judged(made: Sequence[Ended]) -> list[Rollout]:
        asked = {judging.key(one.question): one.question for one in made if one.question}
        readings = judge.of(asked) if judge else {}
        return [one.judged(readings) if judge else one.rollout for one in made]

    def seen(count: int) -> None:
        nonlocal ended
        ended += count
        ctx.progress(ended / (len(cells) * rule.cap), {"rollouts": ended})

    def evaluate(missing: Mapping[str, Sequence[int]]) -> list[Rollout]:
        ready()
        return judged(rounds.of(missing, seen))

    with Rounds(path) as rounds:
        before = judged(rounds.before(seen))
        return roll(cells, rule, before, evaluate)


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


def judge_of(ctx: StageContext, source: Source | None = None) -> Judging | None:
    """Who judges the rollouts of a stage, if anybody does; see `Judging` for ``source``."""
    if "judged" not in ctx.config:
        return None
    # How far the stage is, its rollouts say.
    quiet = dataclasses.replace(ctx, progress=lambda fraction, facts: None)
    return Judging(quiet, ctx.config["judged"], judging.SCHEMA, source)


def _local(ctx: StageContext, place: _Place) -> Source:
    """A model on the cluster in the checkpoint's place, while it is asked."""
    identity, where = ctx.config["judged"]["judge"], ctx.runtime["judge"]

    @contextlib.contextmanager
    def source() -> Iterator[Answers]:
        folder = on_this_machine(where["source"], identity.get("revision"))
        wide = where["vllm"]
        settings = dataclasses.replace(
            place.settings,
            dtype=identity["dtype"],
            threads=wide["threads"],
            max_num_seqs=wide["max_num_seqs"],
        )
        place.close()  # two models may be more than there is room for
        served = [Served(unproven(folder), (JUDGE,))]
        with serving_together(served, free_port(), settings=settings) as server:
            http = HttpRuntime(concurrency=settings.max_num_seqs)
            yield HttpAnswers(Endpoint(server.url, JUDGE, key_env=""), http)

    return source


class _Place:
    """Where the checkpoint's server runs, at one address, whenever it is open."""

    def __init__(self, checkpoint: Checkpoint, settings: EngineSettings, client: Client) -> None:
        self.settings = settings
        self.distance = 0.0
        self._checkpoint, self._client = checkpoint, client
        self._port = free_port()
        self._running: contextlib.ExitStack | None = None
        self.url = f"http://127.0.0.1:{self._port}/v1"

    def open(self) -> None:
        """Start the server, unless it runs."""
        if self._running is not None:
            return
        served = [Served(self._checkpoint, (NAME,))]
        with contextlib.ExitStack() as stack:
            server: Serving = stack.enter_context(
                serving_together(served, self._port, settings=self.settings, client=self._client)
            )
            self.distance = max(self.distance, server.distance)
            self._running = stack.pop_all()

    def close(self) -> None:
        """End the server, if it runs."""
        running, self._running = self._running, None
        if running is not None:
            running.close()

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
