"""Running the whole loop at its smallest, as a user does: for tests that need all of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
NAME = "cheese_micro"
# Few documents, few steps; one base and one seed (tests/jobs/small.py).
SMALL = (
    "corpus.documents=48",
    "midtrain.tokens=6000",
    "midtrain.max_repeats=50",
    "aft.conversations=32",
    "evaluation.pairs_per_domain=1",
)


def command(store: Path, *settings: str, job: str = "small.py") -> list[str]:
    """``msm run`` of a job in tests/jobs with SMALL and ``settings``."""
    sets = [part for s in (*SMALL, *settings) for part in ("--set", s)]
    path = str(ROOT / "tests" / "jobs" / job)
    return [sys.executable, "-m", "msm_ray.cli", "run", path, "--store", str(store), *sets]


def events(store: Path) -> list[dict[str, Any]]:
    """What this store's runs have said so far, in order."""
    file = store / "runs" / NAME / "events.jsonl"
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


def finish(store: Path, *settings: str) -> dict[str, Any]:
    """Run to the end; the report."""
    done = subprocess.run(
        command(store, *settings), cwd=store.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report: dict[str, Any] = json.loads((store / "runs" / NAME / "report.json").read_text())
    return report
