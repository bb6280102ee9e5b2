"""Leasing an engine from the pool: what a process that evaluates does."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from msm_ray.errors import UserError
from msm_ray.evaluate.batching import Bundle, EngineBroken, LeaseLost
from msm_ray.evaluate.checkpoints import Checkpoint
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.evaluate.pool import BEAT_SECONDS, MAX_ENGINES, Lease, engine_pool
from msm_ray.evaluate.requests import Request
from msm_ray.evaluate.verification import FingerprintMismatch, LoadReport

FRUITLESS = 2  # engines that end one after the other without an answer: no third is tried


class EngineEnded(RuntimeError):
    """The leased engine is gone. ``died``: by itself, and nobody had told the pool before."""

    def __init__(self, message: str, died: bool) -> None:
        super().__init__(message)
        self.died = died


@contextlib.contextmanager
def leased(
    checkpoint: Checkpoint, settings: EngineSettings | None = None, limit: int = MAX_ENGINES
) -> Iterator[Lease]:
    """An engine on this machine that holds ``checkpoint``, for the length of the block.

    Raises:
        EngineEnded: its process died, or the lease was lost, in the middle of the block.
        UserError, FingerprintMismatch: see `answer`.
    """
    import ray
    import ray.exceptions

    pool, lease = _ask_for_lease(checkpoint, settings or EngineSettings(), limit)
    stop = threading.Event()
    beats = threading.Thread(target=_beat, args=(pool, lease.id, stop), daemon=True)
    beats.start()
    dead, ended, news = False, None, False
    try:
        yield lease
    except ray.exceptions.RayActorError as error:
        dead, ended = True, error
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        dead = isinstance(error.cause, EngineBroken)
        if not dead and not isinstance(error.cause, LeaseLost):
            raise
        ended = error
    except BaseException:
        lease.engine.abort.remote(lease.id)  # nobody waits for its answers any more
        raise
    finally:
        stop.set()
        beats.join()
        news = ray.get(pool.release.remote(lease.id, dead))
    if ended is not None:
        raise EngineEnded(f"the engine of {checkpoint.path} ended: {ended}", dead and news)


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
    """What a checkpoint answered, and what it took to get it from a verified engine.

    ``counts``: what the pool did (starts, swaps, adds, held, verified, mismatches, restarts),
    ``deaths`` of engines that this caller was the first to tell of, leases ``lost`` otherwise
    (lapsed, or gone with an engine that others share), ``requests``, and ``redone``: those that
    were asked once more because their answer had not come.
    """

    values: list[list[float]]
    report: LoadReport
    counts: dict[str, int]
    seconds: float  # of answering, the loads not included


def answer(
    checkpoint: Checkpoint,
    requests: Sequence[Request],
    eos: int | None,
    settings: EngineSettings | None = None,
    limit: int = MAX_ENGINES,
    progress: Callable[[int], None] | None = None,
) -> Answers:
    """All requests, each answered once by a verified engine.

    If the engine dies or is lost, the next one is asked what is still open; what was answered
    before stays.

    Args:
        progress: called now and then with the number of requests that are answered.

    Raises:
        UserError: too little memory for an engine, or a request that does not fit into it.
        FingerprintMismatch: no engine could be made to compute what the checkpoint's trainer saw.
        EngineEnded: two engines, one after the other, ended without having answered anything.
    """
    values: dict[int, list[float]] = {}
    total = {"deaths": 0, "lost": 0, "requests": len(requests), "redone": 0}
    seconds, fruitless = 0.0, 0
    while True:
        open_before = [i for i in range(len(requests)) if i not in values]
        try:
            with leased(checkpoint, settings, limit) as lease:
                for name, value in lease.counts.items():
                    total[name] = total.get(name, 0) + value
                started = time.perf_counter()
                try:
                    for bundle in _bundles(lease, checkpoint, open_before, requests, eos):
                        for position, found in bundle:
                            assert open_before[position] not in values, "answered twice"
                            values[open_before[position]] = found
                        if progress is not None:
                            progress(len(values))
                finally:
                    seconds += time.perf_counter() - started
            assert len(values) == len(requests), "an engine left a request out"
            ordered = [values[i] for i in range(len(requests))]
            return Answers(ordered, lease.report, total, seconds)
        except EngineEnded as error:
            total["deaths" if error.died else "lost"] += 1
            still = len(requests) - len(values)
            fruitless = fruitless + 1 if still == len(open_before) else 0
            if fruitless == FRUITLESS:
                raise
            total["redone"] += still


def _bundles(
    lease: Lease,
    checkpoint: Checkpoint,
    chosen: Sequence[int],
    requests: Sequence[Request],
    eos: int | None,
) -> Iterator[Bundle]:
    """Answers as the engine sends them: what has come is kept when it dies."""
    import ray

    asked = [requests[i] for i in chosen]
    stream = lease.engine.answer.options(num_returns="streaming")
    for part in stream.remote(lease.id, checkpoint.key, asked, eos):
        yield ray.get(part)
