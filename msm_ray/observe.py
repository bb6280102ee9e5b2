"""What a run tells: a live block on a terminal, plain lines elsewhere, events as JSON lines, costs.

The observer is told from several threads. It never fails a run: what goes wrong with a display is
the display's. Time left is the sum of the estimates of what is missing, scaled by how long finished
stages really took against theirs, over how many run side by side.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from msm_ray.artifact import Record
    from msm_ray.stage import Stage

LINE_SECONDS = 10.0  # without a terminal: at most one progress line in so many seconds
REFRESH_SECONDS = 0.5
DEFAULT_ESTIMATE = 10.0  # seconds, for a stage that does not say
MAX_ROWS = 8  # running stages shown at once


@dataclass
class Running:
    """A stage under way. ``since`` in monotonic seconds, ``fraction`` 0..1."""

    stage: Stage
    since: float
    fraction: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class RunState:
    """What is known of a run now; the displays read it."""

    total: int = 0
    cached: int = 0
    made: int = 0
    failed: int = 0
    started_at: float = 0.0
    missing: dict[str, Stage] = field(default_factory=dict)  # not committed yet, running included
    running: dict[str, Running] = field(default_factory=dict)
    estimated: float = 0.0  # seconds that finished stages were estimated to take
    taken: float = 0.0  # seconds that they took
    widest: int = 1  # most stages seen running at once

    @property
    def done(self) -> int:
        """Stages whose artifact is there."""
        return self.total - len(self.missing)

    def seconds_left(self, now: float) -> float | None:
        """Estimated seconds until everything is there; None before anything is planned."""
        if not self.total:
            return None
        scale = self.taken / self.estimated if self.estimated > 0 else 1.0
        work, longest = 0.0, 0.0
        for id, stage in self.missing.items():
            seconds = estimate(stage) * scale
            running = self.running.get(id)
            if running is not None:
                seconds = _rest(running, seconds, now)
                longest = max(longest, seconds)
            work += seconds
        return max(work / self.widest, longest)


def estimate(stage: Stage) -> float:
    """Seconds that the stage is expected to take."""
    return float(stage.estimate.get("seconds", DEFAULT_ESTIMATE))


def _rest(running: Running, expected: float, now: float) -> float:
    elapsed = now - running.since
    if running.fraction > 0.05:  # its own pace says more than an estimate
        return elapsed * (1 - running.fraction) / running.fraction
    return max(expected - elapsed, 0.1 * expected)


class Sink(Protocol):
    """Something that shows a run. Called with the observer's lock held."""

    def event(self, event: Mapping[str, Any], state: RunState) -> None:
        """One thing happened; ``event["event"]`` names it."""

    def close(self) -> None:
        """The run is over."""


class Observer:
    """Keeps the state of a run and passes it on to its sinks."""

    def __init__(
        self,
        events: Path | None = None,
        stream: TextIO | None = None,
        sinks: Sequence[Sink] | None = None,
    ) -> None:
        """``events``: file for JSON lines. ``stream``: terminal or log, stderr if not given.

        ``sinks`` replaces the display on ``stream``.
        """
        self.state = RunState()
        self._lock = threading.Lock()
        self._sinks = list(sinks) if sinks is not None else [display(stream or sys.stderr)]
        if events is not None:
            self._sinks.append(EventFile(events))
        self._closed = False

    def plan(self, stages: Sequence[Stage], cached: Iterable[str]) -> None:
        """The stages of the run in order, and the ids of those that need not be made."""
        there = set(cached)
        with self._lock:
            state = self.state
            state.total, state.cached = len(stages), sum(s.id in there for s in stages)
            state.started_at = time.monotonic()
            state.missing = {s.id: s for s in stages if s.id not in there}
            self._emit("plan", stages=state.total, cached=state.cached)

    def started(self, stage: Stage) -> None:
        """A stage was launched."""
        with self._lock:
            self.state.missing.setdefault(stage.id, stage)
            self.state.running[stage.id] = Running(stage, time.monotonic())
            self.state.widest = max(self.state.widest, len(self.state.running))
            self._emit("started", stage)

    def progress(self, stage_id: str, fraction: float, facts: Mapping[str, Any]) -> None:
        """A running stage is so far; late news of one that has ended is dropped."""
        with self._lock:
            running = self.state.running.get(stage_id)
            if running is None:
                return
            running.fraction = min(max(float(fraction), 0.0), 1.0)
            running.facts = dict(facts)
            fields = {"fraction": running.fraction, "facts": running.facts}
            self._emit("progress", running.stage, **fields)

    def finished(self, stage: Stage, record: Record) -> None:
        """A stage's artifact is committed."""
        with self._lock:
            state = self.state
            running = state.running.pop(stage.id, None)
            state.missing.pop(stage.id, None)
            state.made += 1
            if running is not None:
                state.estimated += estimate(stage)
                state.taken += time.monotonic() - running.since
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
            if self._closed:
                return
            self._closed = True
            state = self.state
            seconds = time.monotonic() - state.started_at if state.total else 0.0
            self._emit("done", made=state.made, cached=state.cached, seconds=seconds)
            for sink in self._sinks:
                sink.close()

    def _emit(self, name: str, stage: Stage | None = None, **fields: Any) -> None:
        event: dict[str, Any] = {"event": name, "time": datetime.now(UTC).isoformat()}
        if stage is not None:
            event |= {"id": stage.id, "kind": stage.kind, "label": stage.label}
        event |= fields
        for sink in self._sinks:
            sink.event(event, self.state)


# ---- sinks --------------------------------------------------------------------------------------


