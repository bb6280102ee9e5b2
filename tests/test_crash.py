"""kill -9 of the driver in each kind of stage; the same command then ends in the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
# The whole loop at its smallest: one base, one seed, few documents, few steps.
SMALL = [
    "corpus.documents=48",
    "midtrain.tokens=6000",
    "midtrain.max_repeats=50",
    "aft.conversations=32",
    "evaluation.pairs_per_domain=1",
]
KINDS = ["plan", "documents", "blocks", "midtrain", "aft", "evaluate"]
DEADLINE = 300.0


def command(store: Path) -> list[str]:
    settings = [part for s in SMALL for part in ("--set", s)]
    job = str(ROOT / "tests" / "jobs" / "small.py")
    return [sys.executable, "-m", "msm_ray.cli", "run", job, "--store", str(store), *settings]


def started(store: Path) -> list[str]:
    """Kinds of the stages that this store's runs have started, in order."""
    events = store / "runs" / "cheese_micro" / "events.jsonl"
    if not events.exists():
        return []
    lines = [json.loads(line) for line in events.read_text().splitlines() if line.endswith("}")]
    return [e["kind"] for e in lines if e["event"] == "started"]


def kill_in(kind: str, store: Path) -> bool:
    """Run until a stage of ``kind`` starts, then kill -9 the driver. False if it ended before."""
    before = len(started(store))
    driver = subprocess.Popen(
        command(store), cwd=store.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + DEADLINE
    while kind not in started(store)[before:]:
        assert time.monotonic() < deadline, f"no {kind} stage within {DEADLINE} s"
        if driver.poll() is not None:
            return False
        time.sleep(0.05)
    time.sleep(0.4)  # into the stage
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    return True


def finish(store: Path) -> dict[str, Any]:
    done = subprocess.run(command(store), cwd=store.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report: dict[str, Any] = json.loads((store / "runs/cheese_micro/report.json").read_text())
    return report


def artifacts(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(a["id"], a["kind"], a["label"]) for a in report["provenance"]["artifacts"]]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.timeout(1200)
def test_kill_9_in_each_stage_changes_nothing(tmp_path: Path) -> None:
    plain = finish(tmp_path / "plain")

    store = tmp_path / "killed"
    killed = [kind for kind in KINDS if kill_in(kind, store)]
    assert killed == KINDS, f"only killed in {killed}"
    again = finish(store)

    assert again["fingerprint"] == plain["fingerprint"]
    assert artifacts(again) == artifacts(plain)
    for section in ("arms", "effects", "corpus"):
        assert without_speed(again[section]) == without_speed(plain[section])

    # and now nothing is left to do
    third = finish(store)
    assert third["cost"]["stages_run"] == 0
    assert third["effects"] == again["effects"]


def without_speed(value: Any) -> Any:
    """The same value without what a clock measured."""
    if isinstance(value, dict):
        return {k: without_speed(v) for k, v in value.items() if k != "tokens_per_second"}
    return value
