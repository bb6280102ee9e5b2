"""What the trials of a search do, as it is seen in the store: they run in other processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from msm_ray.artifact import Store
from msm_ray.errors import UserError
from msm_ray.observe import Observer
from msm_ray.stage import Stage

LOOK_SECONDS = 2.0
REMOTE_LOOK_SECONDS = 10.0  # where each look is some requests


@contextmanager
def watched(store: Store, stages: Mapping[str, Stage], observer: Observer) -> Iterator[None]:
    """Tell ``observer`` of the ``stages`` (by id) that others start and finish meanwhile."""
    watch = Watch(store, stages, observer)
    stop = threading.Event()

    def look() -> None:
        ended = False
        while not ended:
            ended = stop.wait(LOOK_SECONDS if store.local else REMOTE_LOOK_SECONDS)
            try:
                watch.look()  # also at the end: something was committed just before
            except (UserError, OSError):
                continue  # a courtesy: who needs the store will say what is wrong with it

    thread = threading.Thread(target=look, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


class Watch:
    """Looks at claims and commits; what changed since the last look goes to the observer."""

    def __init__(self, store: Store, stages: Mapping[str, Stage], observer: Observer) -> None:
        """What is in the store now is nothing new."""
        self._store = Store(store.url, create=False)  # looks, and sets nothing aside
        self._stages, self._observer = stages, observer
        self._there = set(store.ids())
        self._running: set[str] = set()

    def look(self) -> None:
        """Look once."""
        # In this order: a claim that is gone belongs to a commit which is seen then, or to none.
        claimed = {name.removesuffix(".json") for name in self._store.names("claims")}
        there = set(self._store.ids())
        known = set(self._stages)  # a copy: more may be added meanwhile
        for id in known & (claimed - there - self._running):
            self._running.add(id)
            self._observer.started(self._stages[id])
        for id in known & (there - self._there):
            record = self._store.get(id)
            if record is not None:
                self._observer.finished(self._stages[id], record)
                self._there.add(id)
                self._running.discard(id)
        for id in self._running - claimed - there:
            self._running.discard(id)
            self._observer.failed(self._stages[id], RuntimeError("its trial will say why"))
