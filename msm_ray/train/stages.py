"""The stage that continues training a model on packed blocks: midtraining and AFT alike."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from msm_ray.train.config import TrainConfig, TrainRuntime
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
    """
    values = dict(ctx.config)
    save_dtype = values.pop("save_dtype", "fp32")
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
