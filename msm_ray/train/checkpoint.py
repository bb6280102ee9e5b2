"""Checkpoints of a training run: written beside the steps, checked before one is used.

A checkpoint is a folder ``step-00000120`` with what the backend wrote (weights that are trained,
and their optimizer), the random state of every rank, and ``record.json``: step, data cursor, the
run's identity, its history so far, and name, size and sha256 of every file. The record is written
last, and the folder gets its name after that: one without either is no checkpoint.

A trunk (`msm_ray.train.segment`) leaves its last state in the same form, for the runs that go on
from it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from msm_ray.errors import UserError
from msm_ray.manifest import file_sha256
from msm_ray.train.backends.base import Backend
from msm_ray.train.history import History
from msm_ray.train.ranks import Ranks
from msm_ray.train.segment import DECAY_FIELDS

RECORD_FILE = "record.json"
Event = Callable[..., None]  # event(name, **values): something for the run's metrics


class DamagedCheckpoint(Exception):
    """A checkpoint's files are not those that its record names."""


@dataclass(frozen=True)
class Plan:
    """When checkpoints are written, and how many stay.

    ``seconds`` between two (0: never by time); ``steps``: every so many steps instead (0: by time).
    """

    seconds: float = 0.0
    steps: int = 0
    keep: int = 2


