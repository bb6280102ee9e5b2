"""The figures of a corpus card: right on small corpora, bounded on large ones."""

from __future__ import annotations

import json
import random
import statistics
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msm_ray.corpus import measures
from msm_ray.corpus.measures import (
    DistinctNgrams,
    Labels,
    Lengths,
    Measures,
    Openings,
    Sample,
    compression_ratio,
    self_similarity,
)

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def row(id: str, text: str, tokens: int = 5, **labels: str) -> dict[str, Any]:
    named = {"domain": "work", "subdomain": "letters", "doc_type": "memo"}
    return {"id": id, "text": text, "tokens": tokens, **named, **labels}


def distinct(texts: list[str], n: int, kept: int = 1 << 16) -> float:
    counter = DistinctNgrams(n, kept)
    for text in texts:
        counter.add(text.split())
    return counter.result()


def test_distinct_ngrams_by_hand() -> None:
    assert distinct(["a b a b"], 1) == 2 / 4
    assert distinct(["a b a b", "b a"], 2) == 2 / 4
    assert distinct([], 2) == 0.0
    assert distinct(["a", "b"], 2) == 0.0


@patient
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=9)), st.integers(1, 3))
def test_distinct_ngrams_are_exact_while_they_fit(texts: list[list[str]], n: int) -> None:
    grams = [tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)]
    expected = len(set(grams)) / len(grams) if grams else 0.0
    assert distinct([" ".join(words) for words in texts], n) == pytest.approx(expected)


def test_distinct_ngrams_beyond_are_close() -> None:
    """Six standard errors, for a sketch of 4,096 of 60,000 different ones."""
    rng = random.Random(0)
    texts = [" ".join(str(rng.randrange(60_000)) for _ in range(300)) for _ in range(1000)]
    different = len({word for text in texts for word in text.split()})
    found = distinct(texts, 1, kept=4096) * 300_000
    assert found == pytest.approx(different, rel=6 / 4096**0.5)
    assert distinct(texts, 1) * 300_000 == pytest.approx(different)  # they all fit: exact


def openings(texts: list[str], words: int, kept: int = 10_000) -> Openings:
    counter = Openings(words, kept)
    for text in texts:
        counter.add(text.split())
    return counter


def test_common_openings() -> None:
    found = openings(["a b c", "a b d", "x"], 2)
    assert found.result(5) == [("a b", 2), ("x", 1)]
    assert found.error == 0


@patient
@given(st.lists(st.integers(0, 30), max_size=300), st.integers(1, 6))
def test_openings_are_too_low_by_at_most_the_error(drawn: list[int], kept: int) -> None:
    texts = [f"o{number}" for number in drawn]
    found = openings(texts, 1, kept)
    counted = dict(found.result(1000))
    for text in set(texts):
        assert texts.count(text) - found.error <= counted.get(text, 0) <= texts.count(text)
    assert found.error * (kept + 1) <= len(texts)
    assert len(counted) <= 2 * kept


def test_lengths_by_hand() -> None:
    lengths = Lengths()
    assert lengths.result() == {}
    for value in (30, 10, 20, 40):
        lengths.add(value)
    assert lengths.result() == {
        "min": 10,
        "p5": 10,
        "p25": 10,
        "p50": 20,
        "p75": 30,
        "p95": 40,
        "max": 40,
    }


@patient
@given(st.lists(st.integers(0, 10**9), min_size=1))
def test_lengths_are_close(values: list[int]) -> None:
    lengths = Lengths()
    for value in values:
        lengths.add(value)
    found = lengths.result()
    for name, exact in (
        ("min", min(values)),
        ("p50", statistics.median_low(values)),
        ("max", max(values)),
    ):
        assert exact - exact / 512 <= found[name] <= exact
        assert exact >= 1024 or found[name] == exact


def test_labels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "MAX_LABELS", 2)
    labels = Labels()
    for label in ("a", "b", "c", "d", "a"):
        labels.add(label, 10)
    assert labels.result() == {
        "(other)": {"documents": 2, "tokens": 20},
        "a": {"documents": 2, "tokens": 20},
        "b": {"documents": 1, "tokens": 10},
    }


