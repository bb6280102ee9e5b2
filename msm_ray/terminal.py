"""How a run looks to people: a live block on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from types import FrameType

    from rich.live import Live
    from rich.table import Table

    from msm_ray.observe import Running, RunState

LINE_SECONDS = 10.0  # without a terminal: at most one progress line in so many seconds
REFRESH_SECONDS = 0.5
STOPPING = b"\nmsm: stopping; what runs is ended first, what is done stays\n"
MAX_ROWS = 8  # running stages shown at once


def tell_of_stopping() -> Callable[[], None]:
    """From now on Ctrl-C is answered by a line at once, and then does what it did before.

    Stages that run are ended first, which takes seconds. Returns what takes this back. Does nothing
    where Ctrl-C is ignored or this is not the main thread.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        return lambda: None

    def told(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):  # not print: that may be what was interrupted
            os.write(2, STOPPING)
        before(number, frame)

    def back() -> None:
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, told)
    return back


@contextmanager
def sigint_kept() -> Iterator[None]:
    """Ray Train and Tune install Ctrl-C handlers and leave them there: put the old one back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Sink(Protocol):
    """Something that shows a run. Called with the observer's lock held."""

    def event(self, event: Mapping[str, Any], state: RunState) -> None:
        """One thing happened; ``event["event"]`` names it."""

    def close(self) -> None:
        """The run is over."""


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
        if name in ("progress", "beat"):
            if time.monotonic() - self._last < self._every:
                return
            self._print(headline(state, time.monotonic()) + _running_text(state, time.monotonic()))
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

        self._console = Console(file=stream)
        self._live: Live | None = None  # from the plan on, if something is to be made

    def event(self, event: Mapping[str, Any], state: RunState) -> None:
        """Show the new state; print what should stay readable."""
        from rich.live import Live

        name = event["event"]
        if name == "plan" and state.missing and self._live is None:
            self._live = Live(
                console=self._console,
                get_renderable=lambda: self._render(state),
                refresh_per_second=1 / REFRESH_SECONDS,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),  # else it is a file or a program that reads
            )
            self._live.start()
        if name in ("plan", "note", "failed", "done"):
            self._console.print(line(event), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the block."""
        if self._live is not None:
            self._live.stop()

    def _render(self, state: RunState) -> Table:
        from rich.table import Table
        from rich.text import Text

        now = time.monotonic()
        # Drawn from another thread, without the lock: a copy that may be half a step old.
        running = sorted(state.running.copy().values(), key=lambda r: r.since)
        table = Table.grid(padding=(0, 1))
        table.add_row(Text(_bar(_share_done(state, running, now))), headline(state, now))
        for row in running[:MAX_ROWS]:
            facts = ", ".join(f"{k} {_short(v)}" for k, v in row.facts.items())
            what = f"{row.stage.name}  {duration(now - row.since)}  {facts}".rstrip()
            table.add_row(
                Text(_bar(state.share(row, now)[0])), Text(what, no_wrap=True, overflow="ellipsis")
            )
        if len(running) > MAX_ROWS:
            table.add_row("", f"and {len(running) - MAX_ROWS} more")
        return table


def line(event: Mapping[str, Any]) -> str:
    """One line for people about an event; empty for one that needs none."""
    name = event["event"]
    what = f"{event.get('kind', '')} {event.get('label', '')}".strip()
    if name == "plan":
        missing = event["stages"] - event["cached"]
        return f"{_stages(event['stages'])}: {event['cached']} there, {missing} to make"
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
        return f"{_stages(event['made'])} made, {event['cached']} there before, in {took}"
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


def _running_text(state: RunState, now: float) -> str:
    """The first stages that run, with their share done; ``~`` where only time tells it."""
    shown = []
    for row in list(state.running.values())[:4]:
        share, said = state.share(row, now)
        shown.append(f"{row.stage.name} {'' if said else '~'}{share:.0%}")
    return ": " + ", ".join(shown) if shown else ""


def _share_done(state: RunState, running: Sequence[Running], now: float) -> float:
    if not state.total:
        return 0.0
    return (state.done + sum(state.share(row, now)[0] for row in running)) / state.total


def _bar(fraction: float, width: int = 20) -> str:
    filled = round(min(max(fraction, 0.0), 1.0) * width)
    return "━" * filled + "╌" * (width - filled)


def _stages(count: int) -> str:
    return f"{count} stage" if count == 1 else f"{count} stages"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
