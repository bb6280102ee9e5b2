"""Many callers, one engine: a thread steps it, and all open requests stand in one batch.

Whoever asks while others wait for answers is not put behind them: its requests join the batch at
the next step. Weights are swapped only when nobody is asking any more.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from msm_ray.evaluate.checkpoints import Checkpoint
from msm_ray.evaluate.engines import Engine
from msm_ray.evaluate.requests import Request
from msm_ray.evaluate.verification import LoadReport, fingerprint_requests, load_report

BUNDLE_SECONDS = 0.2  # between two bundles of answers on their way to who asked

Bundle = list[tuple[int, list[float]]]  # (position of the request, its answer)


class LeaseLost(RuntimeError):
    """The lease lapsed, because its holder was silent for too long, and the engine moved on."""


class EngineBroken(RuntimeError):
    """A step of the engine failed: nothing more can be asked of it."""


@dataclass
class _Caller:
    """Someone who waits for answers, under the lease ``lease``."""

    lease: str
    arrived: queue.SimpleQueue[tuple[int, list[float]] | Exception]
    open: dict[str, int] = field(default_factory=dict)  # engine's id -> position of the request


class Batching:
    """An engine on a thread of its own. Its methods may be called from any thread."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        """Start the thread, which makes the engine; what goes wrong with that is raised here."""
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._callers: dict[str, _Caller] = {}  # engine's id -> who asked
        self._broken: EngineBroken | None = None
        made: Future[Engine] = Future()
        threading.Thread(target=self._run, args=(make, made), daemon=True, name="engine").start()
        self._engine = made.result()

    def load(self, checkpoint: Checkpoint, started_here: float | None = None) -> LoadReport:
        """Hold ``checkpoint`` and ask its fingerprint, in one batch with whatever is being asked.

        Args:
            started_here: when the engine was started for this checkpoint.
        """
        engine = self._engine
        started = time.perf_counter() if started_here is None else started_here
        how = self._call(lambda: self._take(checkpoint))
        asked = fingerprint_requests(checkpoint.fingerprint, engine.length)
        got = dict(pair for b in self.answer("", checkpoint.key, asked, None) for pair in b)
        rows = [got[i] for i in range(len(asked))]
        how = how if started_here is None else "start"
        report = load_report(checkpoint, rows, how, started, engine.settings, engine.length)
        if not report.verified:
            self._call(lambda: engine.drop(checkpoint.key))
        return report

    def answer(
        self, lease: str, key: str, requests: Sequence[Request], eos: int | None
    ) -> Iterator[Bundle]:
        """Answers of the checkpoint ``key``, in bundles, in the order in which they get done.

        Raises:
            LeaseLost: the engine does not hold ``key``, or the requests were given up.
            EngineBroken: a step failed.
        """
        caller = _Caller(lease, queue.SimpleQueue())
        self._call(lambda: self._ask(caller, key, requests, eos))
        missing = len(requests)
        bundle: Bundle = []
        last = time.monotonic()
        while missing:
            wait = last + BUNDLE_SECONDS - time.monotonic()
            try:
                got = caller.arrived.get(timeout=max(wait, 0) if bundle else None)
            except queue.Empty:
                got = None
            if isinstance(got, Exception):
                raise got
            if got is not None:
                bundle.append(got)
                missing -= 1
            if bundle and (not missing or time.monotonic() - last >= BUNDLE_SECONDS):
                yield bundle
                bundle, last = [], time.monotonic()

    def abort(self, lease: str) -> None:
        """Give up what was asked under ``lease``; whoever waits for it gets `LeaseLost`."""
        self._call(lambda: self._give_up([c for c in self._waiting() if c.lease == lease]))

    # ------------------------------------------------------------------------- the engine's thread

    def _call(self, function: Callable[[], Any]) -> Any:
        """What ``function`` returns or raises when called on the engine's thread, between steps."""
        done: Future[Any] = Future()

        def command() -> None:
            try:
                if self._broken is not None:
                    raise self._broken
                done.set_result(function())
            except Exception as error:
                done.set_exception(error)

        self._commands.put(command)
        return done.result()

    def _run(self, make: Callable[[], Engine], made: Future[Engine]) -> None:
        try:
            engine = make()
        except Exception as error:
            made.set_exception(error)
            return
        made.set_result(engine)
        while True:
            try:
                while True:
                    self._commands.get(block=not engine.busy)()
            except queue.Empty:
                pass
            try:
                self._step(engine)
            except Exception as error:
                self._broken = EngineBroken(f"a step of the engine failed: {error!r}")
                self._broken.__cause__ = error
                for caller in self._waiting():
                    caller.arrived.put(self._broken)
                self._callers.clear()
                while True:
                    self._commands.get()()

    def _step(self, engine: Engine) -> None:
        for id, values in engine.step():
            caller = self._callers.pop(id)
            caller.arrived.put((caller.open.pop(id), values))

    def _take(self, checkpoint: Checkpoint) -> str:
        if checkpoint.base is None and not self._engine.holds(checkpoint.key):
            # Nobody holds a lease on the weights that go: what is still asked is of a dead holder.
            self._give_up(self._waiting())
        return self._engine.take(checkpoint)

    def _ask(self, caller: _Caller, key: str, requests: Sequence[Request], eos: int | None) -> None:
        if not self._engine.holds(key):
            raise LeaseLost("the engine no longer holds the checkpoint it was leased for")
        try:
            for position, request in enumerate(requests):
                id = self._engine.add(request, eos, key)
                caller.open[id] = position
                self._callers[id] = caller
        except Exception:
            self._give_up([caller])
            raise

    def _waiting(self) -> list[_Caller]:
        return list({id(caller): caller for caller in self._callers.values()}.values())

    def _give_up(self, callers: Sequence[_Caller]) -> None:
        for caller in callers:
            self._engine.abort(list(caller.open))
            for id in caller.open:
                del self._callers[id]
            caller.open.clear()
            caller.arrived.put(LeaseLost("the lease lapsed while its requests were being answered"))
