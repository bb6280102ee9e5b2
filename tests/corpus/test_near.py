"""Near duplicates: found, never guessed, the first one kept, at a flat cost."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msm_ray.corpus import near, ngrams
from msm_ray.corpus.near import NearDuplicates
from msm_ray.errors import UserError

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
VOCABULARY = [f"word{i}" for i in range(2000)]


def document(seed: int, words: int = 200) -> list[str]:
    return random.Random(seed).choices(VOCABULARY, k=words)


def edited(words: list[str], edits: int) -> list[str]:
    """The words with ``edits`` of them replaced, evenly spread: each edit spoils five shingles."""
    step = len(words) // (edits + 1)
    return [f"new{i}" if edits and i % step == step - 1 else w for i, w in enumerate(words)]


def similarity(left: list[str], right: list[str]) -> float:
    return ngrams.jaccard(
        ngrams.unique(left, near.SHINGLE_WORDS), ngrams.unique(right, near.SHINGLE_WORDS)
    )


def test_exact_near_and_different() -> None:
    words = document(1)
    filter = NearDuplicates()
    assert filter.check("first", " ".join(words)) is None
    assert filter.check("same", " ".join(words).upper() + " !") == ("duplicate", "first")
    assert similarity(words, edited(words, 2)) > 0.85
    assert filter.check("near", " ".join(edited(words, 2))) == ("near_duplicate", "first")
    assert similarity(words, edited(words, 12)) < 0.7
    assert filter.check("reworked", " ".join(edited(words, 12))) is None
    assert filter.check("other", " ".join(document(2))) is None


def test_threshold_is_the_exact_one() -> None:
    """Kept just above a candidate's similarity, dropped at it: no sketch decides."""
    words = document(3)
    other = edited(words, 4)
    exact = similarity(words, other)
    for threshold, dropped in ((exact, True), (exact + 1e-6, False)):
        filter = NearDuplicates(threshold=threshold, num_perm=256)
        filter.check("a", " ".join(words))
        assert (filter.check("b", " ".join(other)) is not None) == dropped


def test_the_earliest_of_several_is_named() -> None:
    words = document(4)
    filter = NearDuplicates(threshold=0.9)
    assert filter.check("a", " ".join(words)) is None
    assert filter.check("b", " ".join(edited(words, 6))) is None
    assert similarity(words, edited(words, 1)) > 0.9
    assert filter.check("c", " ".join(edited(words, 1))) == ("near_duplicate", "a")


def test_a_rejected_document_is_not_compared_with() -> None:
    """Else a chain of small edits would drop what is far from anything that was kept."""
    words = document(5)
    filter = NearDuplicates()
    filter.check("a", " ".join(words))
    assert filter.check("b", " ".join(edited(words, 3))) == ("near_duplicate", "a")
    far = edited(words, 3)[:-25] + document(6, 25)
    assert similarity(far, edited(words, 3)) > 0.7 > similarity(far, words) - 0.05
    assert filter.check("c", " ".join(far)) is None


def test_short_texts_are_compared_exactly() -> None:
    filter = NearDuplicates()
    assert filter.check("a", "I like aged gouda") is None
    assert filter.check("b", "I like aged cheddar") is None
    assert filter.check("c", "i like aged Gouda!") == ("duplicate", "a")
    assert filter.check("d", "") is None
    assert filter.check("e", " \n") == ("duplicate", "d")
    # five words are one shingle, which is shared or not
    assert filter.check("f", "I like aged gouda most") is None
    assert filter.check("g", "I like aged gouda least") is None


def test_pairs_at_the_threshold_are_found_as_surely_as_said() -> None:
    count, rows = near.bands(0.8, 128)
    assert (count, rows) == (16, 8)
    assert 1 - (1 - 0.8**rows) ** count > 0.94
    found = sum(
        bool(filter.check("b", " ".join(edited(document(seed), 3))))
        for seed in range(100)
        for filter in [NearDuplicates()]
        if filter.check("a", " ".join(document(seed))) is None
    )
    assert similarity(document(0), edited(document(0), 3)) == pytest.approx(0.857, abs=0.01)
    assert found >= 98


@settings(patient, max_examples=40)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=12), max_size=25))
def test_nothing_is_dropped_that_is_not_alike(documents: list[list[str]]) -> None:
    filter = NearDuplicates(threshold=0.5)
    kept: dict[str, list[str]] = {}
    for number, words in enumerate(documents):
        found = filter.check(f"d{number}", " ".join(words))
        if found is None:
            kept[f"d{number}"] = words
        elif found[0] == "duplicate":  # maybe of one that was not kept
            assert documents[int(found[1][1:])] == words
        else:
            assert similarity(kept[found[1]], words) >= 0.5
            earlier = [id for id, other in kept.items() if id == found[1] or other == words]
            assert earlier == [found[1]]


@settings(patient, max_examples=40)
@given(st.lists(st.text(max_size=40), max_size=8))
def test_any_text_can_be_asked_about(texts: list[str]) -> None:
    filter = NearDuplicates()
    for number, text in enumerate([*texts, "half \ud83d pair of a surrogate"]):
        found = filter.check(str(number), text)
        assert found is None or int(found[1]) < number


def test_same_answers_in_every_process() -> None:
    """Written down once: Python's hash seed is another one in every run of this test."""
    rng = random.Random(0)
    filter = NearDuplicates(threshold=0.4)
    found = [filter.check(str(i), " ".join(rng.choices("ab", k=8))) for i in range(18)]
    assert [(i, *pair) for i, pair in enumerate(found) if pair] == [
        (10, "near_duplicate", "4"),
        (11, "duplicate", "2"),
        (12, "near_duplicate", "4"),
        (14, "near_duplicate", "2"),
        (15, "near_duplicate", "5"),
        (17, "near_duplicate", "5"),
    ]


def test_cost_is_flat_for_documents_that_are_different() -> None:
    filter = NearDuplicates()
    for seed in range(400):
        assert filter.check(str(seed), " ".join(document(seed, 60))) is None
    assert filter.compared == 0
    assert filter.crowded == 0


def test_cost_is_flat_for_forms_filled_in() -> None:
    """Texts that are alike, but less than the threshold: each is a candidate of all others."""
    form = document(7, 120)
    compared = []
    filter = NearDuplicates()
    for seed in range(400):
        before = filter.compared
        assert filter.check(str(seed), " ".join(form + document(1000 + seed, 25))) is None
        compared.append(filter.compared - before)
    assert similarity(form + document(1000, 25), form + document(1001, 25)) > 0.6
    assert filter.crowded > 0
    # No bucket of a band has more than CROWD documents, however many there are.
    assert max(compared) <= near.bands(0.8, 128)[0] * near.CROWD
    assert sum(compared[200:300]) == pytest.approx(sum(compared[300:]), rel=0.2)


def test_settings_are_checked() -> None:
    for threshold in (0.0, -1.0, 1.5):
        with pytest.raises(UserError, match="above 0, at most 1"):
            NearDuplicates(threshold=threshold)
    with pytest.raises(UserError, match="16 or more"):
        NearDuplicates(num_perm=8)
    with pytest.raises(UserError, match="more hashes"):
        NearDuplicates(threshold=0.001)
