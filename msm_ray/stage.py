"""Stages and their graph: what is there is not made again, what is missing runs side by side.

A stage names a function and everything its result depends on; its id is the hash of that. Arms and
trials that share a stage share its artifact. A run visits what its targets need, starts what is
missing as soon as its inputs are committed, and makes all that a failed stage does not concern; it
stops cleanly at Ctrl-C. What is committed stays, so the same run continues where it was. A stage
that can follow an input as it is made (``Stage.streams``) starts when that does.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from msm_ray.artifact import DamagedArtifact, MissingArtifact, Record, Store
from msm_ray.claims import Claims
from msm_ray.errors import UnusablePlace, UserError
from msm_ray.execute import LocalLauncher, StageContext, run_stage
from msm_ray.identity import canonical_json, digest
from msm_ray.streams import Places, StreamStopped

if TYPE_CHECKING:
    from msm_ray.observe import RunObserver

__all__ = [
    "Launcher",
    "LocalLauncher",
    "Scan",
    "Stage",
    "StageContext",
    "StageFailed",
    "run_dag",
    "run_stage",
    "scan",
    "topological",
]

ID_DIGITS = 24  # 96 bits of sha256
MAKE_AGAIN = 2  # an artifact that is found damaged more often than this in one run is given up
POLL_SECONDS = 0.25  # between two looks at what other drivers do
REMOTE_POLL_SECONDS = 2.0  # the same where each look is a request


@dataclass(frozen=True, eq=False)
class Stage:
    """One artifact to make: ``run`` ("package.module:function") on ``config`` and ``inputs``.

    Identity is ``kind``, ``version`` (raised when the function's result changes), ``config`` and
    the inputs' ids. ``label`` (for people), ``runtime`` (how to run: ``cpus``, ``where="driver"``,
    and what the function reads there), ``estimate`` (``seconds``, ``tokens``, ...) and ``streams``
    are not: ``streams`` names inputs that the function can follow while they are being made, to the
    same result.
    """

    kind: str
    version: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Stage]
    run: str
    label: str = ""
    runtime: Mapping[str, Any] = field(default_factory=dict)
    estimate: Mapping[str, float] = field(default_factory=dict)
    streams: frozenset[str] = frozenset()
    id: str = field(init=False)

    def __post_init__(self) -> None:
        """Freeze the config and take the id; ``UserError`` on a value without a stable form."""
        module, _, function = self.run.partition(":")
        if not module or not function.isidentifier():
            raise UserError(f"stage {self.kind}: run={self.run!r} is not 'package.module:function'")
        assert self.streams <= set(self.inputs), f"stage {self.kind} streams what is no input"
        # Stored as the JSON values that the id describes: a list changed later changes nothing.
        config = json.loads(canonical_json(self.config, f"{self.kind} config"))
        object.__setattr__(self, "config", config)
        object.__setattr__(self, "inputs", dict(self.inputs))
        identity = {
            "kind": self.kind,
            "version": self.version,
            "config": config,
            "inputs": {name: stage.id for name, stage in self.inputs.items()},
        }
        object.__setattr__(self, "id", digest(identity, self.kind)[:ID_DIGITS])

    @property
    def name(self) -> str:
        """Kind and label, for people."""
        return f"{self.kind} {self.label}".strip()


class StageFailed(RuntimeError):
    """A stage's function failed. ``stage`` and ``error`` say which and how."""

    def __init__(self, stage: Stage, error: BaseException) -> None:
        text = " ".join(str(error).split())
        super().__init__(f"stage {stage.name} ({stage.id}) failed: {type(error).__name__}: {text}")
        self.stage, self.error = stage, error

    def __reduce__(self) -> tuple[Any, ...]:  # Ray pickles it, and Tune copies it
        return StageFailed, (self.stage, self.error)


class Launcher(Protocol):
    """Where stages run. Progress is reported by whatever the launcher was made with."""

    def submit(self, stage: Stage, store_url: str) -> Future[Record]:
        """Start `run_stage` somewhere; the future ends with its record or its error."""
        ...

    def cancel(self) -> None:
        """Stop what runs, soon."""
        ...


def topological(targets: Sequence[Stage]) -> list[Stage]:
    """All stages that ``targets`` need, inputs first, each id once; the same order every time."""
    order: dict[str, Stage] = {}
    for target in targets:
        # Depth first without recursion: a chain may be longer than Python's stack.
        stack = [(target, False)]
        while stack:
            stage, inputs_done = stack.pop()
            if stage.id in order:
                continue
            if inputs_done:
                order[stage.id] = stage
                continue
            stack.append((stage, True))
            stack += [(stage.inputs[name], False) for name in sorted(stage.inputs, reverse=True)]
    return list(order.values())


