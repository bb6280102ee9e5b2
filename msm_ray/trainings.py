"""The stages that every training is made of, whatever it is trained on: blocks, and a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from msm_ray import device
from msm_ray.stage import Stage
from msm_ray.train.config import TrainConfig
from msm_ray.train.segment import Segment, plan_budgets, trunk_config

# That Ray reserves for a stage, or a worker of one, that follows what another is making; its CPUs
# are counted by `run_dag`. Were they held in Ray, the stage that it waits for would wait for it:
# Ray Data asks for a whole CPU to look at a Parquet file (2.60).
FOLLOWER_CPUS = 0.01


def blocks_stage(
    inputs: Mapping[str, Stage],
    components: list[dict[str, Any]],
    *,
    tokens: int,
    block_tokens: int,
    seed: int,
    label: str,
    loss_on: str = "all",
    seconds: float = 1.0,
    window_blocks: int = 0,
    follow: Sequence[str] = (),
) -> Stage:
    """Packed blocks of a mixture; see :func:`msm_ray.data.stages.pack` for what it is given.

    ``window_blocks``: of a mixture in windowed order; 0: it is shuffled. ``follow``: inputs that
    are read while they are still being made.
    """
    windowed = {"order": "windowed", "window_blocks": window_blocks} if window_blocks else {}
    return Stage(
        kind="blocks",
        version="2",
        config={
            "components": components,
            "tokens": tokens,
            "block_tokens": block_tokens,
            "seed": seed,
            "loss_on": loss_on,
            **windowed,
        },
        inputs=dict(inputs),
        run="msm_ray.data.stages:pack",
        label=label,
        # One that follows another mostly waits: it needs no CPU of its own.
        runtime={"cpus": 0, "ray_cpus": FOLLOWER_CPUS} if follow else {},
        estimate={"seconds": seconds},
        streams=frozenset(follow),
    )


def train_stage(
    kind: str,
    inputs: Mapping[str, Stage],
    config: TrainConfig,
    runtime: Mapping[str, Any],
    seed: int,
    label: str,
    estimate: Mapping[str, float],
    follow: bool = False,
    segment: Segment | None = None,
) -> Stage:
    """A training, "midtrain", "aft" or "trunk"; ``inputs`` as in :mod:`msm_ray.train.stages`.

    ``runtime``: the fields of `TrainRuntime`. ``follow``: whether it reads its blocks while they
    are still being made. ``segment``: of a trunk or a branch, the part that it trains.
    """
    workers, threads = runtime["num_workers"], runtime["threads"]
    alone = workers == 1  # else Ray Train's own actors hold CPUs and GPUs, not the stage's task
    return Stage(
        kind=kind,
        version="1",
        # The run's seed and the recipe's own add up: both change the order of the data.
        config={
            **config.to_dict(),
            "seed": config.seed + seed,
            **({"segment": asdict(segment)} if segment else {}),
        },
        inputs=dict(inputs),
        run=f"msm_ray.train.stages:{'train_trunk' if kind == 'trunk' else 'train'}",
        label=label,
        runtime={
            **runtime,
            **({"worker_cpus": FOLLOWER_CPUS} if follow else {}),
            "cpus": workers * threads,
            "ray_cpus": (FOLLOWER_CPUS if follow else threads) if alone else 0.0,
            "ray_gpus": int(alone and bool(runtime.get("use_gpu"))),
        },
        estimate=dict(estimate),
        streams=frozenset({"blocks"} if follow else ()),
    )


def training_cost(
    tokens: int, parameters: float, config: TrainConfig, block_tokens: int
) -> dict[str, float]:
    """What training a model of so many parameters on ``tokens`` is estimated to take."""
    # A frozen weight costs its part of the forward pass and of the gradient that goes through it,
    # and no gradient of its own: 4 of the 6 operations a parameter and token.
    flops = (4.0 if config.lora else 6.0) * parameters * tokens
    return {
        "tokens": tokens,
        "steps": math.ceil(tokens / (config.batch_blocks * block_tokens)),
        "flops": flops,
        "seconds": flops / (device.FLOPS * device.UTILISATION),
        "parameters": parameters,  # of what evaluations load
        # Weights in fp32; an adapter is small beside them.
        "bytes": 0.0 if config.lora else 4.0 * parameters,
    }


def budget_stage(
    inputs: Mapping[str, Stage],
    config: TrainConfig,
    runtime: Mapping[str, Any],
    seed: int,
    label: str,
    *,
    tokens: int,
    budgets: Sequence[int],
    block_tokens: int,
    estimate: Callable[[int], Mapping[str, float]],
    follow: bool = False,
) -> Stage:
    """The midtraining of one of several budgets, as a branch of the trunk that they share.

    Args:
        inputs: ``model`` and ``blocks``, which are those of the largest budget, and perhaps
            ``base``; the trunk is added.
        config: a "wsd" training of one epoch.
        tokens: the budget, one of ``budgets``.
        budgets: in ascending order (`msm_ray.train.segment.check_budgets`).
        block_tokens: tokens of a block.
        estimate: what so many tokens cost, with their "tokens" and "steps"; a stage's estimate is
            of what it trains itself, and ``path_steps`` are those that its weights have seen.

    Raises:
        UserError: budgets that are too close (`plan_budgets`).
    """
    width = config.batch_blocks * block_tokens

    def made(kind: str, part: Segment, trunk: Stage | None) -> Stage:
        path = part.steps(config.batch_blocks)
        own = min(part.blocks * block_tokens, tokens) - part.start * width
        cost = {**estimate(own), "steps": path - part.start, "path_steps": path}
        if kind == "trunk":  # with the two moments of each weight, for who continues it
            cost["bytes"] = 3 * cost.get("bytes", 0.0)
        return train_stage(
            kind,
            {**inputs, **({"trunk": trunk} if trunk else {})},
            trunk_config(config) if kind == "trunk" else config,
            runtime,
            seed,
            label if kind == "midtrain" else f"{label} to step {path}",
            cost,
            follow=follow,
            segment=part,
        )

    trunk: Stage | None = None
    for budget in plan_budgets(budgets, block_tokens, config):
        trunk = made("trunk", budget.trunk, trunk)
        if budget.tokens == tokens:
            return made("midtrain", budget.branch, trunk)
    raise AssertionError(f"{tokens} is none of {budgets}")
