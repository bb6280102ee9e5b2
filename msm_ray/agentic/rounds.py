"""Rolls scenarios out as it is told, in a process of its own: Inspect AI keeps state for one.

``python -m msm_ray.agentic.rounds JOB.json`` reads a line of JSON for each round, the numbers of
the rollouts that are wanted by cell, and writes one for each rollout that ended (``{"id": ...}``)
and one with all of the round (``{"round": [...]}``, see `msm_ray.agentic.counts.Ended`). The first
such line, before any is asked for, has what an earlier process left in Inspect's logs: after a kill
nothing that was finished is made again. It ends where its standard input does.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import inspect_ai
from inspect_ai.log import read_eval_log
from inspect_ai.model import GenerateConfig, get_model

from msm_ray.agentic.counts import Ended, Rollout
from msm_ray.agentic.job import Job, Server
from msm_ray.agentic.task import Scored, rollouts_task

if TYPE_CHECKING:
    from inspect_ai.model import Model


def finished(logs: Path) -> Iterator[Ended]:
    """Rollouts in the logs of a folder, those of killed evaluations included."""
    for path in sorted(logs.glob("*.eval")):
        yield from map(_ended, read_eval_log(str(path)).samples or ())


def _evaluate(job: Job, wanted: Mapping[str, Sequence[int]], scored: Scored) -> Iterator[Ended]:
    """The rollouts of one evaluation by Inspect, with its log in the job's folder."""
    (log,) = inspect_ai.eval(
        rollouts_task(wanted, job.how, False, scored),
        model=_model(job.server),
        log_dir=str(job.logs),
        log_format="eval",
        log_realtime=False,
        max_samples=job.server.http.concurrency,
        fail_on_error=False,
        display="none",
    )
    if log.status != "success" or log.samples is None:
        raise RuntimeError(f"Inspect ended with {log.status}: {log.error}")
    return map(_ended, log.samples)


def _model(server: Server) -> Model:
    """As Inspect asks it."""
    return get_model(
        f"openai-api/msm/{server.endpoint.model}",
        base_url=server.endpoint.base_url,
        api_key=server.endpoint.key() or "none",
        config=GenerateConfig(
            max_connections=server.http.concurrency,
            max_retries=server.http.max_attempts - 1,
            attempt_timeout=int(server.http.timeout_s),
            extra_body=dict(server.endpoint.extra) or None,
        ),
        memoize=False,
    )


def _ended(sample: Any) -> Ended:
    """What the scorer noted; where there is nothing, why the rollout did not end."""
    if sample.error is None and sample.scores:
        return Ended.from_dict(sample.scores["harm"].metadata)
    error = sample.error.message if sample.error else "it was not scored"
    return Ended(
        Rollout(
            id=str(sample.id),
            cell=sample.metadata["cell"],
            number=sample.metadata["number"],
            seed=sample.metadata["scenario"]["seed"],
            # Inspect puts the request first, and writes its lines as "\\n".
            error=" ".join(error.replace("\\n", " ").split())[-300:] or "no message",
        )
    )


def main(argv: Sequence[str]) -> None:
    """Do the job of a file, round by round."""
    # What anybody else prints is a message, and no line of ours.
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**line: Any) -> None:
        print(json.dumps(line), file=lines, flush=True)

    def all_of(ended: Iterable[Ended]) -> list[dict[str, Any]]:
        return [dataclasses.asdict(one) for one in ended]

    job = Job.from_json(Path(argv[0]).read_text())
    wanted: queue.Queue[dict[str, list[int]]] = queue.Queue()
    threading.Thread(target=_listen, args=(wanted,), daemon=True).start()
    say(round=all_of(finished(job.logs)))
    while True:
        made = _evaluate(job, wanted.get(), lambda row: say(id=row.id))
        say(round=all_of(made))


def _listen(wanted: queue.Queue[dict[str, list[int]]]) -> None:
    """Whoever started this holds its standard input open for as long as it needs us."""
    for line in sys.stdin:
        wanted.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