class EventFile:
    """Appends each event as one line of JSON; progress of a stage at most once in two seconds."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  closed with the run
        self._last: dict[str, float] = {}

    def event(self, event: Mapping[str, Any], state: RunState) -> None:
        """Write the event."""
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


def display(stream: TextIO) -> Sink:
    """The display that suits ``stream``: live on a terminal, lines elsewhere."""
    return LiveBlock(stream) if stream.isatty() else Lines(stream)


class Lines:
    """Plain lines: what happens to stages, and how far the run is, rarely enough to read."""

    def __init__(self, stream: TextIO, every: float = LINE_SECONDS) -> None:
        """``every``: seconds between two lines of progress."""
        self._stream, self._every = stream, every
        self._last = time.monotonic()

    def event(self, event: Mapping[str, Any], state: RunState) -> None:
        """Print the event if it is worth a line."""
        name = event["event"]
        if name == "progress":
            if time.monotonic() - self._last < self._every:
                return
            self._print(headline(state, time.monotonic()) + _running_text(state))
            return
        text = line(event)
        if text:
            counts = f"[{state.done}/{state.total}] " if "id" in event else ""
            self._print(counts + text)

    def close(self) -> None:
        """Nothing is held."""

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)
        self._last = time.monotonic()


class LiveBlock:
    """One block at the bottom of a terminal, redrawn in place; notes and failures scroll above."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream)
        self._state = RunState()
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=1 / REFRESH_SECONDS,
            transient=True,
        )
        self._shown = False

    def event(self, event: Mapping[str, Any], state: RunState) -> None:
        """Show the new state; print what should stay readable."""
        self._state = state
        name = event["event"]
        if name == "plan" and state.missing and not self._shown:
            self._live.start()
            self._shown = True
        if name in ("plan", "note", "failed", "done"):
            self._console.print(line(event), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the block."""
        if self._shown:
            self._live.stop()

    def _render(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        now = time.monotonic()
        # Drawn from another thread, without the lock: a copy that may be half a step old.
        running = sorted(self._state.running.copy().values(), key=lambda r: r.since)
        table = Table.grid(padding=(0, 1))
        table.add_row(Text(_bar(_share_done(self._state, running))), headline(self._state, now))
        for row in running[:MAX_ROWS]:
            facts = ", ".join(f"{k} {_short(v)}" for k, v in row.facts.items())
            what = f"{row.stage.name}  {duration(now - row.since)}  {facts}".rstrip()
            table.add_row(Text(_bar(row.fraction)), Text(what, no_wrap=True, overflow="ellipsis"))
        if len(running) > MAX_ROWS:
            table.add_row("", f"and {len(running) - MAX_ROWS} more")
        return table


def line(event: Mapping[str, Any]) -> str:
    """One line for people about an event; empty for one that needs none."""
    name = event["event"]
    what = f"{event.get('kind', '')} {event.get('label', '')}".strip()
    if name == "plan":
        missing = event["stages"] - event["cached"]
        return f"{event['stages']} stages: {event['cached']} there, {missing} to make"
    if name == "finished":
        return f"{what} done in {duration(event['seconds'])}"
    if name == "found":
        return f"{what} was made by another run"
    if name == "failed":
        return f"{what} failed: {event['error']}"
    if name == "note":
        return str(event["text"])
    if name == "done":
        took = duration(event["seconds"])
        return f"{event['made']} stages made, {event['cached']} were there, in {took}"
    return ""


def headline(state: RunState, now: float) -> str:
    """Counts, elapsed and left: ``12/40 stages, 3 running, 1m 05s, about 4m left``."""
    parts = [f"{state.done}/{state.total} stages", f"{len(state.running)} running"]
    parts.append(duration(now - state.started_at))
    left = state.seconds_left(now)
    if left is not None and state.missing:
        parts.append(f"about {duration(left)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """``4s``, ``2m 05s``, ``1h 02m``."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def _running_text(state: RunState) -> str:
    shown = [f"{r.stage.name} {r.fraction:.0%}" for r in list(state.running.values())[:4]]
    return ": " + ", ".join(shown) if shown else ""


def _share_done(state: RunState, running: Sequence[Running]) -> float:
    if not state.total:
        return 0.0
    return (state.done + sum(row.fraction for row in running)) / state.total


def _bar(fraction: float, width: int = 20) -> str:
    filled = round(min(max(fraction, 0.0), 1.0) * width)
    return "━" * filled + "╌" * (width - filled)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ---- costs --------------------------------------------------------------------------------------


def cost_summary(records: Iterable[tuple[Record, bool]]) -> dict[str, Any]:
    """What results cost: all of them, and under ``this_run`` those that were not cached.

    Args:
        records: each stage's record once, and whether it was in the store before the run.

    Returns:
        ``{seconds_by_kind, stages_run, stages_cached, tokens_trained, tokens_generated, calls,
        money, this_run: {seconds_by_kind, tokens_trained, ...}}``. Seconds are those in which a
        stage was made; stages side by side count each. Tokens trained are the ``tokens`` of stages
        that report ``steps``; the others are summed from facts of the same name. Money is in US
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
    trained = (r.facts.get("tokens", 0) for r in records if "steps" in r.facts)
    return {
        "seconds_by_kind": {kind: round(total, 3) for kind, total in sorted(seconds.items())},
        "tokens_trained": sum(trained),
        "tokens_generated": sum(r.facts.get("tokens_generated", 0) for r in records),
        "calls": sum(r.facts.get("calls", 0) for r in records),
        "money": round(sum((r.facts.get("money", 0.0) for r in records), 0.0), 6),
    }
