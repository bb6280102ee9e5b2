"""Midtraining by one process, two FSDP2 ranks and DeepSpeed ZeRO-3, each by one setting."""

from pathlib import Path

import pytest
from whole import finish

COMMON = ("corpus.writer=scripted", "midtrain.train.precision=fp32")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_the_same_losses_whatever_trains(tmp_path: Path) -> None:
    curves = {}
    for backend in ("single", "fsdp2", "deepspeed"):
        setting = f"midtrain_compute.backend={backend}"
        report = finish(tmp_path / backend, *COMMON, setting)
        arm = report["arms"]["msm:america"]["train"]["midtrain"]
        curves[backend] = arm["curves"][0]["points"]
    assert len(curves["single"]) >= 5
    for backend in ("fsdp2", "deepspeed"):
        for (step, one), (same_step, two) in zip(curves["single"], curves[backend], strict=True):
            assert step == same_step
            assert two == pytest.approx(one, abs=1e-3), (backend, step)
