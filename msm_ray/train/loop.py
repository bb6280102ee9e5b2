"""The loop. Pretraining, midtraining and fine-tuning differ in what they pass to it only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msm_ray.data.blocks import BlockReader
from msm_ray.data.order import EpochOrder, WindowedOrder
from msm_ray.data.stream import StreamReader, wait_for_blocks
from msm_ray.errors import UserError
from msm_ray.train.backends.base import Backend
from msm_ray.train.config import TrainConfig
from msm_ray.train.objective import Batch, make_batch
from msm_ray.train.schedule import learning_rate

OnStep = Callable[[int, int, dict[str, float]], None]


class TrainingDiverged(RuntimeError):
    """The loss or the gradient is no longer a finite number."""


@dataclass
class History:
    """What a run did, step by step: ``loss`` in nats per target, before the step's update."""

    loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    tokens: int = 0  # trained on, padding not counted
    loss_tokens: int = 0
    seconds: float = 0.0  # without those it waited for blocks
    waited: float = 0.0

    @property
    def steps(self) -> int:
        """Steps done."""
        return len(self.loss)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all ranks together, over the loop's own time."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    def curve(self, points: int = 200) -> list[list[float]]:
        """At most ``points`` pairs [step, mean loss of the steps since the pair before]."""
        edges = np.linspace(0, self.steps, min(points, self.steps) + 1).round().astype(int)
        return [
            [end, float(np.mean(self.loss[begin:end]))] for begin, end in pairwise(edges.tolist())
        ]


def blocks_in_run(blocks: int, config: TrainConfig) -> int:
    """How many blocks a run reads: ``round(epochs * blocks)``, at least one."""
    return max(1, round(config.epochs * blocks))


def steps_in_run(blocks: int, config: TrainConfig) -> int:
    """How many steps a run over ``blocks`` blocks takes."""
    return math.ceil(blocks_in_run(blocks, config) / config.batch_blocks)


def rank_batch(
    reader: BlockReader, indices: NDArray[np.int64], rank: int, world_size: int, blocks: int
) -> Batch:
    """This rank's blocks of the global batch ``indices``: every ``world_size``-th.

    Always ``blocks`` of them: where the last batch of a run has fewer, empty blocks (no targets)
    stand in, so that shapes stay the same and ranks stay in step.
    """
    mine = indices[rank::world_size]
    columns = []
    for name in ("input_ids", "position_ids", "loss_mask"):
        rows = reader.rows(name, mine)
        padding = np.zeros((blocks - len(rows), reader.block_tokens), dtype=rows.dtype)
        columns.append(np.concatenate([rows, padding]))
    return make_batch(*columns)


def blocks_of(reader: BlockReader) -> int:
    """How many blocks ``reader`` has, or will have."""
    if reader.planned is None:
        raise UserError(
            f"{reader.directory}: how many blocks there will be is not known: the learning rate's "
            "schedule needs it; wait for the end of the stream"
        )
    return reader.planned


def order_of(reader: BlockReader, config: TrainConfig) -> EpochOrder | WindowedOrder:
    """The order in which blocks are read; the same while they are being written and afterwards."""
    if reader.by_window:
        return WindowedOrder(reader, config.seed, config.shuffle)
    return EpochOrder(len(reader), config.seed, config.shuffle)


def train(
    backend: Backend, reader: BlockReader, config: TrainConfig, on_step: OnStep | None = None
) -> History:
    """Train over the blocks of ``reader``; the weights stay in the backend.

    Where the reader is a ``StreamReader``, each step waits until its blocks are committed.

    The gradient of a step is that of the mean loss over the targets of the global batch, whatever
    the number of ranks and micro-batches. ``on_step(step, steps, {"loss", "learning_rate",
    "tokens", ...})`` is called on every rank after each step.
    """
    blocks = blocks_in_run(blocks_of(reader), config)
    steps = steps_in_run(blocks_of(reader), config)
    order = order_of(reader, config)
    share = config.batch_blocks // backend.world_size
    history = History()
    started = time.perf_counter()
    for step in range(steps):
        first = step * config.batch_blocks
        stop = min(first + config.batch_blocks, blocks)
        if isinstance(reader, StreamReader):
            waiting = time.perf_counter()
            wait_for_blocks(reader, stop)
            history.waited += time.perf_counter() - waiting
        indices = order.take(first, stop)
        targets = int(reader.loss_tokens[indices].sum())
        rate = learning_rate(step, steps, config)
        batch = rank_batch(reader, indices, backend.rank, backend.world_size, share)
        nats, grad_norm = backend.step(batch, rate, max(1, targets))
        loss = nats / max(1, targets)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise TrainingDiverged(
                f"step {step + 1} of {steps}: loss {loss}, gradient norm {grad_norm} at learning "
                f"rate {rate:g}; a lower learning_rate or max_grad_norm may help"
            )
        history.loss.append(loss)
        history.learning_rate.append(rate)
        history.grad_norm.append(grad_norm)
        history.tokens += int(reader.tokens[indices].sum())
        history.loss_tokens += targets
        history.seconds = time.perf_counter() - started - history.waited
        if on_step is not None:
            facts: dict[str, Any] = {
                "loss": loss,
                "learning_rate": rate,
                "tokens": history.tokens,
                "tokens_per_second": history.tokens_per_second,
            }
            on_step(step + 1, steps, facts)
    return history
