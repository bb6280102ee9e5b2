"""The stages that train a model further on packed blocks: midtraining and AFT alike, and trunks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.segment import Segment
from msm_ray.train.worker import Progress, TrainJob, run

if TYPE_CHECKING:
    from msm_ray.stage import StageContext

PROGRESS_SECONDS = 0.5  # between two reports; a step of a small model takes milliseconds


def train(ctx: StageContext) -> dict[str, Any]:
    """Train ``model`` on ``blocks`` and leave a Hugging Face folder, or with ``lora`` an adapter's.

    Inputs: ``model``, a Hugging Face folder, or an adapter to continue, then with ``base``, the
    folder of the model below it; ``blocks``, the output of the pack stage. Config: the fields of
    :class:`TrainConfig`, and optionally ``save_dtype`` ("fp32" | "bf16"). Runtime: the fields of
    :class:`TrainRuntime`. Leaves the model or adapter, ``training.json``, ``fingerprint.json``,
    ``metrics.jsonl`` and ``tensorboard/``. A killed stage goes on from its last checkpoint.
    The blocks may still be being written.

    A branch has the further input ``trunk``, whose state it goes on from, and in its config
    ``segment``, the fields of :class:`Segment`. Its facts ``tokens``, ``steps``, ``train_seconds``
    and ``curve`` are of the whole path, ``tokens_new``, ``steps_new`` and ``train_seconds_new`` of
    this stage alone. ``read``: tokens of each component of the mixture in the blocks of the path.
    """
    return _train(ctx, keep_state=False)


def train_trunk(ctx: StageContext) -> dict[str, Any]:
    """Train a part of a trunk and leave the training state, which others go on from.

    Inputs and config as of :func:`train` with a ``segment``; the first part has no ``trunk``.
    Leaves a checkpoint (:mod:`msm_ray.train.checkpoint`) of its last step, ``training.json``,
    ``metrics.jsonl`` and ``tensorboard/``, and no model.
    """
    return _train(ctx, keep_state=True)


def _train(ctx: StageContext, keep_state: bool) -> dict[str, Any]:
    values = dict(ctx.config)
    save_dtype = values.pop("save_dtype", "fp32")
    segment = values.pop("segment", None)
    job = TrainJob(
        config=TrainConfig.from_dict(values),
        runtime=TrainRuntime.from_dict(ctx.runtime),
        blocks=str(ctx.inputs["blocks"].absolute()),
        tokenizer=str(ctx.inputs["model"].absolute()),
        out=str(ctx.out.absolute()),
        # outlives a killed process, and is of this stage alone
        work=str((ctx.work / "train").absolute()),
        model=str(ctx.inputs["model"].absolute()),
        base=str(ctx.inputs["base"].absolute()) if "base" in ctx.inputs else None,
        save_dtype=save_dtype,
        live="blocks" in ctx.live,
        segment=None if segment is None else Segment(**segment),
        trunk=str(ctx.inputs["trunk"].absolute()) if "trunk" in ctx.inputs else None,
        keep_state=keep_state,
    )
    return run(job, _now_and_then(ctx.progress))


def _now_and_then(progress: Progress) -> Progress:
    """``progress``, called every half second and at the end, not at every step."""
    last = float("-inf")

    def report(fraction: float, facts: dict[str, Any]) -> None:
        nonlocal last
        now = time.monotonic()
        if fraction >= 1 or now - last >= PROGRESS_SECONDS:
            last = now
            progress(fraction, facts)

    return report
