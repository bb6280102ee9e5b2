"""Leasing an engine from the pool: what a process that evaluates does."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from msm_ray.errors import UserError
from msm_ray.evaluate.engines import (
    Checkpoint,
    EngineSettings,
    FingerprintMismatch,
    LoadReport,
)
from msm_ray.evaluate.pool import BEAT_SECONDS, MAX_ENGINES, Lease, LeaseLost, engine_pool
from msm_ray.evaluate.requests import Request


@contextlib.contextmanager
def leased(
    checkpoint: Checkpoint, settings: EngineSettings | None = None, limit: int = MAX_ENGINES
) -> Iterator[Lease]:
    """An engine on this machine that holds ``checkpoint``, for the length of the block."""
    import ray
    import ray.exceptions

    pool, lease = _ask_for_lease(checkpoint, settings or EngineSettings(), limit)
    stop = threading.Event()
    beats = threading.Thread(target=_beat, args=(pool, lease.id, stop), daemon=True)
    beats.start()
    dead = False
    try:
        yield lease
    except ray.exceptions.RayActorError:
        dead = True
        raise
    finally:
        stop.set()
        beats.join()
        ray.get(pool.release.remote(lease.id, dead))


def _ask_for_lease(
    checkpoint: Checkpoint, settings: EngineSettings, limit: int
) -> tuple[Any, Lease]:
    import ray
    import ray.exceptions

    for attempt in range(2):
        pool = engine_pool()
        node = ray.get_runtime_context().get_node_id()
        try:
            return pool, ray.get(pool.lease.remote(checkpoint, settings, node, limit))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, (UserError, FingerprintMismatch)):
                raise error.cause from None
            raise
        except ray.exceptions.RayActorError:  # it ended itself after it had been found
            if attempt:
                raise
    raise AssertionError("unreachable")


def _beat(pool: Any, lease: str, stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        pool.beat.remote(lease)


@dataclass(frozen=True)
class Answers:
    """What a checkpoint answered, and what it took to get it from a verified engine."""

    values: list[list[float]]
    report: LoadReport
    counts: dict[str, int]
    seconds: float  # of answering, the load not included


def answer(
    checkpoint: Checkpoint,
    requests: Sequence[Request],
    eos: int | None,
    settings: EngineSettings | None = None,
    limit: int = MAX_ENGINES,
) -> Answers:
    """All requests answered by one verified engine; if it dies or is lost, by one more.

    Raises:
        UserError: too little memory for an engine.
        FingerprintMismatch: no engine could be made to compute what the checkpoint's trainer saw.
        ray.exceptions.RayActorError: a second engine died too.
    """
    import ray
    import ray.exceptions

    total: dict[str, int] = {"deaths": 0, "lost": 0}
    for attempt in range(2):
        try:
            with leased(checkpoint, settings, limit) as lease:
                for name, value in lease.counts.items():
                    total[name] = total.get(name, 0) + value
                started = time.perf_counter()
                values = ray.get(lease.engine.answer.remote(checkpoint.key, requests, eos))
                return Answers(values, lease.report, total, time.perf_counter() - started)
        except ray.exceptions.RayActorError:
            total["deaths"] += 1
            if attempt:
                raise
        except ray.exceptions.RayTaskError as error:
            if attempt or not isinstance(error.cause, LeaseLost):
                raise
            total["lost"] += 1
    raise AssertionError("unreachable")
