"""Streams: what a stage publishes while it runs, and how its readers learn that it has ended.

    work/<id>-stream/          what stage <id> publishes, in a format of its own
    work/<id>-stream/running   there for as long as a driver runs the stage

The place is known before the stage starts, survives a killed process, so that the next one goes on
appending, and outlives the stage's scratch: readers follow it to its end. Reader and writer share a
file system.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msm_ray.artifact import Store
    from msm_ray.stage import Stage

RUNNING_FILE = "running"
POLL_SECONDS = 0.1  # between two looks at a stream


class StreamStopped(Exception):
    """The stage that writes a stream has ended before the stream has."""


def stream_place(store: Store, id: str) -> Path:
    """Where stage ``id`` publishes; the first to need it makes it."""
    return store.work_dir("") / f"{id}-stream"


def wait_while_running(place: Path, there: Callable[[], bool]) -> None:
    """Wait until ``there()``; `StreamStopped` if the stage at ``place`` ends before that."""
    while not there():
        if not (place / RUNNING_FILE).exists():
            if there():  # its last word, said between the two looks
                return
            raise StreamStopped(f"the stage that writes {place.name} has stopped before its end")
        time.sleep(POLL_SECONDS)


class Places:
    """The places of the stages that one driver runs; others of its stages may follow them."""

    def __init__(self, store: Store, stages: Iterable[Stage]) -> None:
        self._store = store
        self._readers: dict[str, set[str]] = {}  # id of a writer -> ids of what may follow it
        for stage in stages if store.local else ():
            for name in stage.streams:
                self._readers.setdefault(stage.inputs[name].id, set()).add(stage.id)
        self._used: set[str] = set()

    def can_follow(self, writer: str, reader: str) -> bool:
        """Whether ``reader`` may start while ``writer`` runs."""
        return reader in self._readers.get(writer, ())

    def start(self, id: str) -> None:
        """The stage is about to run."""
        if self._store.local:
            self._used.add(id)
        if id in self._readers:
            place = stream_place(self._store, id)
            place.mkdir(parents=True, exist_ok=True)
            (place / RUNNING_FILE).touch()

    def end(self, id: str) -> None:
        """The stage does not run any more: who waits for more of its stream is told."""
        if id in self._readers:  # removed, not written: that works on a full disk as well
            (stream_place(self._store, id) / RUNNING_FILE).unlink(missing_ok=True)

    def tidy(self, committed: Iterable[str], running: Iterable[str]) -> None:
        """Remove the streams of ``committed`` stages that nothing ``running`` may follow."""
        there, busy = set(committed), set(running)
        for id in sorted(self._used & there):
            if id not in busy and not self._readers.get(id, set()) & busy:
                shutil.rmtree(stream_place(self._store, id), ignore_errors=True)
                self._used.discard(id)