@patient
@given(st.integers(0, 200), st.randoms(use_true_random=False))
def test_sample_does_not_depend_on_order(count: int, shuffle: random.Random) -> None:
    rows = [(f"doc{i}", f"text {i}") for i in range(count)]
    first = Sample(20)
    for id, text in rows:
        first.add(id, text)
    shuffle.shuffle(rows)
    second = Sample(20)
    for id, text in rows:
        second.add(id, text)
    assert first.texts() == second.texts()
    assert len(first.texts()) == min(20, count)


def test_sample_depends_on_the_seed_and_is_cut() -> None:
    samples = []
    for seed in (1, 2):
        sample = Sample(10, seed)
        for i in range(1000):
            sample.add(f"doc{i}", f"{i} " + "x" * 20_000)
        samples.append(sample.texts())
    assert samples[0] != samples[1]
    assert {len(text) for text in samples[0]} == {measures.SAMPLE_CHARACTERS}


def test_compression_ratio() -> None:
    rng = random.Random(0)
    varied = ["".join(chr(rng.randrange(33, 1000)) for _ in range(500)) for _ in range(20)]
    same = ["the same sentence about cheddar again and again"] * 20
    assert compression_ratio([]) == 0.0
    assert 1 < compression_ratio(varied) < 2
    assert compression_ratio(same) > 10


def test_self_similarity() -> None:
    assert self_similarity([]) == self_similarity(["a b c"]) == 0.0
    assert self_similarity(["a b c", "A b, c!"]) == 1.0
    assert self_similarity(["a b c", "d e f", "a b c d"]) == pytest.approx((0 + 0.5 + 0) / 3)
    assert self_similarity(["a", "a"]) == 0.0


def test_what_a_card_gets() -> None:
    figures = Measures()
    for i in range(10):
        figures.add(row(f"d{i}", f"to all staff : cheddar {i}", 5 + i, domain="abc"[i % 3]))
    figures.add(row("none", "a", 1, domain="", subdomain="", doc_type="note"))
    result = figures.result()
    assert (result["documents"], result["tokens"]) == (11, 96)
    assert result["levels"]["domain"]["a"] == {"documents": 4, "tokens": 5 + 8 + 11 + 14}
    assert list(result["levels"]["subdomain"]) == ["", "a / letters", "b / letters", "c / letters"]
    assert result["levels"]["doc_type"]["note"] == {"documents": 1, "tokens": 1}
    assert result["openings"][0] == ["to all staff : cheddar", 10]
    assert result["sampled"] == {"compression_ratio": 11, "self_similarity": 11}
    assert result["lengths"]["words"]["p50"] == 6
    assert json.loads(json.dumps(result)) == result


def test_nothing_was_kept() -> None:
    result = Measures().result()
    assert result["distinct_2"] == result["self_similarity"] == result["compression_ratio"] == 0.0
    assert result["lengths"] == {"tokens": {}, "words": {}}


@patient
@given(st.lists(st.text(max_size=30), max_size=10))
def test_any_text_can_be_measured(texts: list[str]) -> None:
    figures = Measures()
    for i, text in enumerate([*texts, "half \ud83d pair"]):
        figures.add(row(str(i), text))
    assert figures.result()["documents"] == len(texts) + 1


def test_memory_does_not_grow_with_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held after many documents is what the bounds allow, not what was added."""
    monkeypatch.setattr(measures, "COMPRESSED_DOCUMENTS", 20)
    figures = Measures()
    figures._openings = Openings(kept=50)
    figures._distinct = {1: DistinctNgrams(1, kept=100)}
    for i in range(3000):
        figures.add(row(f"d{i}", f"word{i} opens document number{i}", tokens=i))
    counter = figures._distinct[1]
    assert len(counter._smallest) + counter._new_count <= 2 * 100 + 4
    assert len(counter._new) <= 1024
    assert len(figures._openings._counts) <= 100
    assert len(figures._sample.texts()) == 20
    assert len(figures._lengths["tokens"]._counts) <= 1024 + 512 * 2
