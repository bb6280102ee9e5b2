"""What a run tells: a live block on a terminal, plain lines elsewhere, events as JSON lines, costs.

The observer is told from several threads. It never fails a run: what goes wrong with a display is
the display's. Time left is the sum of the estimates of what is missing, scaled by how long stages
of the same kind that ended, or are overdue, really took, over how many run side by side.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from msm_ray.terminal import Sink, display

if TYPE_CHECKING:
    from msm_ray.artifact import Record
    from msm_ray.stage import Stage

PACE_FRACTION = 0.05  # of a stage, done since its first news: a pace
OVERDUE = 0.1  # what is left of a stage that takes longer than expected: so much of it all
PRIOR = (1.0, 1.0)  # ratios that an estimate itself counts for
WIDTH_SECONDS = 10.0  # before this nothing has run long enough for an average
DEFAULT_ESTIMATE = 10.0  # seconds, for a stage that does not say
BEAT_SECONDS = 2.0  # while nothing happens, a display is told so often that time has passed


@dataclass
class Running:
    """A stage under way. ``since`` in monotonic seconds, ``fraction`` 0..1.

    ``first`` is when it first said that something is done, and how much: from then on its pace is
    known. Before it an engine may have started, which says nothing about the rest; ``start`` is how
    many seconds that is expected to take.
    """

    stage: Stage
    since: float
    fraction: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    first: tuple[float, float] | None = None
    start: float = 0.0

    @property
    def expected(self) -> float:
        """Seconds that it is expected to take, an engine's start included."""
        return estimate(self.stage) + self.start

    def seconds_left(self, expected: float, now: float) -> float:
        """By its own pace if it has one, else by the ``expected`` seconds it takes in all."""
        if self.first is not None and self.fraction - self.first[1] >= PACE_FRACTION:
            begun, done = self.first
            return (now - begun) * (1 - self.fraction) / (self.fraction - done)
        elapsed = now - self.since
        return max(expected - elapsed, OVERDUE * max(expected, elapsed))


@dataclass
class RunState:
    """What is known of a run now; the displays read it."""

    total: int = 0
    cached: int = 0
    failed: int = 0
    started_at: float = 0.0
    missing: dict[str, Stage] = field(default_factory=dict)  # not committed yet, running included
    running: dict[str, Running] = field(default_factory=dict)
    taken: float = 0.0  # seconds that finished stages took
    # By kind of stage: seconds that each finished one took against its estimate.
    ratios: dict[str, list[float]] = field(default_factory=dict)
    widest: int = 1  # most stages that hold a CPU seen running at once
    made_ids: set[str] = field(default_factory=set)  # what this run committed
    lost: set[str] = field(default_factory=set)  # what this run cannot make any more
    warm: bool = False  # a stage that waits for an engine's start has ended: its engine is there

    @property
    def done(self) -> int:
        """Stages whose artifact is there."""
        return self.total - len(self.missing)

    def seconds_left(self, now: float) -> float | None:
        """Estimated seconds until everything is there; None before anything is planned."""
        if not self.total:
            return None
        running = self.running.copy()  # a display reads while threads write
        ratios = self._ratios(running.values(), now)
        work, longest, ahead = 0.0, 0.0, 0.0
        starts = any(row.start for row in running.values())
        for id, stage in list(self.missing.items()):
            if id in self.lost:
                continue
            ratio = ratios.get(stage.kind, 1.0)
            if id in running:
                seconds = running[id].seconds_left(running[id].expected * ratio, now)
                longest = max(longest, seconds)
            else:
                seconds = estimate(stage) * ratio
                if not starts:  # nobody waits for an engine yet: whoever is first will
                    ahead = max(ahead, self.start_of(stage))
            work += seconds
        return max(work / self._width(running.values(), now), longest) + ahead

    def start_of(self, stage: Stage) -> float:
        """Seconds that the stage would wait for an engine's start, if it were started now."""
        return 0.0 if self.warm else float(stage.estimate.get("start", 0.0))

    def share(self, row: Running, now: float) -> tuple[float, bool]:
        """How much of a running stage is done, 0..1, and whether it said so itself.

        One that starts an engine says nothing for most of its time: then by the time it is
        expected to take.
        """
        expected = row.expected * self._ratios([row], now).get(row.stage.kind, 1.0)
        elapsed = now - row.since
        by_time = elapsed / max(elapsed + row.seconds_left(expected, now), 1e-9)
        return (row.fraction, True) if row.fraction >= by_time else (by_time, False)

    def _ratios(self, running: Iterable[Running], now: float) -> dict[str, float]:
        """By kind, what a stage takes against its estimate: the median, so that the one which
        started an engine for the others does not count for all.
        """
        seen = {kind: list(ratios) for kind, ratios in self.ratios.copy().items()}
        for row in running:  # one that is overdue tells as much as one that ended late
            if (ratio := (now - row.since) / row.expected) > 1:
                seen.setdefault(row.stage.kind, []).append(ratio)
        return {kind: statistics.median([*PRIOR, *ratios]) for kind, ratios in seen.items()}

    def _width(self, running: Iterable[Running], now: float) -> float:
        """How many stages ran side by side on average."""
        wall = now - self.started_at
        if wall < WIDTH_SECONDS:
            return self.widest
        busy = self.taken + sum(now - row.since for row in running)
        return min(max(busy / wall, 1.0), float(self.widest))


