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


@given(st.text())
def test_normalise_is_idempotent(text: str) -> None:
    assert filters.normalise(filters.normalise(text)) == filters.normalise(text)


@given(st.lists(st.text(alphabet="ab .", max_size=8), max_size=30))
def test_a_text_is_kept_once(texts: list[str]) -> None:
    duplicates = filters.Duplicates()
    kept = [text for text in texts if duplicates.check(text) is None]
    assert len(kept) == len({filters.normalise(text) for text in texts})
