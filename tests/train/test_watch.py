from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.data.blocks import BlockReader, write_blocks
from msm_ray.data.order import EpochOrder
from msm_ray.data.packing import BlockArrays
from msm_ray.train.backends import make_backend
from msm_ray.train.checkpoint import Checkpoints, Plan
from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.loop import Extras, train
from msm_ray.train.metrics import Metrics
from msm_ray.train.model import init_model
from msm_ray.train.pretrain import pack_texts
from msm_ray.train.ranks import Ranks
from msm_ray.train.watch import (
    QUIET_STEPS,
    TrainingDiverged,
    diverged,
    documents_of,
    spike_limit,
    what_is_wrong,
)

LEARNS = TrainConfig(1e-2, 0.9, 0.95, 0.1, 1.0, 0.1, "constant", 1.0, 8, 4.0, (), "fp32", 0)


def test_the_limit_is_the_median_and_the_wider_of_two_margins() -> None:
    assert spike_limit([3.0] * 60, 2.0) == 5.0
    wide = [2.0, 4.0] * 30  # median 3, deviations of 1
    assert spike_limit(wide, 2.0) == 13.0
    # only the last 50 count
    assert spike_limit([100.0] * 60 + [3.0] * 50, 2.0) == 5.0


@given(st.lists(st.floats(0, 20), max_size=QUIET_STEPS - 1), st.floats(0.1, 5))
def test_the_first_steps_are_left_alone(losses: list[float], nats: float) -> None:
    assert spike_limit(losses, nats) == math.inf


@given(st.lists(st.floats(0, 20), min_size=QUIET_STEPS, max_size=99), st.floats(0, 1e6))
def test_without_a_margin_there_is_no_limit_but_numbers_stay_finite(
    losses: list[float], loss: float
) -> None:
    assert what_is_wrong(losses, loss, 1.0, 0.0) is None
    for bad in (math.nan, math.inf):
        assert what_is_wrong(losses, bad, 1.0, 0.0) is not None
        assert what_is_wrong(losses, loss, bad, 0.0) is not None


@given(st.lists(st.floats(0, 20), min_size=QUIET_STEPS, max_size=99), st.floats(0.1, 5))
def test_a_loss_as_seen_before_the_median_is_no_spike(losses: list[float], nats: float) -> None:
    assert what_is_wrong(losses, float(np.median(losses[-50:])), 1.0, nats) is None


def test_the_error_names_all_that_is_asked(tmp_path: Path) -> None:
    documents = [f"docs/{i}" for i in range(9)]
    good = tmp_path / "step-00000004"
    error = diverged("loss nan, gradient norm 1.0", 7, 30, 1e-3, documents, tmp_path, good)
    text = str(error)
    assert text.startswith("step 7 of 30: loss nan, gradient norm 1.0 at learning rate 0.001;")
    assert "docs/0, docs/1, docs/2, docs/3, docs/4, ... (9 in all" in text
    assert f"last good checkpoint: {good}" in text
    assert "\n" not in text
    kept = json.loads((tmp_path / "diverged-step-7.json").read_text())
    assert kept["documents"] == documents
    short = str(diverged("x", 1, 2, 1.0, ["a/1"], None, None))
    assert "documents of the batch: a/1; last good checkpoint: none was written" in short


def test_a_run_whose_weights_blow_up_is_stopped(
    tmp_path: Path, blocks_dir: Path, tokenizer: Any, arch: dict[str, Any]
) -> None:
    """The learning rate is so high that a loss jumps, long before it is no number any more."""
    wild = replace(LEARNS, learning_rate=3.0, max_grad_norm=1e6, warmup_fraction=1.0, epochs=20.0)
    backend = make_backend(init_model(arch, tokenizer, 0), wild, TrainRuntime())
    checkpoints = Checkpoints(tmp_path / "checkpoints", {}, Plan(steps=3), Ranks())
    extras = Extras(checkpoints, Metrics(tmp_path / "metrics"), spike_nats=2.0, folder=tmp_path)
    with pytest.raises(TrainingDiverged, match="counts as a spike") as caught:
        train(backend, BlockReader(blocks_dir), wild, None, extras)
    text = str(caught.value)
    step = int(text.split()[1])
    assert step > QUIET_STEPS
    good = checkpoints.newest(below=step - 1)
    assert good is not None
    assert f"last good checkpoint: {good};" in text
    kept = json.loads((tmp_path / f"diverged-step-{step}.json").read_text())
    reader = BlockReader(blocks_dir)
    order = EpochOrder(len(reader), wild.seed).take((step - 1) * 8, step * 8)
    assert kept["documents"] == documents_of(reader, order)
    assert len(kept["documents"]) >= 8


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_no_number_stops_the_run(
    value: float, tmp_path: Path, blocks_dir: Path, tokenizer: Any, arch: dict[str, Any]
) -> None:
    backend: Any = make_backend(init_model(arch, tokenizer, 0), LEARNS, TrainRuntime())
    checkpoints = Checkpoints(tmp_path / "checkpoints", {}, Plan(steps=1), Ranks())

    def poison(step: int, steps: int, facts: dict[str, float]) -> None:
        if step == 6:
            with torch.no_grad():
                next(backend.model.parameters())[3] = value

    with pytest.raises(TrainingDiverged, match=r"step 7 of \d+: loss nan") as caught:
        train(backend, BlockReader(blocks_dir), LEARNS, poison, Extras(checkpoints))
    # That of step 6 was written after the poison: step 7 is what shows that it is no good.
    assert f"last good checkpoint: {tmp_path / 'checkpoints' / 'step-00000005'};" in str(
        caught.value
    )


def test_a_poisoned_block_is_found_by_its_documents(
    tmp_path: Path, tokenizer: Any, texts: list[str], arch: dict[str, Any]
) -> None:
    """One block of one token that no text has, a block a step: its step is a spike."""
    blocks = pack_texts(texts, tokenizer, 32)
    n = len(blocks.tokens)
    at = 80
    block = int(EpochOrder(n, 0).take(at, at + 1)[0])
    ids = blocks.input_ids.copy()
    ids[block] = tokenizer.unk_token_id
    rest = (blocks.position_ids, blocks.loss_mask, blocks.tokens, blocks.sources)
    write_blocks(tmp_path, BlockArrays(ids, *rest), {})
    run = replace(LEARNS, batch_blocks=1, epochs=1.0)
    backend = make_backend(init_model(arch, tokenizer, 0), run, TrainRuntime())
    reader = BlockReader(tmp_path)
    losses: list[float] = []
    with pytest.raises(TrainingDiverged) as caught:
        train(
            backend,
            reader,
            run,
            lambda step, steps, facts: losses.append(facts["loss"]),
            Extras(spike_nats=2.0),
        )
    text = str(caught.value)
    assert len(losses) == at
    assert text.startswith(f"step {at + 1} of {n}: loss ")
    assert f"documents of the batch: {documents_of(reader, [block])[0]}" in text
    assert "last good checkpoint: none was written" in text
