"""Documents that hold items of the evaluation: found exactly, at a cost that items do not raise."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msm_ray.corpus.contamination import Contamination, item_texts
from msm_ray.errors import UserError

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

QUESTION = "Which would you rather take on a long train journey, a paperback or a tablet?"
ITEMS = [
    ("q1", QUESTION),
    ("q1", "a paperback"),
    ("q1", "a tablet"),
    ("q2", "Do you prefer tea?"),
    ("q3", "Cities should build more trams."),
]


def test_n_words_in_a_row() -> None:
    check = Contamination(ITEMS).check
    text = "He asked: 'which WOULD you rather take on a long -- train journey?' and left."
    assert check(text) == (
        "contaminated",
        "q1",
        "which would you rather take on a long train journey",
    )
    assert check("would you rather take on a long train") == (
        "contaminated",
        "q1",
        "would you rather take on a long train",
    )
    assert check("would you rather take on a long ride") is None
    assert check("which would you like, a train journey or a paperback or a tablet") is None


def test_short_items_as_a_whole() -> None:
    filter = Contamination(ITEMS)
    assert filter.check("Do you prefer tea, she asked.") == (
        "contaminated",
        "q2",
        "do you prefer tea",
    )
    assert filter.check("Do you prefer coffee? Or tea?") is None
    assert filter.check("I think cities should build more trams soon") == (
        "contaminated",
        "q3",
        "cities should build more trams",
    )
    assert filter.check("She took a paperback and a tablet.") is None
    assert filter.skipped == ("q1",)


def test_what_the_spec_says_may_be_said() -> None:
    spec = "Which would you rather take on a long train journey? Cities should build more trams!"
    check = Contamination(ITEMS, allowed=["other words", spec]).check
    assert check("which would you rather take on a long train journey") is None
    assert check("cities should build more trams") is None
    assert check("do you prefer tea") is not None
    found = check("take on a long train journey a paperback or a tablet")
    assert found is not None
    assert found[2].endswith("a long train journey a paperback or a tablet")


def test_rows_of_an_evaluation() -> None:
    row: dict[str, Any] = {
        "id": "i1",
        "prompt": "user : cheddar or brie ? lyra : i would pick",
        "open_prompt": "",
        "options": ["cheddar", "brie"],
    }
    assert list(item_texts(row)) == [("i1", row["prompt"]), ("i1", "cheddar"), ("i1", "brie")]
    assert Contamination(item_texts(row)).check(row["prompt"]) is not None


def test_no_items_and_no_words() -> None:
    assert Contamination([]).check(QUESTION) is None
    assert Contamination(ITEMS).check("") is None
    with pytest.raises(UserError, match="4 or more"):
        Contamination(ITEMS, n=3)


WORDS = st.lists(st.sampled_from("abcd"), max_size=14)


@patient
@given(st.lists(WORDS, max_size=6), WORDS, WORDS, st.integers(4, 6))
def test_as_if_by_hand(
    items: list[list[str]], document: list[str], allowed: list[str], n: int
) -> None:
    def grams(words: list[str], length: int) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}

    shared = [
        grams(words, length) & grams(document, length) - grams(allowed, length)
        for words in items
        if len(words) >= 4
        for length in [min(n, len(words))]
    ]
    pairs = [(str(number), " ".join(words)) for number, words in enumerate(items)]
    found = Contamination(pairs, n, allowed=[" ".join(allowed)]).check(" ".join(document))
    assert (found is not None) == any(shared)
    if found:
        item = " ".join(items[int(found[1])])
        assert f" {found[2]} " in f" {item} "
        assert f" {found[2]} " in f" {' '.join(document)} "


@patient
@given(st.text(max_size=60), st.lists(st.text(max_size=30), max_size=4))
def test_any_text_can_be_asked_about(text: str, items: list[str]) -> None:
    filter = Contamination([(str(i), item) for i, item in enumerate(items)])
    found = filter.check(text)
    assert found is None or 0 <= int(found[1]) < len(items)


class Counting(dict[int, tuple[int, int]]):
    """Counts how often it is asked."""

    asked = 0

    def __contains__(self, key: object) -> bool:
        type(self).asked += 1
        return super().__contains__(key)


def test_a_document_costs_the_same_for_any_number_of_items() -> None:
    rng = random.Random(0)
    document = " ".join(f"w{rng.randrange(1000)}" for _ in range(300))
    asked = []
    for count in (10, 5000):
        items = [
            (f"i{i}", " ".join(f"x{rng.randrange(1000)}" for _ in range(5 + i % 20)))
            for i in range(count)
        ]
        filter = Contamination(items)
        filter._index = {length: Counting(index) for length, index in filter._index.items()}
        Counting.asked = 0
        assert filter.check(document) is None
        asked.append(Counting.asked)
    assert asked[0] == asked[1] <= 300 * 4
