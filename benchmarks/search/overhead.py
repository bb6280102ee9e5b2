"""What a search costs by itself: trials whose stages take no time, 100 and ten times as many.

Writes overhead.json: milliseconds a trial and the driver's memory at every hundredth, one trial at
a time and two; for a search that is begun, and again when all of its trials are found in the store.
Beside them what the same stages take in a loop in one process, with neither Ray nor Tune: claims,
hashes and commits of three new stages a trial. About four minutes.

    PYTHONPATH=benchmarks/search python benchmarks/search/overhead.py
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from msm_ray.artifact import Store
from msm_ray.provenance import machine, versions
from msm_ray.search.job import Search
from msm_ray.search.methods import Method, Random
from msm_ray.search.objectives import Effect, Objective
from msm_ray.search.space import Mixture, Real, Space, with_settings
from msm_ray.search.trial import measure
from msm_ray.stage import Launcher

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
# The processes of trials import the same stages.
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
from instant import Instant  # noqa: E402

LOOK = 100  # trials between two looks at the memory


class Looking(io.TextIOBase):
    """Reads the search's lines: when the n-th trial ended, and what the driver held then."""

    def __init__(self) -> None:
        self.looks: list[dict[str, float]] = []
        self.started = time.monotonic()
        self.first = 0.0

    def write(self, text: str) -> int:
        """Of a line "  N/M trial ..." what the process is at every LOOK-th."""
        if found := re.match(r"  (\d+)/\d+ trial ", text):
            number = int(found[1])
            now = time.monotonic()
            self.first = self.first or now
            if number % LOOK == 0:
                held = psutil.Process().memory_info().rss / 2**20
                self.looks.append(
                    {
                        "trials": number,
                        "ms_a_trial": round(1000 * (now - self.first) / number, 2),
                        "driver_mib": round(held, 1),
                        "all_processes_mib": round(_all_mib(), 1),
                    }
                )
        return len(text)


def _all_mib() -> float:
    """What the driver and all that it started hold of their own."""
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().uss / 2**20
    return total


def search(method: Method, concurrent: int) -> Search:
    """A mixture of three, of which trials in groups share theirs, and a rate."""
    return Search(
        name="instant",
        title="Trials that take no time",
        job=Instant(),
        space=Space(
            (Mixture({"spec": "share"}, rest="replay"), Real("rate", 1e-5, 1e-3, log=True))
        ),
        method=method,
        objectives=(Objective(Effect("gain")),),
        max_concurrent_trials=concurrent,
    )


def measured(method: Method, store: str, concurrent: int) -> dict[str, Any]:
    """One run of a search in a store."""
    looking = Looking()
    with contextlib.redirect_stdout(looking):
        result = search(method, concurrent).run(store)
    found = result.report["search"]
    assert all(trial["state"] == "done" for trial in found["trials"]), "a trial failed"
    return {
        "method": method.name,
        "concurrent": concurrent,
        "trials": len(found["trials"]),
        "wall_seconds": round(time.monotonic() - looking.started, 1),
        "stages": {kind: counts["needed"] for kind, counts in found["sharing"]["by_kind"].items()},
        "looks": looking.looks,
    }


def stages_alone(trials: int, store: str) -> float:
    """Milliseconds a trial of making and measuring them one after the other in this process."""
    of = search(Random(trials), 1)
    points = [Random(trials).suggest(of.space, n, (), 1) for n in range(trials)]
    place = Store(store)
    started = time.monotonic()
    for point in points:
        job = with_settings(of.job, of.space.settings(point.point))
        measure(job, of.measures, place, _no_launcher, 2)
    return round(1000 * (time.monotonic() - started) / trials, 2)


def _no_launcher() -> Launcher:
    raise AssertionError("all stages are the driver's")


def main() -> None:
    """Measure, print and write beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    most = arguments.trials
    record: dict[str, Any] = {"versions": versions(), "machine": machine(), "runs": []}
    with tempfile.TemporaryDirectory() as store:
        record["stages_alone_ms"] = stages_alone(most // 10, store)
        print("stages alone:", record["stages_alone_ms"], "ms a trial", flush=True)
    few, many = Random(most // 10), Random(most)
    for method, concurrent, runs in (
        (few, 1, (False, True)),
        (many, 1, (False,)),
        (many, 2, (False,)),
    ):
        with tempfile.TemporaryDirectory() as store:
            for again in runs:
                one = {**measured(method, store, concurrent), "again": again}
                record["runs"].append(one)
                print(json.dumps(one), flush=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
