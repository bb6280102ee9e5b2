"""Stage functions for the tests of stages, and a driver process that a test can kill.

``python stage_samples.py STORE LOG SECONDS`` runs the graph below with its stages in threads.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from msm_ray.artifact import Store
from msm_ray.errors import UserError
from msm_ray.observe import Observer
from msm_ray.stage import LocalLauncher, Stage, StageContext, run_dag


def stage(
    label: str, inputs: dict[str, Stage] | None = None, run: str = "digest", **runtime: Any
) -> Stage:
    """A stage of this module whose content follows from ``label`` and its inputs."""
    return Stage(
        kind="sample",
        version="1",
        config={"label": label},
        inputs=inputs or {},
        run=f"stage_samples:{run}",
        label=label,
        runtime=runtime,
        estimate={"seconds": float(runtime.get("seconds", 0.1))},
    )


def digest(ctx: StageContext) -> dict[str, Any]:
    """Write files that depend on config and inputs alone; note in ``runtime["log"]`` that it ran.

    Takes ``runtime["seconds"]``, in ten steps that are kept in ``work`` as a real stage would.
    """
    if "log" in ctx.runtime:
        descriptor = os.open(ctx.runtime["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{ctx.config['label']}\n".encode())
        os.close(descriptor)
    state = hashlib.sha256(ctx.config["label"].encode())
    for name in sorted(ctx.inputs):
        state.update((ctx.inputs[name] / "a.bin").read_bytes())
        state.update((ctx.inputs[name] / "deep" / "b.txt").read_bytes())
    steps = 10
    done = len(list(ctx.work.glob("step-*")))
    for step in range(done, steps):
        time.sleep(float(ctx.runtime.get("seconds", 0.0)) / steps)
        (ctx.work / f"step-{step}").touch()
        ctx.progress((step + 1) / steps, {"step": step})
    (ctx.out / "a.bin").write_bytes(state.digest() * 1000)
    (ctx.out / "deep").mkdir()
    (ctx.out / "deep" / "b.txt").write_text(state.hexdigest(), encoding="utf-8")
    return {"steps_resumed": done, "digest": state.hexdigest()}


def fail(ctx: StageContext) -> dict[str, Any]:
    """A stage that is wrong."""
    raise ValueError(f"no such thing as {ctx.config['label']}\nsecond line")


def full(ctx: StageContext) -> dict[str, Any]:
    """A stage that meets a full disk, in the words of a library."""
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise RuntimeError("could not serialize") from error


def nan(ctx: StageContext) -> dict[str, Any]:
    """A stage whose facts cannot be recorded."""
    return {"loss": float("nan")}


def leave(ctx: StageContext) -> dict[str, Any]:
    """A stage that ends the process it thinks it owns."""
    raise SystemExit(3)


def graph(log: str, seconds: float = 0.0) -> list[Stage]:
    """Ten stages: three sources, three on each pair of them, three ends and one that joins."""
    options = {"log": log, "seconds": seconds}
    sources = [stage(f"s{i}", **options) for i in range(3)]
    pairs = [
        stage(f"p{i}", {"a": sources[i], "b": sources[(i + 1) % 3]}, **options) for i in range(3)
    ]
    ends = [stage(f"e{i}", {"a": pairs[i]}, where="driver", **options) for i in range(3)]
    return [stage("join", {f"e{i}": end for i, end in enumerate(ends)}, **options)]


def main() -> None:
    """Run `graph` and print ids and contents, sorted."""
    store = Store(sys.argv[1])
    observer = Observer()
    sys.modules["stage_samples"] = sys.modules["__main__"]
    launcher = LocalLauncher(observer.progress)
    records = run_dag(graph(sys.argv[2], float(sys.argv[3])), store, launcher, observer, cpus=3)
    for id, record in sorted(records.items()):
        files = " ".join(f"{file.path}:{file.sha256}" for file in record.files)
        contents = hashlib.sha256(b"".join(_contents(store.fetch(id)))).hexdigest()
        print(id, files, contents)


def _contents(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()]


if __name__ == "__main__":
    main()


def lacking(ctx: StageContext) -> dict[str, Any]:
    """A stage whose package is not installed on the machine that runs it."""
    raise ModuleNotFoundError("No module named 'deepspeed'", name="deepspeed")


def refuse(ctx: StageContext) -> dict[str, Any]:
    """A stage that finds the user's input wrong."""
    raise UserError(f"{ctx.config['label']} is not allowed")