def _dependents(failed: Stage, missing: Mapping[str, Stage]) -> set[str]:
    """Ids of ``failed`` and of all missing stages that need it."""
    lost = {failed.id}
    while True:
        more = {
            id
            for id, stage in missing.items()
            if id not in lost and any(of.id in lost for of in stage.inputs.values())
        }
        if not more:
            return lost
        lost |= more


def estimate(stage: Stage) -> float:
    """Seconds that the stage is expected to take, more than 0."""
    return max(float(stage.estimate.get("seconds", DEFAULT_ESTIMATE)), 1e-3)


class RunObserver(Protocol):
    """Who is told what happens in a run."""

    def plan(self, stages: Sequence[Stage], cached: Iterable[str]) -> None:
        """The stages of the run in order, and the ids of those that are there."""

    def started(self, stage: Stage) -> None:
        """A stage was launched."""

    def progress(self, stage_id: str, fraction: float, facts: Mapping[str, Any]) -> None:
        """A running stage is so far."""

    def finished(self, stage: Stage, record: Record) -> None:
        """A stage's artifact is committed."""

    def found(self, stage: Stage, record: Record) -> None:
        """Another run has committed the stage's artifact."""

    def failed(self, stage: Stage, error: BaseException) -> None:
        """A stage failed."""

    def note(self, text: str) -> None:
        """Something the user should read."""

    def done(self) -> None:
        """The run is over."""