class Checkpoints:
    """The checkpoints of one run in one folder, which all ranks see.

    Args:
        folder: where they lie; made if needed.
        identity: what a checkpoint has to have in common with the run that continues from it.
        plan: when to write one.
        ranks: all of them construct and call this in step.
        event: told on rank 0 of what was written, used or found damaged.
        trunk: the folder in which a trunk left its state (`write`): what a run without a checkpoint
            of its own starts from.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        plan: Plan,
        ranks: Ranks,
        event: Event | None = None,
        trunk: Path | None = None,
    ) -> None:
        self.folder = folder
        self.trunk = trunk
        self.identity = json.loads(json.dumps(dict(identity)))
        self.plan = plan
        self.ranks = ranks
        self._tell = event
        # Workers of an attempt that was given up may still be writing: their parts are not ours.
        self._attempt = ranks.from_first(uuid.uuid4().hex[:8])
        self._pending: Future[Any] | None = None
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._first_step = 0
        self._look = 0  # the step at which the clock is read next
        self._started = self._last = time.monotonic()

    # ---- going on ------------------------------------------------------------------------------

    def resume(self, backend: Backend) -> History:
        """Load the newest checkpoint that is whole, else the trunk; the history up to it, or none.

        Damaged checkpoints are set aside. ``UserError`` where the newest whole one is of another
        run, or the trunk is damaged or not of this one.
        """
        chosen = self._choose(backend) if self.ranks.first else ("", "")
        name, problem = self.ranks.from_first(chosen)
        if problem:
            raise UserError(problem)
        history = History()
        if name:
            history = self._load(backend, self.folder / name, "resumed")
        elif self.trunk is not None:
            history = self._load(backend, self._trunk_state(backend, self.trunk), "branched")
            history.go_on()
        self._first_step = self._look = history.steps
        self._started = self._last = time.monotonic()
        return history

    def _load(self, backend: Backend, folder: Path, event: str) -> History:
        record = read_record(folder)
        backend.load_state(folder)
        _set_random_state(folder, self.ranks.rank)
        history = History(**record["history"])
        self._event(event, step=history.steps, world_size_before=record["world_size"])
        return history

    def _trunk_state(self, backend: Backend, trunk: Path) -> Path:
        """The trunk's checkpoint, looked at by rank 0; ``UserError`` on all ranks if it is none."""
        name, problem = "", f"training: {trunk} has no state of a trunk"
        if self.ranks.first and (found := committed(trunk)):
            folder = found[0]
            name = folder.name
            try:
                record = read_record(folder)
                check_files(folder, record)
                problem = self._against(folder, record, backend, DECAY_FIELDS)
            except DamagedCheckpoint as damage:
                problem = f"training: the state of the trunk {folder} is damaged: {damage}"
        name, problem = self.ranks.from_first((name, problem))
        if problem:
            raise UserError(problem)
        return trunk / name

    def _choose(self, backend: Backend) -> tuple[str, str]:
        """Rank 0: name of the checkpoint to load ("" for none), and what speaks against it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for part in self.folder.glob("*.part"):
            shutil.rmtree(part)
        for folder in committed(self.folder):
            try:
                record = read_record(folder)
                check_files(folder, record)
            except DamagedCheckpoint as damage:
                aside = self.folder / f"damaged-{folder.name}-{self._attempt}"
                folder.rename(aside)
                self._event("damaged", checkpoint=folder.name, what=str(damage), kept_as=aside.name)
                continue
            return folder.name, self._against(folder, record, backend)
        return "", ""

    def _against(
        self,
        folder: Path,
        record: Mapping[str, Any],
        backend: Backend,
        decay: Collection[str] = (),
    ) -> str:
        """What speaks against ``record``, "" if nothing. ``decay``: of a trunk, which fields of the
        config may be others; its segment is another.
        """

        def compared(identity: Mapping[str, Any]) -> dict[str, Any]:
            if not decay:
                return dict(identity)
            config = {k: v for k, v in identity["config"].items() if k not in decay}
            return {k: v for k, v in identity.items() if k != "segment"} | {"config": config}

        theirs, mine = compared(record["identity"]), compared(self.identity)
        other = sorted(
            name for name in set(theirs) | set(mine) if theirs.get(name) != mine.get(name)
        )
        remedy = "make the trunk anew" if decay else f"remove {self.folder} to start anew"
        if other:
            return f"training: {folder} is of another run (differs in {', '.join(other)}); {remedy}"
        if record["format"] != backend.state_format:
            return (
                f"training: {folder} was written by backend {record['backend']}, which "
                f"{type(backend).__name__} cannot read; go on with that one, or {remedy}"
            )
        if record["format"] == "deepspeed" and record["world_size"] != backend.world_size:
            return (
                f"training: DeepSpeed cannot go on with {backend.world_size} workers from {folder},"
                f" written by {record['world_size']}; use as many, or {remedy}"
            )
        return ""

    # ---- writing -------------------------------------------------------------------------------

    def after_step(self, backend: Backend, history: History, blocks: int) -> None:
        """Begin a checkpoint if one is due. ``blocks``: read so far, the data cursor.

        At most one is being written. What went wrong with it is raised here, on rank 0.
        """
        if self._pending is not None and self._pending.done():
            self._finish()
        if self._due(history.steps):
            self._finish()
            self._begin(backend, history, blocks)

    def write(self, backend: Backend, history: History, blocks: int) -> None:
        """Write one now, and wait until it is there. Every rank calls it."""
        if self.ranks.first:
            for part in self.folder.glob("*.part"):  # of workers that were given up
                if self._attempt not in part.name:
                    shutil.rmtree(part)
        self._finish()
        self._begin(backend, history, blocks)
        self._finish()

    def close(self) -> None:
        """Wait for the checkpoint that is being written."""
        self._finish()
        self._threads.shutdown()

    def newest(self, below: int | None = None) -> Path | None:
        """The newest committed checkpoint, of a step below ``below`` if given."""
        found = (f for f in committed(self.folder) if below is None or step_of(f) < below)
        return next(found, None)

    def _due(self, step: int) -> bool:
        if self.plan.steps:
            return step % self.plan.steps == 0
        if not self.plan.seconds or step < self._look:
            return False
        due, self._look = self.ranks.from_first(self._read_clock(step))
        return due

    def _read_clock(self, step: int) -> tuple[bool, int]:
        """Whether one is due, and when to look again: agreeing costs a message, so seldom."""
        now = time.monotonic()
        left = self.plan.seconds - (now - self._last)
        if left > 0:
            done = max(1, step - self._first_step)
            pace = (now - self._started) / done  # seconds a step
            return False, step + max(1, min(done, int(left / 2 / max(pace, 1e-9))))
        if self._pending is not None and not self._pending.done():
            return False, step + 1
        self._last = now
        return True, step + 1

    def _begin(self, backend: Backend, history: History, blocks: int) -> None:
        step = history.steps
        part = self.folder / f"{_name(step)}.{self._attempt}.part"
        part.mkdir(parents=True, exist_ok=True)
        torch.save(_random_state(), part / _random_file(self.ranks.rank))
        written = backend.save_state(part)
        if not self.ranks.first:
            self._pending = written
            return
        record = {
            "step": step,
            "blocks": blocks,
            "identity": self.identity,
            "world_size": self.ranks.world_size,
            "backend": type(backend).__name__,
            "format": backend.state_format,
            "history": asdict(history),
        }
        self._pending = self._threads.submit(self._commit, part, written, record)

    def _commit(self, part: Path, written: Future[Any], record: dict[str, Any]) -> dict[str, Any]:
        """Rank 0, in a thread: once all ranks have written, the record, then the name."""
        started = time.monotonic()
        written.result()
        files = [p for p in sorted(part.rglob("*")) if p.is_file()]
        record["files"] = [
            {"name": str(p.relative_to(part)), "size": p.stat().st_size, "sha256": file_sha256(p)}
            for p in files
        ]
        with open(part / RECORD_FILE, "w", encoding="utf-8") as out:
            json.dump(record, out)
            out.flush()
            os.fsync(out.fileno())
        target = self.folder / _name(record["step"])
        if target.exists():  # of workers that outlived their run, which this one repeats
            shutil.rmtree(part)
        else:
            part.rename(target)
        _sync_directory(self.folder)
        for old in committed(self.folder)[self.plan.keep :]:
            shutil.rmtree(old)
        size = sum(file["size"] for file in record["files"])
        seconds = time.monotonic() - started
        return {"step": record["step"], "bytes": size, "seconds": round(seconds, 3)}

    def _event(self, name: str, **values: Any) -> None:
        if self._tell is not None:
            self._tell(name, **values)

    def _finish(self) -> None:
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        result = pending.result()
        if self.ranks.first:
            self._event("checkpoint", **result)


# ---- the folders --------------------------------------------------------------------------------


def _name(step: int) -> str:
    return f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(folder.name.removeprefix("step-"))


def committed(folder: Path) -> list[Path]:
    """Checkpoints that have their name, newest first."""
    return sorted((p for p in folder.glob("step-*") if p.suffix != ".part"), reverse=True)


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a checkpoint; `DamagedCheckpoint` if it is not there or not whole."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        complete = {"step", "identity", "world_size", "backend", "format", "history", "files"}
        if not complete <= set(record):
            raise ValueError(f"lacks {', '.join(sorted(complete - set(record)))}")
    except (OSError, ValueError, TypeError) as error:
        raise DamagedCheckpoint(f"{RECORD_FILE}: {error}") from error
    if record["step"] != step_of(folder):
        raise DamagedCheckpoint(f"{RECORD_FILE}: of step {record['step']}")
    return dict(record)


def check_files(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise `DamagedCheckpoint` unless every file has the size and the sha256 of the record."""
    for file in record["files"]:
        path = folder / file["name"]
        if not path.is_file():
            raise DamagedCheckpoint(f"{file['name']} is missing")
        size = path.stat().st_size
        if size != file["size"]:
            raise DamagedCheckpoint(f"{file['name']} has {size} bytes, not {file['size']}")
        if file_sha256(path) != file["sha256"]:
            raise DamagedCheckpoint(f"{file['name']} has another sha256")


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- random state -------------------------------------------------------------------------------


def _random_file(rank: int) -> str:
    return f"random-{rank:05d}.pt"


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(folder: Path, rank: int) -> None:
    """This rank's state; a rank that there was not before keeps that of its start."""
    path = folder / _random_file(rank)
    if not path.is_file():
        return
    state = torch.load(path, weights_only=True)
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
