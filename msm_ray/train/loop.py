"""The loop. Pretraining, midtraining and fine-tuning differ in what they pass to it only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msm_ray.data.blocks import BlockReader
from msm_ray.data.order import EpochOrder, WindowedOrder
from msm_ray.data.stream import StreamReader, wait_for_blocks
from msm_ray.errors import UserError
from msm_ray.train.backends.base import Backend
from msm_ray.train.checkpoint import Checkpoints
from msm_ray.train.config import TrainConfig
from msm_ray.train.history import History
from msm_ray.train.metrics import Metrics, Pace
from msm_ray.train.objective import Batch, make_batch
from msm_ray.train.schedule import learning_rate
from msm_ray.train.segment import Segment
from msm_ray.train.sources import SourceLoss
from msm_ray.train.watch import TrainingDiverged, diverged, documents_of, what_is_wrong

OnStep = Callable[[int, int, dict[str, float]], None]
SOURCE_STEPS = 10  # between two losses by source: each asks all ranks


@dataclass
class Extras:
    """What goes on around the steps; without any of it the loop only trains.

    ``metrics`` only on rank 0; the others on every rank. ``folder`` takes what a run that diverges
    leaves behind.
    """

    checkpoints: Checkpoints | None = None
    metrics: Metrics | None = None
    sources: SourceLoss | None = None
    pace: Pace = field(default_factory=Pace)
    spike_nats: float = 0.0
    folder: Path | None = None

    def after_step(
        self,
        backend: Backend,
        history: History,
        steps: int,
        indices: NDArray[np.int64],
        batch: Batch,
        facts: dict[str, Any],
    ) -> None:
        """Write the step down; ``facts`` get what is to be shown besides."""
        line = dict(facts) | {"seconds": history.seconds}
        if self.sources and backend.target_nats_BT is not None:
            mine = indices[backend.rank :: backend.world_size]
            self.sources.add(mine, batch, backend.target_nats_BT)
            if history.steps % SOURCE_STEPS == 0 or history.steps == steps:
                line["loss_by_source"] = self.sources.take()
        if self.metrics:
            self.metrics.step(history.steps, line)
            if self.metrics.last_checkpoint is not None:
                facts["checkpoint"] = self.metrics.last_checkpoint

    def stopped(
        self, reason: str, step: int, steps: int, learning_rate: float, documents: list[str]
    ) -> TrainingDiverged:
        """The error for a step that went wrong. Every rank calls it."""
        good = None
        if self.checkpoints:
            self.checkpoints.close()
            # The weights after step N are known to be good when step N + 1 has gone well.
            good = self.checkpoints.newest(below=step - 1)
        folder = self.folder if self.metrics else None
        return diverged(reason, step, steps, learning_rate, documents, folder, good)


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


def _check_enough(reader: BlockReader, blocks: int, config: TrainConfig) -> None:
    """A budget's mixture may come out a few blocks short: its first ones are then read again.

    No more than a batch of them: what is missing beyond that was refused, and is told.
    """
    there = blocks_of(reader)
    if blocks - blocks_in_run(there, config) > config.batch_blocks:
        raise UserError(
            f"training: a budget of {blocks} blocks, and the mixture came out as {there}; ask for "
            "fewer tokens, or see what was refused of it"
        )


def order_of(reader: BlockReader, config: TrainConfig) -> EpochOrder | WindowedOrder:
    """The order in which blocks are read; the same while they are being written and afterwards."""
    if reader.by_window:
        return WindowedOrder(reader, config.seed, config.shuffle)
    return EpochOrder(len(reader), config.seed, config.shuffle)


def train(
    backend: Backend,
    reader: BlockReader,
    config: TrainConfig,
    on_step: OnStep | None = None,
    extras: Extras | None = None,
    segment: Segment | None = None,
) -> History:
    """Train over the blocks of ``reader``; the weights stay in the backend.

    Where the reader is a ``StreamReader``, each step waits until its blocks are committed.

    The gradient of a step is that of the mean loss over the targets of the global batch, whatever
    the number of ranks and micro-batches. Block order and learning rate depend on the step alone,
    so that a run that goes on from a checkpoint is the run it was. ``on_step(step, steps, {"loss",
    "learning_rate", "grad_norm", "tokens", ...})`` is called on every rank after each step.

    ``segment``: a part of a training instead of all of it; one that does not begin with the first
    step goes on from the trunk that ``extras.checkpoints`` knows.

    Raises :class:`TrainingDiverged` on a step that is not a finite number, or a spike.
    """
    extras = extras or Extras()
    whole = blocks_in_run(blocks_of(reader), config)
    part = segment or Segment.whole(whole, config)
    blocks, steps = part.blocks, part.steps(config.batch_blocks)
    _check_enough(reader, blocks, config)
    order = order_of(reader, config)
    share = config.batch_blocks // backend.world_size
    history = extras.checkpoints.resume(backend) if extras.checkpoints else History()
    if history.steps_before != part.start:
        raise UserError(
            f"training: it is to go on after step {part.start}, and the trunk that it is given "
            f"ends after step {history.steps_before}"
        )
    if extras.metrics:
        extras.metrics.start(history.steps)
    extras.pace.start(history)
    started = time.perf_counter() - history.seconds - history.waited
    for step in range(history.steps, steps):
        first = step * config.batch_blocks
        stop = min(first + config.batch_blocks, blocks)
        if isinstance(reader, StreamReader):
            waiting = time.perf_counter()
            wait_for_blocks(reader, stop)
            history.waited += time.perf_counter() - waiting
        indices = order.take(first, stop)
        targets = int(reader.loss_tokens[indices].sum())
        rate = learning_rate(step, steps, config, part.warmup)
        batch = rank_batch(reader, indices, backend.rank, backend.world_size, share)
        nats, grad_norm = backend.step(batch, rate, max(1, targets))
        loss = nats / max(1, targets)
        reason = what_is_wrong(history.loss, loss, grad_norm, extras.spike_nats)
        if reason:
            raise extras.stopped(reason, step + 1, steps, rate, documents_of(reader, indices))
        history.loss.append(loss)
        history.learning_rate.append(rate)
        history.grad_norm.append(grad_norm)
        history.tokens += int(reader.tokens[indices].sum())
        history.loss_tokens += targets
        history.seconds = time.perf_counter() - started - history.waited
        facts: dict[str, Any] = {
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": grad_norm,
            "tokens": history.tokens,
            **extras.pace.facts(history, steps),
        }
        extras.after_step(backend, history, steps, indices, batch, facts)
        if on_step is not None:
            on_step(step + 1, steps, facts)
        if extras.checkpoints:
            extras.checkpoints.after_step(backend, history, int(first + len(indices)))
    if extras.checkpoints:
        extras.checkpoints.close()
    return history
