"""Placing stages on Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from stage_samples import stage
from test_stage import Told

from msm_ray import runtime
from msm_ray.artifact import Store
from msm_ray.errors import UnusablePlace, UserError
from msm_ray.stage import run_dag


@pytest.mark.ray
def test_a_stage_that_no_machine_can_hold_is_an_error_not_a_wait(
    ray_cluster: None, tmp_path: Path
) -> None:
    told = Told()
    launcher = runtime.RayLauncher(told.progress)
    try:
        for wide in ({"cpus": 2, "ray_cpus": 64}, {"cpus": 0, "ray_gpus": 1}):
            with pytest.raises(UserError, match=r"sample wide: it needs \d+ CPUs.* no machine of"):
                run_dag([stage("wide", **wide)], Store(tmp_path), launcher, told, cpus=2)
    finally:
        launcher.close()


def test_one_machine_has_to_hold_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    def node(alive: bool = True, **resources: float) -> dict[str, Any]:
        return {"Alive": alive, "Resources": resources}

    nodes = [node(CPU=4), node(CPU=2, GPU=1), node(False, CPU=64, GPU=8), node()]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert runtime._no_place(4, 0) == ""
    assert runtime._no_place(2, 1) == ""
    assert runtime._no_place(4, 1).endswith("at most 4 CPUs, 1 GPUs")
    assert runtime._no_place(5, 0).startswith("it needs 5 CPUs on one machine")


@pytest.mark.parametrize("late", [1, 9])
def test_ray_that_starts_too_slowly_is_started_again(
    late: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine; what starts it is Ray's own, so here it only fails as Ray does."""
    starts: list[int] = []

    def start(**options: object) -> None:
        starts.append(1)
        if len(starts) <= late:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(runtime.ray, "init", start)
    monkeypatch.setattr(runtime.ray, "shutdown", lambda: None)
    if late < runtime.STARTS:
        runtime._start_here({})
        assert len(starts) == late + 1
    else:
        with pytest.raises(UnusablePlace, match="it may be busy: run the same command again"):
            runtime._start_here({})
        assert len(starts) == runtime.STARTS
