"""Warm engines, lent to whoever evaluates: one named actor keeps them, each engine is an actor too.

    evaluating task --lease--> EnginePool --load/verify--> EngineActor (a process with one engine)
                    --answer----------------------------->

Engines outlive the stages that use them, because starting one takes ten seconds and swapping its
weights twenty milliseconds. A lease is given for an engine that has just been *proven* to hold the
checkpoint; if a swap fails that proof, the engine's process is replaced and the proof repeated.

Nobody has to give a lease back: its holder sends a beat every two seconds, and a lease without one
lapses. Engines hang on the pool, and the pool ends itself when nobody has asked for an engine for a
while; with the cluster, or the driver that started it, all of them end at once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from msm_ray.errors import UserError
from msm_ray.evaluate.engines import (
    Checkpoint,
    Engine,
    EngineSettings,
    FingerprintMismatch,
    LoadReport,
    environment,
)
from msm_ray.evaluate.requests import Request

NAME, NAMESPACE = "engine-pool", "msm-ray"
MAX_ENGINES = 2  # per machine, when nothing else is asked for
BEAT_SECONDS = 2.0
LAPSE_SECONDS = 60.0
IDLE_SECONDS = 600.0
MEMORY_SECONDS = 60.0  # how long a machine without memory for another engine is not asked again


@dataclass
class Counts:
    """What the pool has done since it started."""

    leases: int = 0
    starts: int = 0
    swaps: int = 0
    held: int = 0  # leases for which nothing had to be loaded
    verified: int = 0
    mismatches: int = 0
    restarts: int = 0  # an engine's process was replaced to get a verified load
    deaths: int = 0  # engines that died by themselves
    lapsed: int = 0  # leases whose holder vanished


@dataclass
class Slot:
    """One engine, or one about to be."""

    node: str
    settings: EngineSettings
    actor: Any = None
    architecture: str = ""
    key: str = ""
    lease: str = ""  # "" when free
    beat: float = 0.0
    used: float = 0.0


@dataclass(frozen=True)
class Lease:
    """The right to use one engine, which holds the checkpoint that was asked for."""

    id: str
    engine: Any
    report: LoadReport
    counts: dict[str, int] = field(default_factory=dict)  # what this lease took: starts, swaps, ...


@dataclass(frozen=True)
class Choice:
    """What to do about a request for an engine: take a slot, replace one, start one, or wait."""

    action: str  # take | replace | start | wait
    slot: Slot | None = None


def choose(
    slots: Sequence[Slot], node: str, checkpoint: Checkpoint, settings: EngineSettings, limit: int
) -> Choice:
    """Pick an engine on ``node``: one that holds the checkpoint; one that can take its weights; a
    new one below ``limit``; one of another architecture in exchange; or wait for one in use."""
    here = [s for s in slots if s.node == node]
    free = sorted((s for s in here if not s.lease), key=lambda s: s.used)
    fitting = [
        s for s in free if s.architecture == checkpoint.architecture and s.settings == settings
    ]
    for slot in fitting:
        if slot.key == checkpoint.key:
            return Choice("take", slot)
    if fitting:
        return Choice("take", fitting[0])
    if len(here) < limit:
        return Choice("start")
    if free:
        return Choice("replace", free[0])
    return Choice("wait")


class LeaseLost(RuntimeError):
    """The lease lapsed, because its holder was silent for too long, and the engine moved on."""


class EngineActor:
    """A process with one engine."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def load(self, checkpoint: Checkpoint, settings: EngineSettings) -> LoadReport:
        """Hold ``checkpoint``, verified or not: the report says."""
        if self._engine is None:
            started = time.perf_counter()
            self._engine = Engine(checkpoint, settings)
            return self._engine.verify("start", started)
        return self._engine.load(checkpoint)

    def answer(self, key: str, requests: Sequence[Request], eos: int | None) -> list[list[float]]:
        """Answer ``requests`` with the checkpoint ``key``; refuses if it does not hold that one."""
        held = self._engine.checkpoint if self._engine else None
        if self._engine is None or held is None or held.key != key:
            raise LeaseLost("the engine no longer holds the checkpoint it was leased for")
        return self._engine.answer(requests, eos)


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
        counts = Counts(leases=1)
        try:
            while True:
                slot = await self._acquire(checkpoint, settings, node, limit)
                try:
                    report = await self._hold(slot, checkpoint, counts)
                except UserError:
                    await self._drop(slot)
                    others = sum(s.node == node and s.actor is not None for s in self._slots)
                    if not others:
                        raise
                    # Memory is for fewer engines than asked for: wait for one of those.
                    self._limits[node] = (others, time.monotonic() + MEMORY_SECONDS)
                except BaseException:
                    await self._drop(slot)
                    raise
                else:
                    slot.beat = slot.used = time.monotonic()
                    return Lease(slot.lease, slot.actor, report, dataclasses.asdict(counts))
        finally:
            self._add(counts)

    async def beat(self, lease: str) -> bool:
        """The holder is alive. False if the lease has lapsed."""
        for slot in self._slots:
            if slot.lease == lease:
                slot.beat = time.monotonic()
                return True
        return False

    async def release(self, lease: str, dead: bool = False) -> None:
        """Give an engine back; ``dead`` if its process is gone or not to be trusted."""
        for slot in [s for s in self._slots if s.lease == lease]:
            if dead:
                self._counts.deaths += 1
                await self._drop(slot)
            else:
                await self._give_back(slot)

    async def counts(self) -> dict[str, int]:
        """What was done since the pool started, and how many engines there are."""
        return {**dataclasses.asdict(self._counts), "engines": len(self._slots)}

    async def set_idle_seconds(self, seconds: float) -> None:
        """How long the pool waits for another request before it ends itself."""
        self._idle_seconds = seconds

    # ------------------------------------------------------------------------------- leases

    async def _acquire(
        self, checkpoint: Checkpoint, settings: EngineSettings, node: str, limit: int
    ) -> Slot:
        """A slot marked as leased; its engine may still be missing or hold something else."""
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
                slot.settings = settings
            if slot is None:
                slot = Slot(node, settings)
                self._slots.append(slot)
            slot.lease, slot.beat = uuid.uuid4().hex, float("inf")  # no beats until it is granted
            return slot

    async def _hold(self, slot: Slot, checkpoint: Checkpoint, counts: Counts) -> LoadReport:
        """Make the slot's engine hold the checkpoint; replace its process once if it does not."""
        import ray.exceptions

        problem = ""
        for attempt in range(2):
            if attempt:
                self._kill(slot)
                counts.restarts += 1
            if slot.actor is None:
                slot.actor = _start_actor(slot.node, slot.settings)
            try:
                report: LoadReport = await slot.actor.load.remote(checkpoint, slot.settings)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, UserError):
                    raise error.cause from None
                problem = f"loading failed: {error.cause!r}"
                continue
            except ray.exceptions.RayActorError as error:
                counts.deaths += 1
                problem = f"its process died: {error}"
                continue
            counts.starts += report.how == "start"
            counts.swaps += report.how == "swap"
            counts.held += report.how == "held"
            if report.verified:
                counts.verified += 1
                slot.architecture, slot.key = checkpoint.architecture, checkpoint.key
                return report
            counts.mismatches += 1
            problem = f"log-probabilities are off by up to {report.distance:.3g} nats"
        raise FingerprintMismatch(
            f"{checkpoint.path}: an engine does not compute what fingerprint.json records, not even"
            f" one started for this checkpoint: {problem}"
        )

    async def _give_back(self, slot: Slot) -> None:
        async with self._free:
            slot.lease, slot.used = "", time.monotonic()
            self._free.notify_all()

    async def _drop(self, slot: Slot) -> None:
        async with self._free:
            self._kill(slot)
            if slot in self._slots:
                self._slots.remove(slot)
            self._free.notify_all()

    def _kill(self, slot: Slot) -> None:
        import ray

        if slot.actor is not None:
            ray.kill(slot.actor)
        slot.actor, slot.architecture, slot.key = None, "", ""

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
                if slot.lease and now - slot.beat > LAPSE_SECONDS:
                    self._counts.lapsed += 1
                    await self._give_back(slot)
            busy = any(slot.lease for slot in self._slots)
            if busy:
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
