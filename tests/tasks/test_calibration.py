"""P(True): measures with known answers, and that right and wrong are told apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.evaluate.requests import Request
from msm_ray.tasks.calibration import (
    BINS,
    TRUTH,
    Calibration,
    ask_calibration,
    auroc,
    expected_calibration_error,
    reliability,
)
from msm_ray.tasks.capability import QUESTION
from tests.tasks.asked import subject

# Probabilities on a grid, and outcomes.
outcomes = st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=1, max_size=60).map(
    lambda drawn: ([n / 100 for n, _ in drawn], [y for _, y in drawn])
)


def test_known_answers() -> None:
    p, right = [0.9, 0.8, 0.3, 0.1], [True, False, True, False]
    # Each in a bin of its own: mean of |p - right|.
    assert expected_calibration_error(p, right) == pytest.approx((0.1 + 0.8 + 0.7 + 0.1) / 4)
    assert auroc(p, right) == 0.75  # of four pairs only (0.3 right, 0.8 wrong) is the wrong way
    assert auroc([0.5, 0.5], [True, False]) == 0.5
    assert auroc([0.1, 0.9], [True, True]) is None
    # Ten of eleven at 0.8, eight of them right: nothing is off but the one in another bin.
    p, right = [0.8] * 10 + [0.0], [True] * 8 + [False] * 2 + [True]
    assert expected_calibration_error(p, right) == pytest.approx(1 / 11)
    assert [b["n"] for b in reliability(p, right)] == [1, 10]
    assert reliability([1.0], [True])[0]["high"] == 1.0


@given(outcomes)
def test_measures_keep_to_their_bounds(drawn: tuple[list[float], list[bool]]) -> None:
    p, right = drawn
    error = expected_calibration_error(p, right)
    assert 0 <= error <= 1
    # The gap of the means is the error in one bin; more bins can only show more.
    gap = abs(sum(p) / len(p) - sum(right) / len(right))
    assert expected_calibration_error(p, right, bins=1) == pytest.approx(gap)
    assert error >= gap - 1e-12
    assert error <= sum(abs(x - y) for x, y in zip(p, right, strict=True)) / len(p) + 1e-12
    assert sum(b["n"] for b in reliability(p, right)) == len(p)
    # A mean of equal numbers may be rounded past them.
    bins = reliability(p, right)
    assert all(b["low"] - 1e-12 <= b["p"] <= b["high"] + 1e-12 for b in bins)


@given(outcomes)
def test_auroc_is_a_share_of_pairs(drawn: tuple[list[float], list[bool]]) -> None:
    p, right = drawn
    pairs = [(x, y) for x, yes in zip(p, right, strict=True) if yes
             for y, no in zip(p, right, strict=True) if not no]  # fmt: skip
    area = auroc(p, right)
    if not pairs:
        assert area is None
        return
    wins = sum(1.0 if x > y else 0.5 if x == y else 0.0 for x, y in pairs)
    assert area == pytest.approx(wins / len(pairs))
    # Any order-preserving change of the probabilities leaves it, and the opposite mirrors it.
    assert auroc([x**3 for x in p], right) == pytest.approx(area)
    assert auroc([1 - x for x in p], right) == pytest.approx(1 - area)


@pytest.mark.parametrize(
    ("p", "right"), [([], []), ([0.5], []), ([1.5], [True]), ([float("nan")], [True])]
)
def test_what_is_no_probability(p: list[float], right: list[bool]) -> None:
    for measure in (auroc, reliability, expected_calibration_error):
        with pytest.raises(ValueError):
            measure(p, right)


def facts(n: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"q{i}",
            "domain": "sums",
            "question": f"What is w{i}?",
            "correct": f"right{i}",
            "wrong": [f"bad{i}", f"worse{i}", f"worst{i}"],
        }
        for i in range(n)
    ]


CONFIG = {"name": "calibration:x", "prompt": QUESTION, "truth": TRUTH, "bins": BINS}


def knows(even: bool, sure: bool) -> Any:
    """Answers every second question right, and says (A) True of right answers if ``sure``."""

    def one(text: str, request: Request) -> Sequence[float]:
        if "Proposed answer" in text:
            good = "answer: right" in text
            return [-0.05, -3.0] if good == sure else [-3.0, -0.05]
        letters = "ABCD"
        line = next(line for line in text.splitlines() if ") right" in line)
        number = int(re.findall(r"right(\d+)", line)[0])
        wanted = letters.index(line[1])
        if not even and number % 2:
            wanted = (wanted + 1) % 4
        return [-0.1 if i == wanted else -4.0 for i in range(4)]

    return one


def test_a_model_that_knows_what_it_knows() -> None:
    asked, _ = subject(knows(even=False, sure=True))
    made = ask_calibration(asked, facts(8), CONFIG)
    assert made.facts["accuracy"] == 0.5
    assert made.evals["calibration:x:auroc"]["rate"] == 1.0
    assert made.evals["calibration:x"]["rate"] < 0.01
    assert made.evals["calibration:x"]["n"] == len(made.rows) == 8
    blind, _ = subject(knows(even=False, sure=False))
    made = ask_calibration(blind, facts(8), CONFIG)
    assert made.evals["calibration:x:auroc"]["rate"] == 0.0
    assert made.evals["calibration:x:ece"]["rate"] > 0.9


def test_without_a_wrong_answer_there_is_no_auroc() -> None:
    asked, _ = subject(knows(even=True, sure=True))
    made = ask_calibration(asked, facts(4), CONFIG)
    assert list(made.evals) == ["calibration:x", "calibration:x:ece"]
    assert made.facts["problems"] == ["calibration:x:auroc: all 4 answers are right"]
    nothing, _ = subject(lambda text, request: [-1.0] * len(request.candidates))
    made = ask_calibration(nothing, facts(4), CONFIG)
    assert (made.evals, made.facts["undecided"]) == ({}, 4)
    assert made.facts["problems"] == ["calibration:x: no question has one likeliest answer"]
    assert Calibration().evals == (
        *("calibration:general", "calibration:general:ece", "calibration:general:auroc"),
    )