@dataclass(frozen=True)
class Scan:
    """What a store had of a graph: sound records, and what was damaged and is set aside now."""

    records: dict[str, Record]
    damaged: dict[str, DamagedArtifact]

    def missing(self, targets: Sequence[Stage]) -> list[Stage]:
        """What a run has to make, in order: what ``targets`` need, and what was damaged."""
        order = topological(targets)
        damaged = [stage for stage in order if stage.id in self.damaged]
        needed = _missing([*targets, *damaged], self.records)
        return [stage for stage in order if stage.id in needed]


def scan(stages: Sequence[Stage], store: Store) -> Scan:
    """Look each of ``stages`` up in the store and check its files (see `Store.check`)."""

    def look(stage: Stage) -> Record | DamagedArtifact | None:
        try:
            record = store.get(stage.id)
            if record is not None:
                store.check(record)
            return record
        except DamagedArtifact as damage:
            return damage

    with ThreadPoolExecutor(max_workers=8) as pool:
        looks = dict(zip((s.id for s in stages), pool.map(look, stages), strict=True))
    return Scan(
        records={id: found for id, found in looks.items() if isinstance(found, Record)},
        damaged={id: found for id, found in looks.items() if isinstance(found, DamagedArtifact)},
    )


def _missing(stages: Iterable[Stage], records: Mapping[str, Record]) -> set[str]:
    """Ids to make so that ``stages`` are there: those without record, down to what has one."""
    missing: set[str] = set()
    stack = list(stages)
    while stack:
        stage = stack.pop()
        if stage.id not in records and stage.id not in missing:
            missing.add(stage.id)
            stack += stage.inputs.values()
    return missing


def run_dag(
    targets: Sequence[Stage],
    store: Store,
    launch: Launcher | None,
    observer: RunObserver,
    cpus: float | None = None,
    found: Scan | None = None,
) -> dict[str, Record]:
    """Make what ``targets`` need and is missing; records of all their stages that are there.

    ``cpus`` bounds what runs at once (default: this machine's); a stage counts
    ``runtime["cpus"]``, 1 if not given. Of stages that could start, the first in topological order
    does. ``found`` is an earlier `scan` of these stages. ``launch`` may be None where nothing is
    missing. An artifact found damaged is made again.

    Raises:
        StageFailed: the first stage that failed, after all that does not need it was made.
        UserError: the same, of a stage that found the user's input wrong; `UnusablePlace` if it
            was the store or the machine, and then nothing more was begun.
        KeyboardInterrupt: Ctrl-C; running stages were cancelled.
    """
    run = _Run(targets, store, launch, observer, float(cpus or os.cpu_count() or 1), found)
    try:
        return run.all()
    finally:
        run.close()


