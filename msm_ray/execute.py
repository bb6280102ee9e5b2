"""One stage, made in this process: fetch its inputs, call its function, commit what it wrote."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import platform
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msm_ray.artifact import Record, Store
from msm_ray.errors import UserError
from msm_ray.identity import canonical, canonical_json
from msm_ray.storage import is_full

if TYPE_CHECKING:
    from msm_ray.stage import Stage

Progress = Callable[[float, dict[str, Any]], None]


@dataclass
class StageContext:
    """What a stage function gets.

    It reads ``config`` (what its identity says, as JSON values) and the directories in ``inputs``
    (verified, never to be written), writes files below ``out`` (empty at the start), and may keep
    state to resume from in ``work``, which survives a killed process. ``runtime`` says how to run
    and must not change what is made. ``progress(fraction, facts)`` takes 0..1 and what to show.
    """

    config: dict[str, Any]
    inputs: dict[str, Path]
    out: Path
    work: Path
    runtime: dict[str, Any]
    progress: Progress


def run_stage(stage: Stage, store_url: str, progress: Progress) -> Record:
    """Make the stage's artifact in this process and commit it; the record, also if it was there.

    Raises what the stage function raises; ``UserError`` where the store is full or cannot be used;
    `DamagedArtifact` if an input turned out damaged.
    """
    store = Store(store_url)
    committed = store.get(stage.id)
    if committed is not None:
        return committed
    function = _function(stage.run)
    inputs = {name: store.fetch(of.id) for name, of in sorted(stage.inputs.items())}
    with _scratch(store, stage.id) as (out, work):
        context = StageContext(
            config=json.loads(canonical_json(dict(stage.config))),
            inputs=inputs,
            out=out,
            work=work,
            runtime=dict(stage.runtime),
            progress=progress,
        )
        started = time.perf_counter()
        try:
            facts = function(context)
        except Exception as error:
            if not isinstance(error, UserError) and is_full(error):
                raise UserError(
                    f"store {store.url}: is full while making {stage.name}; free some space or "
                    "name another store"
                ) from error
            raise
        if not isinstance(facts, Mapping):
            raise TypeError(f"{stage.run} returned {type(facts).__name__}, not its facts (a dict)")
        record = Record(
            id=stage.id,
            kind=stage.kind,
            label=stage.label,
            version=stage.version,
            config=dict(stage.config),
            inputs={name: of.id for name, of in stage.inputs.items()},
            facts=canonical(facts, f"facts of {stage.run}"),
            provenance={"run": stage.run, **_versions()},
            seconds=time.perf_counter() - started,
        )
        return store.commit(record, out)


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


@contextmanager
def _scratch(store: Store, id: str) -> Iterator[tuple[Path, Path]]:
    """``(out, work)`` for making ``id``: ``out`` empty, ``work`` as a killed process left it.

    One process at a time has the lasting scratch. A worker may outlive its killed driver and still
    be making ``id`` when the next driver starts it: whoever finds the scratch in use gets one of
    its own, which is gone afterwards.
    """
    base = store.work_dir(id)
    lock = _lock(base)
    lasting = lock is not None
    if lock is None:
        base = store.work_dir(f"{id}.{uuid.uuid4().hex[:8]}")
    try:
        out, work = base / "out", base / "work"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        work.mkdir(exist_ok=True)
        try:
            yield out, work
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            if not lasting:
                shutil.rmtree(base, ignore_errors=True)
            raise
        shutil.rmtree(base, ignore_errors=True)
    except OSError as error:
        if is_full(error):
            raise UserError(f"store {store.url}: is full; free some space") from error
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _lock(base: Path) -> int | None:
    """A descriptor that holds the lock of the scratch ``base``, else None. A dead holder's goes."""
    while True:
        try:
            base.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(base / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # removed by a process that has just committed
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there = os.stat(base / "lock")
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            os.close(descriptor)
            continue
        if there.st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        os.close(descriptor)


def _versions() -> dict[str, str]:
    import msm_ray

    return {
        "msm_ray": getattr(msm_ray, "__version__", ""),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
