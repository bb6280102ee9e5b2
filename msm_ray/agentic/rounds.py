"""Rounds of rollouts, until every cell is known well enough or has reached its cap.

A process of its own: ``python -m msm_ray.agentic.rounds JOB.json``. Inspect AI keeps state for a
whole process, so it gets one. What is done is in Inspect's logs: after a kill the same call reads
them and goes on with what is missing.

Writes one JSON line to standard output for every rollout that ended, and ``rollouts.json``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import inspect_ai
from inspect_ai.log import read_eval_log
from inspect_ai.model import GenerateConfig, get_model

from msm_ray.agentic.counts import Rollout
from msm_ray.agentic.job import Job, Server
from msm_ray.agentic.judge import MAX_TOKENS
from msm_ray.agentic.rolling import roll
from msm_ray.agentic.task import rollouts_task

if TYPE_CHECKING:
    from inspect_ai.model import Model


def run(job: Job) -> list[Rollout]:
    """All rollouts, by cell and number; see :func:`msm_ray.agentic.rolling.roll`."""
    made = list(finished(job.logs))
    return roll(job.cells, job.rule, made, lambda missing: _evaluate(job, missing))


def _evaluate(job: Job, missing: Mapping[str, Sequence[int]]) -> Iterator[Rollout]:
    """The rollouts of one evaluation by Inspect, with its log in the job's folder."""

    def scored(row: Rollout) -> None:
        print(json.dumps({"id": row.id, "harmful": row.harmful}), flush=True)

    (log,) = inspect_ai.eval(
        rollouts_task(missing, job.how, job.judge is not None, scored),
        model=_model(job.server, GenerateConfig()),
        model_roles={"judge": _judge(job.judge)} if job.judge else None,
        log_dir=str(job.logs),
        log_format="eval",
        log_realtime=False,
        max_samples=job.server.http.concurrency,
        fail_on_error=False,
        display="none",
    )
    if log.status != "success" or log.samples is None:
        raise RuntimeError(f"Inspect ended with {log.status}: {log.error}")
    return map(_rollout, log.samples)


def finished(logs: Path) -> Iterator[Rollout]:
    """Rollouts in the logs of a folder, those of killed evaluations included."""
    for path in sorted(logs.glob("*.eval")):
        yield from map(_rollout, read_eval_log(str(path)).samples or ())


def _model(server: Server, config: GenerateConfig) -> Model:
    """As Inspect asks it."""
    http = GenerateConfig(
        max_connections=server.http.concurrency,
        max_retries=server.http.max_attempts - 1,
        attempt_timeout=int(server.http.timeout_s),
        extra_body=dict(server.endpoint.extra) or None,
    )
    return get_model(
        f"openai-api/msm/{server.endpoint.model}",
        base_url=server.endpoint.base_url,
        api_key=server.endpoint.key() or "none",
        config=http.merge(config),
        memoize=False,
    )


def _judge(server: Server) -> Model:
    endpoint = server.endpoint
    greedy = GenerateConfig(temperature=None if "temperature" in endpoint.leave_out else 0.0)
    if endpoint.limit_field == "max_tokens":
        return _model(server, greedy.merge(GenerateConfig(max_tokens=MAX_TOKENS)))
    extra = {**endpoint.extra, endpoint.limit_field: MAX_TOKENS}
    return _model(server, greedy.merge(GenerateConfig(extra_body=extra)))


def _rollout(sample: Any) -> Rollout:
    """The row that the scorer noted; where there is none, why the rollout did not end."""
    if sample.error is None and sample.scores:
        return Rollout(**sample.scores["harm"].metadata["rollout"])
    error = sample.error.message if sample.error else "it was not scored"
    return Rollout(
        id=str(sample.id),
        cell=sample.metadata["cell"],
        number=sample.metadata["number"],
        seed=sample.metadata["scenario"]["seed"],
        # Inspect puts the request first, and writes its lines as "\\n".
        error=" ".join(error.replace("\\n", " ").split())[-300:] or "no message",
    )


def main(argv: Sequence[str]) -> None:
    """Run the job of a file and write ``rollouts.json`` beside it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    path = Path(argv[0])
    rollouts = run(Job.from_json(path.read_text()))
    made = json.dumps([dataclasses.asdict(r) for r in rollouts])
    (path.parent / "rollouts.json").write_text(made)


def _end_with_parent() -> None:
    """Whoever started this holds its standard input open for as long as it lives."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
