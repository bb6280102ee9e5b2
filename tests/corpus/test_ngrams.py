"""Word n-grams as numbers: the same everywhere, and equal exactly where the words are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msm_ray.corpus import ngrams

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
WORDS = st.lists(st.sampled_from("abcde"), max_size=30)


def test_same_numbers_on_every_machine() -> None:
    """Written down once: filters keep other documents if these ever change."""
    assert ngrams.hashes(["aged", "gouda"], 1).tolist() == [
        12028676404161569860,
        795457275087519791,
    ]
    assert ngrams.hashes(["aged", "gouda"], 2).tolist() == [8674735858375438970]


def test_words_see_through_case_and_punctuation() -> None:
    assert ngrams.words("Aged  GOUDA, (sliced)!") == ["aged", "gouda", "sliced"]
    assert ngrams.words(" \n…") == []


@patient
@given(WORDS, st.integers(1, 6))
def test_hashes_are_equal_where_the_ngrams_are(words: list[str], n: int) -> None:
    found = ngrams.hashes(words, n).tolist()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    assert len(found) == len(grams)
    assert len(set(zip(found, grams, strict=True))) == len(set(found)) == len(set(grams))


@patient
@given(WORDS, WORDS, st.integers(1, 4))
def test_jaccard_is_that_of_sets(left: list[str], right: list[str], n: int) -> None:
    a, b = ({tuple(w[i : i + n]) for i in range(len(w) - n + 1)} for w in (left, right))
    expected = len(a & b) / len(a | b) if a | b else 1.0
    found = ngrams.jaccard(ngrams.unique(left, n), ngrams.unique(right, n))
    assert found == pytest.approx(expected)


def test_broken_characters_do_not_crash() -> None:
    assert len(ngrams.hashes(ngrams.words("half \ud83d pair"), 1)) == 2
    assert len(ngrams.hashes(["half\ud83d"], 1)) == 1


@given(st.lists(st.integers(0, 5) | st.integers(0, 2**64 - 1)))
def test_sorted_unique_is_that_of_numpy(values: list[int]) -> None:
    array = np.array(values, np.uint64)
    found = ngrams.sorted_unique(array)
    assert found.dtype == np.uint64
    assert found.tolist() == sorted(set(values))


@given(st.lists(st.integers(0, 9) | st.integers(0, 2**64 - 1)), st.sets(st.integers(0, 9)))
def test_contained_is_what_python_says(values: list[int], among: set[int]) -> None:
    found = ngrams.contained(np.array(values, np.uint64), np.array(sorted(among), np.uint64))
    assert found.tolist() == [value in among for value in values]
