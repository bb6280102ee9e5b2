from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from msm_ray.train.config import SCHEDULES, TrainConfig
from msm_ray.train.schedule import learning_rate, warmup_steps

CONFIG = TrainConfig(1e-3, 0.9, 0.95, 0.0, 1.0, 0.1, "cosine", 0.1, 8, 1.0, (), "fp32", 0)


@example(schedule="wsd", steps=2, warmup=0.0, final=0.0)  # too short for a fifth
@given(
    schedule=st.sampled_from(SCHEDULES),
    steps=st.integers(1, 300),
    warmup=st.floats(0, 1),
    final=st.floats(0, 1),
)
def test_up_to_the_peak_then_never_up_again(
    schedule: str, steps: int, warmup: float, final: float
) -> None:
    config = replace(CONFIG, schedule=schedule, warmup_fraction=warmup, final_lr_fraction=final)
    rates = [learning_rate(step, steps, config) for step in range(steps)]
    up = warmup_steps(steps, config)
    assert all(a < b for a, b in pairwise(rates[:up]))
    after = rates[max(0, up - 1) :]
    assert after[0] == pytest.approx(1e-3)
    assert all(a >= b - 1e-15 for a, b in pairwise(after))
    if len(after) > 1:
        expected = 1e-3 if schedule == "constant" else 1e-3 * final
        assert rates[-1] == pytest.approx(expected, abs=1e-12)


def test_the_shapes() -> None:
    def rate(step: int, schedule: str) -> float:
        config = replace(CONFIG, schedule=schedule, warmup_fraction=0.0, final_lr_fraction=0.0)
        return learning_rate(step, 101, config) / 1e-3

    assert rate(50, "cosine") == pytest.approx(0.5)
    assert rate(25, "cosine") == pytest.approx(0.8535534)
    assert rate(25, "linear") == pytest.approx(0.75)
    assert rate(100, "constant") == 1.0
    assert rate(79, "wsd") == 1.0  # the last fifth of the steps decays
    assert rate(90, "wsd") == pytest.approx(0.5)


def test_warmup_reaches_the_peak_at_its_last_step() -> None:
    assert warmup_steps(50, CONFIG) == 5
    assert learning_rate(0, 50, CONFIG) == pytest.approx(2e-4)
    assert learning_rate(4, 50, CONFIG) == pytest.approx(1e-3)
    assert learning_rate(5, 50, CONFIG) < 1e-3
