from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.history import History
from msm_ray.train.metrics import Metrics, Pace
from msm_ray.train.pretrain import pretrain


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return [(event.step, event.value) for event in found.Scalars(tag)]


def test_a_repeated_step_stands_there_once(tmp_path: Path) -> None:
    first = Metrics(tmp_path)
    first.start(0)
    for step in range(1, 8):
        first.step(step, {"loss": float(step), "loss_by_source": {"a": 2.0 * step}})
    first.event("checkpoint", step=4)
    first.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')  # the process was killed here
    second = Metrics(tmp_path)
    second.event("damaged", checkpoint="step-00000006")
    second.start(4)
    for step in range(5, 10):
        second.step(step, {"loss": 10.0 * step})
    second.close()
    (tmp_path / "out").mkdir()
    lines = read(tmp_path)
    steps = [line for line in lines if "event" not in line]
    assert [line["step"] for line in steps] == list(range(1, 10))
    assert [line["loss"] for line in steps] == [1.0, 2.0, 3.0, 4.0, 50.0, 60.0, 70.0, 80.0, 90.0]
    assert [line["event"] for line in lines if "event" in line] == [
        "start",
        "checkpoint",
        "damaged",
        "start",
    ]
    second.copy_to(tmp_path / "out")
    second.copy_to(tmp_path / "out")  # the attempt before was killed while it did so
    assert read(tmp_path / "out") == lines
    assert scalars(tmp_path, "loss") == [(line["step"], line["loss"]) for line in steps]
    assert scalars(tmp_path, "loss_by_source/a") == [(s, 2.0 * s) for s in range(1, 5)]


def test_the_pace_is_that_of_the_last_steps() -> None:
    pace = Pace(flops_per_token=10.0, peak=1e4)
    history = History()
    pace.start(history)
    facts = {}
    for step in range(1, 41):  # half of them ten times as slow
        history.loss.append(0.0)
        history.tokens += 100
        history.seconds += 1.0 if step <= 20 else 0.1
        facts = pace.facts(history, 60)
    assert facts["tokens_per_second"] == pytest.approx(1000)
    assert facts["mfu"] == pytest.approx(1.0)
    assert facts["seconds_left"] == pytest.approx(2.0)
    without = Pace()
    without.start(history)
    assert "mfu" not in without.facts(history, 60)


def test_a_run_leaves_what_it_measured(
    tmp_path: Path, tokenizer_dir: Path, arch: dict[str, Any], blocks_dir: Path, config: TrainConfig
) -> None:
    shown: list[dict[str, float]] = []
    pretrain(
        arch,
        blocks_dir,
        replace(config, epochs=2.0),
        tokenizer_dir=tokenizer_dir,
        block_tokens=32,
        out=tmp_path,
        runtime=TrainRuntime(checkpoint_steps=10),
        on_step=lambda step, steps, facts: shown.append(facts),
    )
    record = json.loads((tmp_path / "training.json").read_text())
    lines = read(tmp_path)
    steps = [line for line in lines if "event" not in line]
    assert [line["loss"] for line in steps] == record["loss"]
    assert [line["grad_norm"] for line in steps] == record["grad_norm"]
    assert set(steps[0]) == {
        "step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "mfu",
        "seconds", "seconds_left",
    }  # fmt: skip
    assert all(0 < line["mfu"] < 1.5 for line in steps)  # the peak is measured, on a busy machine
    # one component only: its loss is that of the last ten steps, each weighted by its targets
    by_source = [line for line in steps if "loss_by_source" in line]
    assert [line["step"] for line in by_source] == [*range(10, len(steps), 10), len(steps)]
    for line in by_source:
        assert set(line["loss_by_source"]) == {"pretraining"}
        window = [
            s["loss"] for s in steps if 10 * ((line["step"] - 1) // 10) < s["step"] <= line["step"]
        ]
        assert min(window) <= line["loss_by_source"]["pretraining"] <= max(window)
    written = [line["step"] for line in lines if line.get("event") == "checkpoint"]
    assert written == [10, 20]
    assert shown[20]["checkpoint"] >= 10  # committed at the latest when the next one begins
    assert shown[-1]["seconds_left"] == 0
    assert len(scalars(tmp_path, "loss")) == len(steps)