class _Run:
    """State of one `run_dag`."""

    def __init__(
        self,
        targets: Sequence[Stage],
        store: Store,
        launch: Launcher | None,
        observer: RunObserver,
        cpus: float,
        found: Scan | None,
    ) -> None:
        self.targets, self.store, self.launch = targets, store, launch
        self.observer, self.cpus, self.found = observer, cpus, found
        self.poll = POLL_SECONDS if store.local else REMOTE_POLL_SECONDS
        self.driver = LocalLauncher(observer.progress)
        self.claims = Claims(store)
        self.order = topological(targets)
        self.by_id = {stage.id: stage for stage in self.order}
        self.records: dict[str, Record] = {}
        self.running: dict[Future[Record], Stage] = {}
        self.again: dict[str, int] = {}  # id -> how often it was found damaged
        self.needed: set[str] = set()
        self.failed: dict[str, Stage] = {}
        self.places = Places(store, self.order)
        self.failure: BaseException | None = None

    def all(self) -> dict[str, Record]:
        """Scan, then launch and collect until nothing is left."""
        found = self.found or scan(self.order, self.store)
        self.records = {id: r for id, r in found.records.items() if id in self.by_id}
        self.needed = {stage.id for stage in found.missing(self.targets)}
        self.observer.plan(self.order, [s.id for s in self.order if s.id not in self.needed])
        for id in self.needed & found.damaged.keys():
            self._note(found.damaged[id])
        while True:
            waiting = not isinstance(self.failure, UnusablePlace) and self._launch()
            if not self.running and not waiting:
                break
            if self.running:
                ended, _ = wait(self.running, timeout=self.poll, return_when=FIRST_COMPLETED)
                for future in ended:
                    self._collect(future)
            else:
                time.sleep(self.poll)  # another driver makes what comes next
        if self.failure is not None:
            raise self.failure
        return {stage.id: self.records[stage.id] for stage in self.order if self._has(stage)}

    def close(self) -> None:
        """Stop what still runs (after Ctrl-C or an error of this driver) and give claims back."""
        if self.running:
            self.driver.cancel()
            if self.launch is not None:
                self.launch.cancel()
            for stage in self.running.values():
                self.places.end(stage.id)
            wait(self.running, timeout=5)
        try:
            self.claims.close()
        finally:
            self.observer.done()

    def _has(self, stage: Stage) -> bool:
        return stage.id in self.records

    def _launch(self) -> bool:
        """Start what can start; whether something waits for another driver."""
        waiting = False
        running = {stage.id for stage in self.running.values()}
        used = sum(_cpus(stage) for stage in self.running.values())
        for stage in self.order:
            if stage.id not in self.needed or stage.id in running or self._has(stage):
                continue
            if stage.id in self.failed:
                continue
            if not all(
                self._has(of) or (of.id in running and self.places.can_follow(of.id, stage.id))
                for of in stage.inputs.values()
            ):
                continue
            if running and used + _cpus(stage) > self.cpus + 1e-9:
                continue
            if not self.claims.acquire(stage.id):
                waiting = self._came(stage) or waiting
                continue
            if self._came(stage) is None:
                self.claims.release(stage.id)
                continue
            self._submit(stage)
            running.add(stage.id)
            used += _cpus(stage)
        return waiting or bool(self.running)

    def _came(self, stage: Stage) -> bool | None:
        """None if the stage's artifact was committed meanwhile (now noted), else True."""
        try:
            record = self.store.get(stage.id)
        except DamagedArtifact as damage:
            self._note(damage)
            return True
        if record is None:
            return True
        self.records[stage.id] = record
        self.observer.found(stage, record)
        return None

    def _submit(self, stage: Stage) -> None:
        launcher = self.driver if stage.runtime.get("where") == "driver" else self.launch
        assert launcher is not None, f"{stage.name} is missing and there is no launcher"
        self.observer.started(stage)
        self.places.start(stage.id)
        self.running[launcher.submit(stage, self.store.url)] = stage

    def _collect(self, future: Future[Record]) -> None:
        stage = self.running.pop(future)
        try:
            self.records[stage.id] = future.result()
        except BaseException as error:  # a stage that exits has failed too
            self._failed(stage, _cause(error))
        else:
            self.observer.finished(stage, self.records[stage.id])
        finally:
            self.places.end(stage.id)
            self.claims.release(stage.id)
        self.places.tidy(self.records, (other.id for other in self.running.values()))

    def _failed(self, stage: Stage, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            raise error
        if isinstance(error, StreamStopped):
            # Started while its input was being made. If that is made once more, so is this.
            for of in stage.inputs.values():
                if of.id in self.failed:
                    self.failed[stage.id] = stage
                    self.observer.failed(stage, StreamStopped(f"stopped, for {of.name} failed"))
                    return
            return
        if isinstance(error, (DamagedArtifact, MissingArtifact)) and error.id in self.by_id:
            # The input was set aside, by this stage or by another that found it first.
            if self.records.pop(error.id, None) is not None:
                self.again[error.id] = self.again.get(error.id, 0) + 1
            if self.again.get(error.id, 0) <= MAKE_AGAIN:
                self.needed |= _missing([stage], self.records)
                if isinstance(error, DamagedArtifact):
                    self._note(error)
                return
            self.failed[error.id] = self.by_id[error.id]  # given up
        self.observer.failed(stage, error)
        self.failed[stage.id] = stage
        if isinstance(error, UnusablePlace):
            if self.running and not isinstance(self.failure, UnusablePlace):
                self.observer.note(f"waiting for {len(self.running)} running stages to end")
            self.failure = error
        elif self.failure is None:
            if isinstance(error, UserError):
                self.failure = UserError(f"{stage.name}: {error}")
            else:
                self.failure = StageFailed(stage, error)
            self.failure.__cause__ = error
            self.observer.note("the run goes on with what does not need it")

    def _note(self, damage: DamagedArtifact) -> None:
        self.observer.note(
            f"damaged: {damage.file} in {damage.id} ({self.by_id[damage.id].name}) {damage.what};"
            " set aside, making it again"
        )


def _cpus(stage: Stage) -> float:
    return float(stage.runtime.get("cpus", 1.0))


def _cause(error: BaseException) -> BaseException:
    """The error itself, where a remote call wrapped it (Ray keeps it in ``cause``)."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error
