"""Scratch of stages on this machine: kept across ``kill -9``, never shared by two processes.

One process at a time has the lasting scratch of an artifact, by a lock that the system drops with
the process. A worker may outlive its killed driver and still be making the artifact when the next
driver starts it: whoever finds the scratch in use gets one of its own, which is gone afterwards.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch(base: Path) -> Iterator[tuple[Path, Path]]:
    """``(out, work)`` below ``base``: ``out`` empty, ``work`` as a killed process left it.

    Both go at a good end; after an error ``work`` stays for the next attempt.
    """
    lock = _lock(base)
    if lock is None:
        base = base.with_name(f"{base.name}.{uuid.uuid4().hex[:8]}")
    try:
        out, work = base / "out", base / "work"
        if out.exists():
            shutil.rmtree(out)
        out.mkdir(parents=True)
        work.mkdir(exist_ok=True)
        try:
            yield out, work
        except BaseException:
            shutil.rmtree(out if lock is not None else base, ignore_errors=True)
            raise
        shutil.rmtree(base, ignore_errors=True)
    finally:
        if lock is not None:
            os.close(lock)


def sweep(root: Path, grace_seconds: float, remove: bool = True) -> list[str]:
    """Remove scratch below ``root`` that no process holds and nobody touched for so long.

    The names; without ``remove`` nothing is changed.
    """
    removed = []
    mode = os.O_RDWR if remove else os.O_RDONLY
    for base in sorted(root.glob("*")):
        lock = _lock(base, mode) if (base / "lock").exists() else -1
        if lock is None:
            continue
        try:
            if time.time() - _last_change(base) > grace_seconds:
                if remove:
                    shutil.rmtree(base)
                removed.append(base.name)
        finally:
            if lock >= 0:
                os.close(lock)
    return removed


def _lock(base: Path, mode: int = os.O_RDWR | os.O_CREAT) -> int | None:
    """A descriptor that holds the lock of the scratch ``base``, else None. A dead holder's goes."""
    while True:
        try:
            base.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(base / "lock", mode, 0o644)
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


def _last_change(path: Path) -> float:
    times = [path.stat().st_mtime]
    # What another process is removing meanwhile has no time any more, and none is needed.
    times += [child.lstat().st_mtime for child in path.rglob("*") if os.path.lexists(child)]
    return max(times)
