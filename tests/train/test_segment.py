"""Trunks and branches as plans: the rates of a run of its own, and increments that add up."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from msm_ray.errors import UserError
from msm_ray.stage import Stage, topological
from msm_ray.train.config import TrainConfig
from msm_ray.train.schedule import learning_rate
from msm_ray.train.segment import Budget, Segment, check_budgets, plan_budgets, trunk_config
from msm_ray.trainings import budget_stage

CONFIG = TrainConfig(1e-3, 0.9, 0.95, 0.0, 1.0, 0.1, "wsd", 0.1, 8, 1.0, (), "fp32", 0)
BLOCK = 32


def planned(budgets: list[int], config: TrainConfig) -> tuple[Budget, ...]:
    """The plan, of budgets that can have one."""
    try:
        return plan_budgets(budgets, BLOCK, config)
    except UserError:
        assume(False)
        raise


BUDGETS = st.lists(st.integers(500, 60_000), min_size=1, max_size=6, unique=True).map(sorted)
CONFIGS = st.builds(
    lambda warmup, decay, final, batch: replace(
        CONFIG,
        warmup_fraction=warmup,
        decay_fraction=decay,
        final_lr_fraction=final,
        batch_blocks=batch,
    ),
    st.floats(0, 0.5),
    st.floats(0.05, 0.6),
    st.floats(0, 1),
    st.integers(1, 12),
)


@given(BUDGETS, CONFIGS)
def test_the_rates_of_trunk_and_branch_are_those_of_a_run_of_its_own(
    budgets: list[int], config: TrainConfig
) -> None:
    trunk: list[float] = []
    for budget in planned(budgets, config):
        part, branch = budget.trunk, budget.branch
        stop, steps = part.steps(config.batch_blocks), branch.steps(config.batch_blocks)
        assert (part.start, branch.start) == (len(trunk), stop)
        assert part.blocks == stop * config.batch_blocks  # whole batches
        trunk += [
            learning_rate(step, stop, trunk_config(config), part.warmup)
            for step in range(part.start, stop)
        ]
        decay = [learning_rate(step, steps, config, branch.warmup) for step in range(stop, steps)]
        alone = [learning_rate(step, steps, config, branch.warmup) for step in range(steps)]
        assert [*trunk, *decay] == alone  # to the bit
        if config.final_lr_fraction < 1:
            assert decay[0] < alone[stop - 1] == config.learning_rate
        # The smallest budget's is the run that it would be without the others.
        if budget.tokens == budgets[0]:
            assert alone == [learning_rate(step, steps, config) for step in range(steps)]


@given(BUDGETS, CONFIGS)
def test_increments_add_up_to_what_is_trained(budgets: list[int], config: TrainConfig) -> None:
    plan = planned(budgets, config)
    batch = config.batch_blocks
    read = [set(range(b.trunk.start * batch, b.trunk.blocks)) for b in plan]
    for before, after in pairwise(read):
        assert max(before) + 1 == min(after)
    decays = [set(range(b.branch.start * batch, b.branch.blocks)) for b in plan]
    for i, (budget, decay) in enumerate(zip(plan, decays, strict=True)):
        path = set().union(*read[: i + 1], decay)
        assert path == set(range(math.ceil(budget.tokens / BLOCK)))
    stages = stages_of(budgets, config)
    new = sum(int(s.estimate["tokens"]) for s in stages)
    blocks = sum(len(part) for part in (*read, *decays))
    # A budget's last block counts with what the budget has of it.
    assert blocks * BLOCK - new == sum(len(d) for d in decays) * BLOCK - sum(
        b.tokens - b.branch.start * batch * BLOCK for b in plan
    )
    assert sum(s.estimate["steps"] for s in stages) == sum(
        b.branch.steps(batch) - b.branch.start + b.trunk.steps(batch) - b.trunk.start for b in plan
    )
    alone = sum(budgets)
    assert new <= alone
    for budget, stage in zip(plan, [s for s in stages if s.kind == "midtrain"], strict=True):
        path = [stage, *trunks_below(stage)]
        assert sum(s.estimate["tokens"] for s in path) == budget.tokens
        assert sum(s.estimate["steps"] for s in path) == stage.estimate["path_steps"]


def test_six_even_budgets_cost_a_good_third() -> None:
    budgets = [n * 128_000 for n in range(1, 7)]
    config = replace(CONFIG, decay_fraction=0.1)
    new = sum(s.estimate["tokens"] for s in stages_of(budgets, config))
    # The trunk to 0.9 of the largest, and a tenth of each: (0.9 * 6 + 0.1 * 21) / 21
    assert new / sum(budgets) == pytest.approx(7.5 / 21, abs=1e-3)


def stages_of(budgets: list[int], config: TrainConfig) -> list[Stage]:
    """Trunks and midtrainings of all budgets, each once."""
    text = Stage("text", "1", {}, {}, "a:b")
    made = [
        budget_stage(
            {"model": text, "blocks": text},
            config,
            {"num_workers": 1, "threads": 1},
            0,
            "label",
            tokens=tokens,
            budgets=budgets,
            block_tokens=BLOCK,
            estimate=lambda n: {"tokens": n},
        )
        for tokens in budgets
    ]
    return [s for s in topological(made) if s is not text]


def trunks_below(stage: Stage) -> list[Stage]:
    found = []
    while "trunk" in stage.inputs:
        stage = stage.inputs["trunk"]
        found.append(stage)
    return found


def test_how_branches_decay_is_not_part_of_the_trunk() -> None:
    def trunks(**changes: float) -> list[str]:
        stages = stages_of([20_000, 40_000], replace(CONFIG, **changes))
        return [s.id for s in stages if s.kind == "trunk"]

    assert trunks() == trunks(final_lr_fraction=0.0)
    assert not set(trunks()) & set(trunks(decay_fraction=0.1))  # they end elsewhere
    assert not set(trunks()) & set(trunks(learning_rate=2e-3))


def test_budgets_that_cannot_be_are_refused() -> None:
    check_budgets(5, (), replace(CONFIG, schedule="cosine", epochs=2.0))  # no trunk: no demands
    check_budgets(5, (3, 5), CONFIG)
    for tokens, budgets, config, told in (
        (5, (5, 3), CONFIG, r"mid\.budgets is \[5, 3\]; allowed: numbers of tokens, each larger"),
        (5, (5, 5), CONFIG, r"mid\.budgets is \[5, 5\]"),
        (5, (0, 5), CONFIG, r"mid\.budgets is \[0, 5\]"),
        (5, (2.5, 5), CONFIG, r"mid\.budgets is \[2\.5, 5\]"),
        (4, (3, 5), CONFIG, r"mid\.tokens is 4; allowed: one of mid\.budgets: 3, 5"),
        (5, (3, 5), replace(CONFIG, schedule="cosine"), r"schedule is 'cosine'; with mid\.budgets"),
        (5, (3, 5), replace(CONFIG, epochs=2.0), r"mid\.train\.epochs is 2; with mid\.budgets"),
    ):
        with pytest.raises(UserError, match=told):
            check_budgets(tokens, budgets, config, "mid.")  # type: ignore[arg-type]


def test_budgets_that_are_too_close_or_too_small_are_refused() -> None:
    # Of 62 and 63 steps, 12 and 13 decay: both begin at step 50.
    assert [b.branch.start for b in plan_budgets((15_872, 16_384), BLOCK, CONFIG)] == [50, 51]
    with pytest.raises(UserError, match="15872 and 16128 tokens are too close: .* at step 50"):
        plan_budgets((15_872, 16_128), BLOCK, CONFIG)
    with pytest.raises(UserError, match="256 tokens are 1 steps, of which 1 warm up and 1 decay"):
        plan_budgets((256, 16_128), BLOCK, CONFIG)
    with pytest.raises(UserError, match="10 steps, of which 9 warm up and 2 decay"):
        plan_budgets((2_560,), BLOCK, replace(CONFIG, warmup_fraction=0.9))


def test_a_whole_run_is_a_segment() -> None:
    part = Segment.whole(105, CONFIG)
    assert (part.start, part.blocks, part.warmup, part.steps(8)) == (0, 105, 1, 14)
