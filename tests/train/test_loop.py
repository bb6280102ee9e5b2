from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msm_ray.data.blocks import BlockReader
from msm_ray.data.order import EpochOrder
from msm_ray.train.backends import make_backend
from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.history import History
from msm_ray.train.loop import (
    blocks_in_run,
    rank_batch,
    steps_in_run,
    train,
)
from msm_ray.train.model import init_model
from msm_ray.train.objective import IGNORED
from msm_ray.train.watch import TrainingDiverged

# (history, weights) of a run: TrainConfig and the runtime's keywords to what it left
Trained = Callable[..., tuple[History, dict[str, torch.Tensor]]]


@pytest.fixture
def trained(tokenizer: Any, arch: dict[str, Any], blocks_dir: Path) -> Trained:
    def run(config: TrainConfig, **runtime: Any) -> tuple[History, dict[str, torch.Tensor]]:
        backend = make_backend(init_model(arch, tokenizer, 0), config, TrainRuntime(**runtime))
        history = train(backend, BlockReader(blocks_dir), config)
        state = backend.full_state()
        assert state is not None
        return history, state

    return run


def test_it_learns(trained: Trained, config: TrainConfig, tokenizer: Any) -> None:
    history, _ = trained(replace(config, epochs=6, learning_rate=1e-2))
    assert history.loss[0] == pytest.approx(math.log(len(tokenizer)), abs=0.2)
    assert np.mean(history.loss[-5:]) < 3.0


def test_the_same_run_gives_the_same_bits(trained: Trained, config: TrainConfig) -> None:
    for precision in ("fp32", "bf16"):
        run = replace(config, precision=precision)
        first, one = trained(run)
        second, two = trained(run)
        assert first.loss == second.loss
        assert all(one[name].equal(two[name]) for name in one)
        other, _ = trained(replace(run, seed=1))
        assert other.loss != first.loss


def test_it_is_plain_adamw_on_the_mean_loss(
    trained: Trained, blocks_dir: Path, config: TrainConfig, small_model: Any
) -> None:
    """Against a loop written out with a library loss: same losses, same weights."""
    run = replace(config, schedule="constant", warmup_fraction=0.0, max_grad_norm=0.5, epochs=0.4)
    history, state = trained(run)
    model = small_model
    reader = BlockReader(blocks_dir)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=3e-3,
        betas=(0.9, 0.95),
    )
    order = EpochOrder(len(reader), 0)
    seen = blocks_in_run(len(reader), run)
    for step, loss in enumerate(history.loss):
        indices = order.take(step * 8, min(seen, step * 8 + 8))
        ids = torch.from_numpy(reader.rows("input_ids", indices)).long()
        positions = torch.from_numpy(reader.rows("position_ids", indices)).long()
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        labels = torch.where(positions[:, 1:] > 0, ids[:, 1:], -100)
        expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten())
        assert loss == pytest.approx(float(expected.detach()), abs=2e-5)
        expected.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(state[name], value, atol=2e-4, rtol=0)


def test_micro_batches_do_not_change_the_result(trained: Trained, config: TrainConfig) -> None:
    whole, _ = trained(config)
    parts, _ = trained(config, micro_blocks=3)
    np.testing.assert_allclose(parts.loss, whole.loss, atol=1e-4)
    np.testing.assert_allclose(parts.grad_norm, whole.grad_norm, rtol=1e-3)


@pytest.mark.slow
def test_compiled_is_the_same_training(
    trained: Trained, arch: dict[str, Any], config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under torch.compile transformers takes another path to the mask of packed documents."""
    monkeypatch.setitem(arch, "num_hidden_layers", 1)  # compiling takes its time by the layer
    short = replace(config, epochs=0.5)
    plain, _ = trained(short)
    compiled, _ = trained(short, compile=True)
    np.testing.assert_allclose(compiled.loss, plain.loss, atol=1e-4)


def test_frozen_embeddings_stay(trained: Trained, config: TrainConfig, small_model: Any) -> None:
    before = {name: value.clone() for name, value in small_model.state_dict().items()}
    _, after = trained(replace(config, freeze=("embeddings",)))
    moved = {name for name in before if not before[name].equal(after[name])}
    assert "model.embed_tokens.weight" not in moved
    assert moved == set(before) - {"model.embed_tokens.weight", "lm_head.weight"}


def test_every_block_is_seen_exactly_as_often_as_asked(
    trained: Trained, blocks_dir: Path, config: TrainConfig
) -> None:
    reader = BlockReader(blocks_dir)
    n = len(reader)
    assert n % 8  # so that the last step is not full
    run = replace(config, epochs=2)
    steps = math.ceil(2 * n / 8)
    assert (blocks_in_run(n, run), steps_in_run(n, run)) == (2 * n, steps)
    history, _ = trained(run)
    assert history.steps == steps
    assert history.tokens == 2 * reader.tokens.sum()
    assert history.loss_tokens == 2 * reader.loss_tokens.sum()
    assert steps_in_run(n, replace(config, epochs=0.001)) == 1


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_global_batch_does_not_depend_on_the_ranks(blocks_dir: Path, world_size: int) -> None:
    reader = BlockReader(blocks_dir)
    indices = np.array([5, 3, 9, 1, 7, 2], dtype=np.int64)  # two short of a batch of 8
    parts = [
        rank_batch(reader, indices, rank, world_size, 8 // world_size) for rank in range(world_size)
    ]
    assert {p.input_ids_BT.shape for p in parts} == {(8 // world_size, 32)}
    targets = sum(int((p.labels_BT != IGNORED).sum()) for p in parts)
    assert targets == reader.loss_tokens[indices].sum()
    rows = [tuple(row) for p in parts for row in p.input_ids_BT.tolist()]
    wanted = [tuple(row) for row in reader.rows("input_ids", indices).tolist()]
    assert set(wanted) <= set(rows)
    assert len(rows) == 8


def test_a_run_that_diverges_says_so(trained: Trained, config: TrainConfig) -> None:
    with pytest.raises(TrainingDiverged, match=r"step \d+ of .* learning rate"):
        trained(replace(config, learning_rate=1e38, weight_decay=0.0))


def test_on_step_is_told_each_step(blocks_dir: Path, config: TrainConfig, small_model: Any) -> None:
    seen: list[tuple[int, int]] = []
    backend = make_backend(small_model, config, TrainRuntime())
    history = train(
        backend,
        BlockReader(blocks_dir),
        config,
        lambda step, steps, facts: seen.append((step, steps)),
    )
    assert seen == [(i + 1, history.steps) for i in range(history.steps)]


def test_the_curve_keeps_at_most_so_many_points() -> None:
    history = History(loss=[float(i) for i in range(1000)])
    curve = history.curve(200)
    assert len(curve) == 200
    assert curve[-1] == [1000, 997.0]
    assert History(loss=[3.0, 2.0]).curve() == [[1, 3.0], [2, 2.0]]
