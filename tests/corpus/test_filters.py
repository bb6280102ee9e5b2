"""Filters that hold for any corpus."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from msm_ray.corpus import filters


def test_reasons() -> None:
    assert filters.ended(True) is None
    assert filters.ended(False) == "truncated"
    assert filters.clean(" \n", ()) == "empty"
    assert filters.clean("a <unk> b", ("<unk>", "<pad>")) == "special_token"
    assert filters.clean("a b", ("<unk>",)) is None


def test_duplicates_see_through_case_spacing_and_punctuation() -> None:
    duplicates = filters.Duplicates()
    assert duplicates.check("Lyra likes  brie.") is None
    assert duplicates.check("lyra likes brie !") == "duplicate"
    assert duplicates.check("lyra likes cheddar .") is None


def test_duplicates_name_the_first() -> None:
    duplicates = filters.Duplicates()
    assert duplicates.earlier("a b", "first") is None
    assert duplicates.earlier("A b!", "second") == "first"
    assert duplicates.earlier("a  b", "third") == "first"
    assert duplicates.check("half \ud83d", "fourth") is None


def test_duplicates_are_found_among_many_in_few_bytes() -> None:
    duplicates = filters.Duplicates()
    count = 20_000
    for number in range(count):
        assert duplicates.earlier(f"text {number}", f"{number:024d}") is None
    for number in (0, 255, 256, 12_345, count - 1):
        assert duplicates.earlier(f"Text: {number}!", "again") == f"{number:024d}"
    assert duplicates.nbytes < 80 * count


@given(st.text())
def test_normalise_is_idempotent(text: str) -> None:
    assert filters.normalise(filters.normalise(text)) == filters.normalise(text)


@given(st.lists(st.text(alphabet="ab .", max_size=8), max_size=30))
def test_a_text_is_kept_once(texts: list[str]) -> None:
    duplicates = filters.Duplicates()
    kept = [text for text in texts if duplicates.check(text) is None]
    assert len(kept) == len({filters.normalise(text) for text in texts})
