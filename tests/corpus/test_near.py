"""Near duplicates: found, never guessed, the first one kept, at a flat cost."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msm_ray.corpus import compact, filters, near, ngrams
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


class Reference:
    """The same rules, plainly: dicts of Python, datasketch's own index, sets of shingles."""

    def __init__(self, threshold: float, num_perm: int) -> None:
        self._threshold, self._num_perm = threshold, num_perm
        self._first: dict[str, str] = {}
        self._index = MinHashLSH(num_perm=num_perm, params=near.bands(threshold, num_perm))
        self._kept: list[tuple[str, set[int]]] = []
        self.crowded = 0

    def check(self, id: str, text: str) -> tuple[str, str] | None:
        earlier = self._first.setdefault(filters.normalise(text), id)
        if earlier != id:
            return "duplicate", earlier
        shingles = set(ngrams.hashes(ngrams.words(text), near.SHINGLE_WORDS).tolist())
        if not shingles:
            return None
        sketch = MinHash(self._num_perm, seed=near._SEED, hashfunc=int, scheme="affine32")
        sketch.update_batch([value & 0xFFFFFFFF for value in shingles])
        candidates = sorted(self._index.query(sketch))
        for number in candidates:
            name, other = self._kept[number]
            if len(shingles & other) / len(shingles | other) >= self._threshold:
                return "near_duplicate", name
        if len(candidates) >= near.CROWD:
            self.crowded += 1
            return None
        self._index.insert(len(self._kept), sketch)
        self._kept.append((id, shingles))
        return None


def corpus(rng: random.Random, count: int) -> list[str]:
    """New documents, short ones, repeats, and edits of a few words of earlier ones."""
    made: list[list[str]] = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.5 or not made:
            words = rng.choices(VOCABULARY, k=rng.randint(0, 90))
        else:
            words = list(rng.choice(made))
            for _ in range(rng.randint(0, 6) if words and kind < 0.9 else 0):
                words[rng.randrange(len(words))] = rng.choice(VOCABULARY)
        made.append(words)
    return [" ".join(words) for words in made]


@settings(patient, max_examples=30)
@given(
    st.randoms(use_true_random=False),
    st.integers(0, 120),
    st.sampled_from([(0.8, 128), (0.5, 128), (0.9, 64), (0.3, 100), (1.0, 16)]),
)
def test_verdicts_are_those_of_the_reference(
    rng: random.Random, count: int, setting: tuple[float, int]
) -> None:
    filter, reference = NearDuplicates(*setting), Reference(*setting)
    for number, text in enumerate(corpus(rng, count)):
        assert filter.check(str(number), text) == reference.check(str(number), text)


@pytest.mark.parametrize("waiting", [compact.SPOOL_BYTES, 1 << 14])
def test_verdicts_of_many_are_those_of_the_reference(
    waiting: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past several doublings of the tables, with a crowd, and with shingles in memory and not."""
    monkeypatch.setattr(compact, "SPOOL_BYTES", waiting)
    rng = random.Random(8)
    form = document(9, 120)
    texts = corpus(rng, 1800)
    texts += [" ".join(form + rng.choices(VOCABULARY, k=25)) for _ in range(150)]
    texts += corpus(rng, 300) + rng.sample(texts, 100)
    filter, reference = NearDuplicates(scratch=tmp_path), Reference(0.8, 128)
    found = [filter.check(str(number), text) for number, text in enumerate(texts)]
    assert found == [reference.check(str(number), text) for number, text in enumerate(texts)]
    assert filter.crowded == reference.crowded > 0
    assert sum(pair is not None and pair[0] == "near_duplicate" for pair in found) > 50
    filter.close()


def test_memory_is_counted_and_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Just after a doubling, when the tables are at their largest a document."""
    monkeypatch.setattr(compact, "SPOOL_BYTES", 1 << 16)
    filter = NearDuplicates(scratch=tmp_path)
    count = 4097
    for number in range(count):
        assert filter.check(f"{number:024d}", " ".join(document(number, 40))) is None
    tables = filter._index.nbytes
    assert tables == 16 * 12 * 8192
    assert tables < filter.nbytes < 500 * count + (1 << 17)
    filter.close()


def test_no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "SPOOL_BYTES", 1 << 12)
    scratch = tmp_path / "not" / "there"
    filter = NearDuplicates(scratch=scratch)
    for number in range(20):
        filter.check(str(number), " ".join(document(number)))
    assert filter.check("near", " ".join(edited(document(0), 2))) == ("near_duplicate", "0")
    assert list(scratch.iterdir()) == []  # it has no name even while it is there
    filter.close()
    with pytest.raises(ValueError, match="closed file"):
        filter.check("late", " ".join(edited(document(1), 2)))


def test_sketches_are_those_of_datasketch() -> None:
    shingles = np.unique(np.random.default_rng(0).integers(2**64, size=300, dtype=np.uint64))
    plain = MinHash(128, seed=near._SEED, hashfunc=int, scheme="affine32")
    plain.update_batch((shingles & np.uint64(0xFFFFFFFF)).tolist())
    assert (NearDuplicates()._sketched(shingles) == plain.hashvalues).all()


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
