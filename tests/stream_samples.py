"""Stages that follow one another's streams, and a driver process that a test can kill.

``python stream_samples.py STORE FOLDER`` runs the three stages of `chain` in threads.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from msm_ray.artifact import Store
from msm_ray.data.feed import FeedWriter, follow
from msm_ray.observe import Observer
from msm_ray.stage import LocalLauncher, Stage, StageContext, run_dag

ROWS = 20


def chain(folder: Path, run: str = "count", **runtime: Any) -> list[Stage]:
    """A stage that counts to ROWS, one that doubles as it goes, and one that adds up."""
    options = {"folder": str(folder), **runtime}
    first = _stage(run, {}, options)
    second = _stage("double", {"numbers": first}, options)
    return [first, second, _stage("add_up", {"numbers": second}, options)]


def _stage(run: str, inputs: dict[str, Stage], runtime: dict[str, Any]) -> Stage:
    return Stage(
        kind="numbers",
        version="1",
        config={"does": "count" if run.startswith("count") else run},
        inputs=inputs,
        run=f"stream_samples:{run}",
        label=run.split("_and")[0],
        runtime=runtime,
        streams=frozenset(inputs),
    )


def _event(ctx: StageContext, text: str) -> None:
    with (Path(ctx.runtime["folder"]) / "events").open("a") as file:
        file.write(f"{text}\n")


def _wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(path)
        time.sleep(0.01)


def count(ctx: StageContext) -> dict[str, Any]:
    """Publish 0, 1, ...; after half of them wait for the file ``runtime["until"]``, if given."""
    feed = FeedWriter(ctx.stream)
    _event(ctx, f"count from {feed.rows}")
    while feed.rows < ROWS:
        feed.add([{"number": feed.rows}])
        if feed.rows == ROWS // 2 and "until" in ctx.runtime:
            _wait_for(Path(ctx.runtime["folder"]) / ctx.runtime["until"])
    feed.close()
    _write(ctx, list(range(ROWS)))
    _event(ctx, "count ends")
    return {}


def count_and_fail(ctx: StageContext) -> dict[str, Any]:
    """Publish half, wait until somebody has read it, fail."""
    feed = FeedWriter(ctx.stream)
    feed.add([{"number": number} for number in range(ROWS // 2)])
    _wait_for(Path(ctx.runtime["folder"]) / "read-9")
    raise ValueError("no number after 9")


def count_and_forget(ctx: StageContext) -> dict[str, Any]:
    """Publish half and write all."""
    FeedWriter(ctx.stream).add([{"number": number} for number in range(ROWS // 2)])
    _wait_for(Path(ctx.runtime["folder"]) / "read-9")
    _write(ctx, list(range(ROWS)))
    return {}


def double(ctx: StageContext) -> dict[str, Any]:
    """Twice each number, published as well."""
    feed = FeedWriter(ctx.stream)
    _event(ctx, f"double from {feed.rows}")
    numbers = []
    for number in _numbers(ctx):
        numbers.append(2 * number)
        (Path(ctx.runtime["folder"]) / f"read-{number}").touch()
        if len(numbers) > feed.rows:
            feed.add([{"number": 2 * number}])
    feed.close()
    _write(ctx, numbers)
    return {}


def add_up(ctx: StageContext) -> dict[str, Any]:
    """The sum."""
    total = 0
    for number in _numbers(ctx):
        total += number
        (Path(ctx.runtime["folder"]) / f"added-{number}").touch()
    (ctx.out / "sum").write_text(str(total))
    return {}


def _numbers(ctx: StageContext) -> Any:
    if "numbers" in ctx.live:
        for rows in follow(ctx.inputs["numbers"]):
            yield from (row["number"] for row in rows)
    else:
        yield from map(int, (ctx.inputs["numbers"] / "numbers").read_text().split())


def _write(ctx: StageContext, numbers: list[int]) -> None:
    (ctx.out / "numbers").write_text(" ".join(map(str, numbers)))


def main() -> None:
    """Run `chain`; the first stage waits half way for the file ``go``."""
    sys.modules["stream_samples"] = sys.modules["__main__"]
    observer = Observer()
    stages = chain(Path(sys.argv[2]), until="go")
    run_dag(stages[2:], Store(sys.argv[1]), LocalLauncher(observer.progress), observer, cpus=3)


if __name__ == "__main__":
    main()
