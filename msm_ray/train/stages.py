"""The stage that continues training a model on packed blocks: midtraining and AFT alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.worker import TrainJob, run

if TYPE_CHECKING:
    from msm_ray.stage import StageContext


def train(ctx: StageContext) -> dict[str, Any]:
    """Train ``model`` on ``blocks`` and leave a Hugging Face folder.

    Inputs: ``model``, a Hugging Face folder; ``blocks``, the output of the pack stage. Config: the
    fields of :class:`TrainConfig`, and optionally ``save_dtype`` ("fp32" | "bf16"). Runtime: the
    fields of :class:`TrainRuntime`. Leaves the model, ``training.json`` and ``fingerprint.json``.
    """
    values = dict(ctx.config)
    save_dtype = values.pop("save_dtype", "fp32")
    job = TrainJob(
        config=TrainConfig.from_dict(values),
        runtime=TrainRuntime.from_dict(ctx.runtime),
        blocks=str(ctx.inputs["blocks"].absolute()),
        tokenizer=str(ctx.inputs["model"].absolute()),
        out=str(ctx.out.absolute()),
        model=str(ctx.inputs["model"].absolute()),
        save_dtype=save_dtype,
    )
    return run(job, ctx.work / "ray-train", ctx.progress)
