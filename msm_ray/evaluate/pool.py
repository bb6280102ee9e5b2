"""Warm engines, lent to whoever evaluates: one named actor keeps them, each engine is an actor too.

    evaluating task --lease--> EnginePool --load/verify--> EngineActor (a process with one engine)
                    --answer----------------------------->

Engines outlive the stages that use them, because starting one takes ten seconds and swapping its
weights twenty milliseconds. A lease is given for an engine that has just been *proven* to hold the
checkpoint; if a load fails that proof, the engine's process is replaced and the proof repeated.

Whole weights have an engine to themselves while anybody holds a lease on them; several may hold one
on the same weights. Adapters of one base share an engine, each under leases of its own.

Nobody has to give a lease back: its holder sends a beat every two seconds, and a lease without one
lapses. Engines hang on the pool, and the pool ends itself when nobody has asked for an engine for a
while; with the cluster, or the driver that started it, all of them end at once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from msm_ray.errors import UserError
from msm_ray.evaluate.batching import Batching, Bundle, LeaseLost
from msm_ray.evaluate.checkpoints import Checkpoint
from msm_ray.evaluate.engine_settings import EngineSettings, environment, rank_reserved
from msm_ray.evaluate.engines import Engine
from msm_ray.evaluate.requests import Request
from msm_ray.evaluate.slots import Slot, choose
from msm_ray.evaluate.verification import FingerprintMismatch, LoadReport

NAME, NAMESPACE = "engine-pool", "msm-ray"
MAX_ENGINES = 2  # per machine, when nothing else is asked for
BEAT_SECONDS = 2.0
LAPSE_SECONDS = 60.0
IDLE_SECONDS = 600.0
MEMORY_SECONDS = 60.0  # how long a machine without memory for another engine is not asked again
CALLERS = 100  # that may wait for one engine's answers at the same time


@dataclass
class Counts:
    """What the pool has done since it started."""

    leases: int = 0
    starts: int = 0
    swaps: int = 0
    adds: int = 0  # adapters that an engine took up beside those it had
    held: int = 0  # leases for which nothing had to be loaded
    verified: int = 0
    mismatches: int = 0
    restarts: int = 0  # an engine's process was replaced to get a verified load
    deaths: int = 0  # engines that died by themselves
    lapsed: int = 0  # leases whose holder vanished


@dataclass(frozen=True)
class Lease:
    """The right to use one engine, which holds the checkpoint that was asked for."""

    id: str
    engine: Any
    report: LoadReport
    counts: dict[str, int] = field(default_factory=dict)  # what this lease took: starts, swaps, ...


class EngineActor:
    """A process with one engine, asked by several callers at once."""

    def __init__(self) -> None:
        self._batching: Batching | None = None
        self._starting = threading.Lock()

    def load(self, checkpoint: Checkpoint, settings: EngineSettings) -> LoadReport:
        """Hold ``checkpoint``, verified or not: the report says."""
        started = time.perf_counter()
        with self._starting:
            first = self._batching is None
            if self._batching is None:
                self._batching = Batching(lambda: Engine(checkpoint, settings))
        return self._batching.load(checkpoint, started if first else None)

    def answer(
        self, lease: str, key: str, requests: Sequence[Request], eos: int | None
    ) -> Iterator[Bundle]:
        """Answers of the checkpoint ``key``; refuses if it does not hold that one."""
        if self._batching is None:
            raise LeaseLost("the engine holds nothing yet")
        yield from self._batching.answer(lease, key, requests, eos)

    def abort(self, lease: str) -> None:
        """Give up what was asked under ``lease``."""
        if self._batching is not None:
            self._batching.abort(lease)


class EnginePool:
    """Keeps the engines of all machines of a cluster, and the leases on them. An async actor."""

    def __init__(self) -> None:
        self._slots: list[Slot] = []
        # machine -> (engines it has memory for, until when that is believed)
        self._limits: dict[str, tuple[int, float]] = {}
        self._free = asyncio.Condition()
        self._counts = Counts()
        self._asked = time.monotonic()
        self._idle_seconds = IDLE_SECONDS
        self._watch: asyncio.Task[None] | None = None

    async def lease(
        self, checkpoint: Checkpoint, settings: EngineSettings, node: str, limit: int
    ) -> Lease:
        """An engine on ``node``, proven to hold ``checkpoint``; waits while all are in use.

        Raises:
            UserError: not even one engine fits into memory.
            FingerprintMismatch: also a fresh engine does not compute what was recorded.
        """
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._look_after())
        counts, id = Counts(leases=1), uuid.uuid4().hex
        try:
            while True:
                slot = await self._acquire(checkpoint, settings, node, limit, id)
                try:
                    held = await self._hold(slot, checkpoint, counts, id)
                except UserError:
                    others = sum(s.node == node and s.actor is not None for s in self._slots)
                    if not others:
                        raise
                    # Memory is for fewer engines than asked for: wait for one of those.
                    self._limits[node] = (others, time.monotonic() + MEMORY_SECONDS)
                else:
                    if held is not None:
                        slot, report = held
                        slot.leases[id] = slot.used = time.monotonic()
                        return Lease(id, slot.actor, report, dataclasses.asdict(counts))
        finally:
            self._add(counts)

    async def beat(self, lease: str) -> bool:
        """The holder is alive. False if the lease has lapsed."""
        for slot in self._slots:
            if lease in slot.leases:
                slot.leases[lease] = time.monotonic()
                return True
        return False

    async def release(self, lease: str, dead: bool = False) -> bool:
        """Give an engine back; ``dead`` if its process is gone or not to be trusted.

        Returns whether that was news: False for a lease that had ended already, because it had
        lapsed or because the engine was replaced, or its death told, for another who shared it.
        """
        for slot in self._slots:
            if lease in slot.leases:
                if dead:
                    self._counts.deaths += 1
                    await self._drop(slot)
                else:
                    await self._give_back(slot, lease)
                return True
        return False

    async def counts(self) -> dict[str, int]:
        """What was done since the pool started, and how many engines there are."""
        return {**dataclasses.asdict(self._counts), "engines": len(self._slots)}

    async def set_idle_seconds(self, seconds: float) -> None:
        """How long the pool waits for another request before it ends itself."""
        self._idle_seconds = seconds

    # ------------------------------------------------------------------------------- leases

    async def _acquire(
        self, checkpoint: Checkpoint, settings: EngineSettings, node: str, limit: int, lease: str
    ) -> Slot:
        """A slot under ``lease``; its engine may still be missing or hold something else."""
        async with self._free:
            while True:
                self._asked = time.monotonic()
                fewer, until = self._limits.get(node, (limit, 0.0))
                most = min(limit, fewer) if self._asked < until else limit
                choice = choose(self._slots, node, checkpoint, settings, most)
                if choice.action != "wait":
                    break
                await self._free.wait()
            slot = choice.slot
            if choice.action == "replace" and slot is not None:
                self._kill(slot)
                slot = None
            if slot is None:
                slot = self._new(node, settings, checkpoint)
            if checkpoint.base is None and slot.key != checkpoint.key:
                slot.ready = False  # until the swap has been confirmed
            slot.leases[lease] = float("inf")  # no beats until it is granted
            return slot

    async def _hold(
        self, slot: Slot, checkpoint: Checkpoint, counts: Counts, lease: str
    ) -> tuple[Slot, LoadReport] | None:
        """Make the slot's engine hold the checkpoint; replace it once if it does not.

        An engine that fails is gone for all who share it: none of its answers would be trusted.
        None if it went for another's sake meanwhile.
        """
        problem = ""
        for attempt in range(2):
            if attempt:
                slot = self._new(slot.node, slot.settings, checkpoint)
                slot.leases[lease] = float("inf")
                counts.restarts += 1
            if slot.actor is None:
                slot.actor = _start_actor(slot.node, slot.settings)
            try:
                report = await self._load(slot, checkpoint, counts)
            except BaseException:
                await self._drop(slot)
                raise
            if slot not in self._slots:
                return None
            if isinstance(report, LoadReport) and report.verified:
                counts.verified += 1
                await self._confirm(slot, checkpoint)
                return slot, report
            problem = (
                report
                if isinstance(report, str)
                else f"log-probabilities are off by up to {report.distance:.3g} nats"
            )
            self._kill(slot)
        await self._drop(slot)
        raise FingerprintMismatch(
            f"{checkpoint.path}: an engine does not compute what fingerprint.json records, not even"
            f" one started for this checkpoint: {problem}"
        )

    async def _load(self, slot: Slot, checkpoint: Checkpoint, counts: Counts) -> LoadReport | str:
        """What the slot's engine says of the load, or what went wrong with it."""
        import ray.exceptions

        try:
            report: LoadReport = await slot.actor.load.remote(checkpoint, slot.settings)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            return f"loading failed: {error.cause!r}"
        except ray.exceptions.RayActorError as error:
            counts.deaths += slot in self._slots  # else it was told, or killed here, before
            return f"its process died: {error}"
        counts.starts += report.how == "start"
        counts.swaps += report.how == "swap"
        counts.adds += report.how == "add"
        counts.held += report.how == "held"
        counts.mismatches += not report.verified
        return report

    async def _confirm(self, slot: Slot, checkpoint: Checkpoint) -> None:
        async with self._free:
            slot.key, slot.ready = checkpoint.key, True
            self._free.notify_all()  # others may share it now

    def _new(self, node: str, settings: EngineSettings, checkpoint: Checkpoint) -> Slot:
        slot = Slot(node, settings, architecture=checkpoint.architecture)
        slot.rank = rank_reserved(checkpoint.rank)
        self._slots.append(slot)
        return slot

    async def _give_back(self, slot: Slot, lease: str) -> None:
        async with self._free:
            del slot.leases[lease]
            slot.used = time.monotonic()
            self._free.notify_all()

    async def _drop(self, slot: Slot) -> None:
        async with self._free:
            self._kill(slot)
            self._free.notify_all()

    def _kill(self, slot: Slot) -> None:
        """End the engine's process and forget it; who shares it finds out by its death."""
        import ray

        if slot.actor is not None:
            ray.kill(slot.actor)
        if slot in self._slots:
            self._slots.remove(slot)

    def _add(self, counts: Counts) -> None:
        for name, value in dataclasses.asdict(counts).items():
            setattr(self._counts, name, getattr(self._counts, name) + value)

    async def _look_after(self) -> None:
        """Take back lapsed leases; end everything after a long silence."""
        import ray

        while True:
            await asyncio.sleep(BEAT_SECONDS)
            now = time.monotonic()
            for slot in list(self._slots):
                for lease in [id for id, beat in slot.leases.items() if now - beat > LAPSE_SECONDS]:
                    self._counts.lapsed += 1
                    slot.actor.abort.remote(lease)
                    await self._give_back(slot, lease)
            if any(slot.leases for slot in self._slots):
                self._asked = now
            elif now - self._asked > self._idle_seconds:
                for slot in list(self._slots):
                    await self._drop(slot)
                ray.kill(ray.get_runtime_context().current_actor)


def _start_actor(node: str, settings: EngineSettings) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return (
        ray.remote(EngineActor)
        .options(
            num_cpus=0,  # not counted twice: the task that waits for the answers is
            num_gpus=settings.gpus,
            max_concurrency=CALLERS,
            max_restarts=0,  # a new process holds no verified weights: the pool starts it itself
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            runtime_env={"env_vars": environment(settings.threads)},
        )
        .remote()
    )


def engine_pool() -> Any:
    """The cluster's pool, started if there is none. Ray must be connected."""
    import ray

    if not ray.is_initialized():
        raise RuntimeError("engines live in a Ray cluster, and this process is connected to none")
    return (
        ray.remote(EnginePool)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            get_if_exists=True,
            # The task that first asks ends long before the pool: its life is the cluster's, or
            # shorter, see EnginePool._look_after.
            lifetime="detached",
            num_cpus=0,
            max_concurrency=1000,
        )
        .remote()
    )