class Observer:
    """Keeps the state of a run and passes it on to its sinks."""

    def __init__(
        self,
        events: Path | None = None,
        stream: TextIO | None = None,
        sinks: Sequence[Sink] | None = None,
        beat: float = BEAT_SECONDS,
    ) -> None:
        """``events``: file for JSON lines. ``stream``: terminal or log, stderr if not given.

        ``sinks`` replaces the display on ``stream``.
        """
        self.state = RunState()
        self._lock = threading.Lock()
        self._sinks = list(sinks) if sinks is not None else [display(stream or sys.stderr)]
        if events is not None:
            self._sinks.append(EventFile(events))
        self._planned: set[str] = set()
        self._closed = threading.Event()
        self._beat = beat

    def plan(self, stages: Sequence[Stage], cached: Iterable[str]) -> None:
        """The stages of the run in order, and the ids of those that need not be made."""
        self.state.started_at = time.monotonic()
        self.add(stages, cached)
        with self._lock:
            self._emit("plan", stages=self.state.total, cached=self.state.cached)
        if self.state.missing:
            threading.Thread(target=self._keep_beating, name="observer", daemon=True).start()

    def add(self, stages: Iterable[Stage], cached: Iterable[str]) -> None:
        """More stages of a run whose plan grows as it goes; those it knows are left alone."""
        there = set(cached)
        with self._lock:
            for stage in stages:
                if stage.id not in self._planned:
                    self._planned.add(stage.id)
                    self.state.total += 1
                    self.state.cached += stage.id in there
                    if stage.id not in there:
                        self.state.missing[stage.id] = stage

    def _keep_beating(self) -> None:
        """An engine that starts says nothing for a minute; who looks on should see time pass."""
        while not self._closed.wait(self._beat):
            with self._lock:
                if not self._closed.is_set():
                    self._emit("beat")

    def started(self, stage: Stage) -> None:
        """A stage was launched."""
        with self._lock:
            self.state.missing.setdefault(stage.id, stage)
            row = Running(stage, time.monotonic(), start=self.state.start_of(stage))
            self.state.running[stage.id] = row
            holding = sum(r.stage.runtime.get("cpus", 1) > 0 for r in self.state.running.values())
            self.state.widest = max(self.state.widest, holding)
            self._emit("started", stage)

    def progress(self, stage_id: str, fraction: float, facts: Mapping[str, Any]) -> None:
        """A running stage is so far; late news of one that has ended is dropped."""
        with self._lock:
            running = self.state.running.get(stage_id)
            if running is None:
                return
            running.fraction = min(max(float(fraction), 0.0), 1.0)
            running.facts = dict(facts)
            if running.first is None and running.fraction > 0:
                running.first = (time.monotonic(), running.fraction)
            fields = {"fraction": running.fraction, "facts": running.facts}
            self._emit("progress", running.stage, **fields)

    def finished(self, stage: Stage, record: Record) -> None:
        """A stage's artifact is committed."""
        with self._lock:
            state = self.state
            running = state.running.pop(stage.id, None)
            state.missing.pop(stage.id, None)
            state.made_ids.add(stage.id)
            if running is not None:
                seconds = time.monotonic() - running.since
                state.taken += seconds
                state.ratios.setdefault(stage.kind, []).append(seconds / running.expected)
                state.warm = state.warm or "start" in stage.estimate
            self._emit("finished", stage, seconds=record.seconds, bytes=record.bytes)

    def found(self, stage: Stage, record: Record) -> None:
        """Another run has committed the stage's artifact."""
        with self._lock:
            self.state.missing.pop(stage.id, None)
            self.state.cached += 1
            self._emit("found", stage)

    def failed(self, stage: Stage, error: BaseException) -> None:
        """A stage failed."""
        with self._lock:
            self.state.running.pop(stage.id, None)
            self.state.lost |= _dependents(stage, self.state.missing)
            self.state.failed += 1
            text = " ".join(f"{type(error).__name__}: {error}".split())
            self._emit("failed", stage, error=text)

    def note(self, text: str) -> None:
        """Something the user should read."""
        with self._lock:
            self._emit("note", text=text)

    def done(self) -> None:
        """The run is over: the last word, and the displays end. Once."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            state = self.state
            seconds = time.monotonic() - state.started_at if state.total else 0.0
            self._emit("done", made=len(state.made_ids), cached=state.cached, seconds=seconds)
            for sink in self._sinks:
                with suppress(OSError):  # nobody reads it any more
                    sink.close()

    def _emit(self, name: str, stage: Stage | None = None, **fields: Any) -> None:
        event: dict[str, Any] = {"event": name, "time": datetime.now(UTC).isoformat()}
        if stage is not None:
            event |= {"id": stage.id, "kind": stage.kind, "label": stage.label}
        event |= fields
        for sink in list(self._sinks):
            try:
                sink.event(event, self.state)
            except OSError as error:  # a closed pipe, a full disk: the run itself goes on
                self._sinks.remove(sink)
                self._emit("note", text=f"{type(sink).__name__} ended: {error}")


# ---- sinks --------------------------------------------------------------------------------------


class EventFile:
    """Appends each event as one line of JSON; progress of a stage at most once in two seconds."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  closed with the run
        self._last: dict[str, float] = {}

    def event(self, event: Mapping[str, Any], state: RunState) -> None:
        """Write the event, unless it says only that time passes."""
        if event["event"] == "beat":
            return
        if event["event"] == "progress":
            now = time.monotonic()
            if now - self._last.get(event["id"], -10.0) < 2.0:
                return
            self._last[event["id"]] = now
        self._file.write(json.dumps(event, default=str) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


# ---- costs --------------------------------------------------------------------------------------


def cost_summary(records: Iterable[tuple[Record, bool]]) -> dict[str, Any]:
    """What results cost: all of them, and under ``this_run`` those that were not cached.

    Args:
        records: each stage's record once, and whether it was in the store before the run.

    Returns:
        ``{seconds_by_kind, stages_run, stages_cached, tokens_trained, tokens_generated, calls,
        money, this_run: {seconds_by_kind, tokens_trained, ...}}``. Seconds are those in which a
        stage was made; stages side by side count each. Tokens trained are those of stages that
        report ``steps``: their ``tokens_new``, where they go on from others, else their ``tokens``;
        the others are summed from facts of the same name. Money is in US
        dollars and 0 where nothing was bought.
    """
    pairs = list(records)
    fresh = [record for record, cached in pairs if not cached]
    return {
        **_costs([record for record, _ in pairs]),
        "stages_run": len(fresh),
        "stages_cached": len(pairs) - len(fresh),
        "this_run": _costs(fresh),
    }


def _costs(records: Sequence[Record]) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    for record in records:
        seconds[record.kind] = seconds.get(record.kind, 0.0) + record.seconds
    trained = (
        r.facts.get("tokens_new", r.facts.get("tokens", 0)) for r in records if "steps" in r.facts
    )
    return {
        "seconds_by_kind": {kind: round(total, 3) for kind, total in sorted(seconds.items())},
        "tokens_trained": sum(trained),
        "tokens_generated": sum(r.facts.get("tokens_generated", 0) for r in records),
        "calls": sum(r.facts.get("calls", 0) for r in records),
        "money": round(sum((r.facts.get("money", 0.0) for r in records), 0.0), 6),
    }
