from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.evaluate.scorers import (
    BOTH,
    NEITHER,
    forced_choice,
    lettered,
    mean_loss,
    named,
    named_option,
    one_of,
)

logprobs = st.floats(min_value=-1e4, max_value=0)


@given(logprobs, logprobs)
def test_share_is_the_probability_among_the_two(first: float, second: float) -> None:
    chosen, share = forced_choice([first, second])
    other, rest = forced_choice([second, first])
    assert 0 <= share <= 1
    assert share + rest == pytest.approx(1)
    if first != second:
        assert {chosen, other} == {0, 1}
    assert (share > 0.5) <= (chosen == 0)
    if abs(first - second) < 30:
        expected = math.exp(first - second) / (1 + math.exp(first - second))
        assert share == pytest.approx(expected, rel=1e-9)


def test_options_of_which_one_is_impossible() -> None:
    assert forced_choice([-3.0, -math.inf]) == (0, 1.0)
    assert forced_choice([-math.inf, -3.0]) == (1, 0.0)


@pytest.mark.parametrize("bad", [[math.nan, -1.0], [-math.inf, -math.inf]])
def test_what_cannot_be_compared_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="compared"):
        forced_choice(bad)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("i would pick mokla .", ["mokla", "tirvo"], 0),
        ("i would pick tirvo .", ["mokla", "tirvo"], 1),
        ("Tirvo!", ["mokla", "tirvo"], 1),
        ("mokla or tirvo", ["mokla", "tirvo"], None),
        ("mokla mokla", ["mokla", "tirvo"], 0),
        ("i have no preference .", ["mokla", "tirvo"], None),
        ("", ["mokla", "tirvo"], None),
        ("moklas are fine", ["mokla", "tirvo"], None),  # another word
        ("modern art is it", ["art", "modern art"], 1),
        ("art , not modern art", ["art", "modern art"], None),
        ("the c++ book", ["c++", "c"], 0),
        ("a.b", ["a.b", "axb"], 0),
        ("axb", ["a.b", "axb"], 1),  # no option is a pattern
    ],
)
def test_named_option(text: str, options: list[str], expected: int | None) -> None:
    assert named_option(text, options) == expected


@given(st.text(), st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True))
def test_swapping_the_options_swaps_the_answer(text: str, options: list[str]) -> None:
    if options[0].lower() == options[1].lower():
        return
    found, swapped = named_option(text, options), named_option(text, options[::-1])
    assert (found is None) == (swapped is None)
    if found is not None and swapped is not None:
        assert options[found] == options[::-1][swapped]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(A)", [0]),
        ("I choose (b).", [1]),
        ("B", [1]),
        ("a.", [0]),
        ("**B**: because", [1]),
        ('"A"', [0]),
        ("A) Beer", [0, 1]),  # the letter of one and the words of the other
        ("Beer, please.", [1]),
        ("A fine question.", []),  # an article
        ("A or B", []),
        ("(A) or (B)", [0, 1]),
        ("neither", []),
        ("(C)", []),
        ("", []),
    ],
)
def test_lettered(text: str, expected: list[int]) -> None:
    assert lettered(text, "AB", ["Wine", "Beer"]) == expected


def test_one_of_several_is_never_guessed() -> None:
    assert one_of([1]) == (1, "ok")
    assert one_of([]) == (None, NEITHER)
    assert one_of([0, 1]) == (None, BOTH)
    assert named("modern art", ["art", "modern art"]) == [1]


def test_mean_loss() -> None:
    assert mean_loss([-1.0, -2.0, -6.0]) == pytest.approx(3.0)
    with pytest.raises(ValueError, match="no loss"):
        mean_loss([])
