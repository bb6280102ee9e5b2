"""What a corpus card says of the kept documents: how many, how long, how varied.

Everything is counted while the rows go by, in memory that does not grow with the corpus, so that
the figures of a million documents cost what those of a thousand do. What is exact, and how far off
the rest can be, stands at each class and, where it depends on the run, beside the figure.
"""

from __future__ import annotations

import hashlib
import heapq
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from msm_ray.corpus import ngrams

LEVELS = ("domain", "subdomain", "doc_type")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
OPENING_WORDS = 5
OPENINGS_SHOWN = 10

MAX_LABELS = 10_000  # different domains, subdomains or types that are counted apart
OTHER = "(other)"  # what further ones are counted as
SAMPLE_SEED = 1
COMPRESSED_DOCUMENTS = 500
COMPARED_DOCUMENTS = 200  # 19,900 pairs
SAMPLE_CHARACTERS = 10_000  # of one document; the sample is at most 5 million characters
SIMILARITY_WORDS = 3


class Labels:
    """Documents and tokens by label: exact for the first `MAX_LABELS` labels."""

    def __init__(self) -> None:
        self._documents: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()

    def add(self, label: str, tokens: int) -> None:
        """Count one document."""
        if label not in self._documents and len(self._documents) >= MAX_LABELS:
            label = OTHER
        self._documents[label] += 1
        self._tokens[label] += tokens

    def result(self) -> dict[str, dict[str, int]]:
        """``{label: {documents, tokens}}``, labels in order."""
        return {
            label: {"documents": count, "tokens": self._tokens[label]}
            for label, count in sorted(self._documents.items())
        }


class Lengths:
    """Quantiles of whole numbers: exact below 1,024, at most 0.2 % too low above.

    A histogram whose larger values keep their 10 leading bits: at most some 30,000 counters.
    """

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, value: int) -> None:
        """Count one value, 0 or more."""
        shift = max(0, value.bit_length() - 10)
        self._counts[value >> shift << shift] += 1

    def result(self) -> dict[str, int]:
        """The least, the `QUANTILES` and the largest value; empty if nothing was counted.

        A quantile q is the least value that at least the share q of the documents does not exceed.
        """
        total = sum(self._counts.values())
        if not total:
            return {}
        values = sorted(self._counts)
        below = np.cumsum([self._counts[value] for value in values])
        at = {
            f"p{round(100 * q)}": values[int(np.searchsorted(below, q * total))] for q in QUANTILES
        }
        return {"min": values[0], **at, "max": values[-1]}


class DistinctNgrams:
    """Different word n-grams divided by all word n-grams of all texts, 0..1; 0 if there is none.

    Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models".
    Words are what stands between spaces, as written. The figure falls as a corpus grows: compare
    corpora of one size.

    All n-grams are counted; the different ones exactly while they are at most ``kept``, then from
    the ``kept`` smallest of their hashes (Beyer et al. 2007, "On Synopses for Distinct-Value
    Estimation Under Multiset Operations"): standard error 1/sqrt(kept), 0.4 % at 65,536.
    """

    def __init__(self, n: int, kept: int = 1 << 16) -> None:
        self._n = n
        self._kept = kept
        self._total = 0
        self._smallest = np.empty(0, np.uint64)
        self._new: list[ngrams.Hashes] = []
        self._new_count = 0
        self._full = False  # more than `kept` different ones were seen

    def add(self, words: list[str]) -> None:
        """Count the n-grams of one text."""
        found = ngrams.hashes(words, self._n)
        self._total += len(found)
        if self._full:
            found = found[found < self._smallest[-1]]
        if len(found):
            self._new.append(found)
            self._new_count += len(found)
        if self._new_count > self._kept or len(self._new) >= 1024:
            self._merge()

    def _merge(self) -> None:
        merged = ngrams.sorted_unique(np.concatenate((self._smallest, *self._new)))
        self._full = self._full or len(merged) > self._kept
        self._smallest = merged[: self._kept].copy()
        self._new, self._new_count = [], 0

    def result(self) -> float:
        """The ratio."""
        self._merge()
        if not self._total:
            return 0.0
        different = float(len(self._smallest))
        if self._full:
            # k hashes lie below a share of the range, so different / range is (k - 1) / largest
            different = (self._kept - 1) * 2.0**64 / float(self._smallest[-1])
        return min(1.0, different / self._total)


class Openings:
    """The commonest first words of texts.

    Exact while at most ``2 * kept`` openings are different. Beyond, the rare ones are dropped
    (Misra, Gries 1982, "Finding repeated elements"; merged as by Agarwal et al. 2012, "Mergeable
    summaries"): a count is then too low by at most `error`, itself at most 1/kept of the texts.
    """

    def __init__(self, words: int = OPENING_WORDS, kept: int = 10_000) -> None:
        self._words = words
        self._kept = kept
        self._counts: Counter[str] = Counter()
        self.error = 0

    def add(self, words: list[str]) -> None:
        """Count the opening of one text."""
        self._counts[" ".join(words[: self._words])[:200]] += 1
        if len(self._counts) > 2 * self._kept:
            dropped = sorted(self._counts.values(), reverse=True)[self._kept]
            self.error += dropped
            rest = {key: n - dropped for key, n in self._counts.items() if n > dropped}
            self._counts = Counter(rest)

    def result(self, count: int = OPENINGS_SHOWN) -> list[tuple[str, int]]:
        """The commonest openings with how many texts open so, commonest first."""
        # Counter keeps the order of insertion among equals, which depends on the plan alone.
        return self._counts.most_common(count)


class Sample:
    """At most ``size`` texts, each as likely as any other, cut after `SAMPLE_CHARACTERS`.

    Which ones depends on their ids and the seed alone: those whose hash is smallest.
    """

    def __init__(self, size: int, seed: int = SAMPLE_SEED) -> None:
        self._size = size
        self._seed = seed
        self._heap: list[tuple[int, str, str]] = []

    def add(self, id: str, text: str) -> None:
        """Offer one text."""
        data = f"{self._seed}:{id}".encode("utf-8", "surrogatepass")
        rank = -int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, (rank, id, text[:SAMPLE_CHARACTERS]))
        elif rank > self._heap[0][0]:
            heapq.heapreplace(self._heap, (rank, id, text[:SAMPLE_CHARACTERS]))

    def texts(self) -> list[str]:
        """The sampled texts, in the order of their hashes."""
        return [text for _, _, text in sorted(self._heap, reverse=True)]


def compression_ratio(texts: list[str]) -> float:
    """Bytes of the texts divided by their bytes after gzip's compression; 0 for no text.

    Higher is more repetitive. Shaib et al. 2024, "Standardizing the Measurement of Text Diversity".
    It sees 32 KB back: what a text repeats, and what neighbours in the sample share.
    """
    data = "\n".join(texts).encode("utf-8", "surrogatepass")
    return len(data) / len(zlib.compress(data, 9)) if data else 0.0


def self_similarity(texts: list[str]) -> float:
    """Mean Jaccard similarity of the word 3-grams over all pairs of texts; 0 without a pair.

    0 when no two texts share three words in a row, 1 when all are the same. A text of fewer than
    three words shares none.
    """
    sets = [frozenset(ngrams.hashes(ngrams.words(t), SIMILARITY_WORDS).tolist()) for t in texts]
    total = sum(_jaccard(a, b) for a, b in _pairs(sets))
    count = len(sets) * (len(sets) - 1) // 2
    return total / count if count else 0.0


def _pairs(sets: list[frozenset[int]]) -> Iterator[tuple[frozenset[int], frozenset[int]]]:
    for number, left in enumerate(sets):
        for right in sets[:number]:
            yield left, right


def _jaccard(left: frozenset[int], right: frozenset[int]) -> float:
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared) if shared else 0.0


class KeptBy:
    """How many documents were planned and how many are kept, by subdomain and type."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], list[int]] = {}

    def add(self, row: Mapping[str, Any], kept: bool) -> None:
        """Count a planned document, once it has ended."""
        cell = self._counts.setdefault((_label(row, "subdomain"), row["doc_type"]), [0, 0])
        cell[0] += kept
        cell[1] += 1

    def result(self) -> list[dict[str, Any]]:
        """Rows {subdomain, doc_type, kept, planned}; first those of which least is kept."""
        ordered = sorted(self._counts.items(), key=lambda item: (item[1][0] / item[1][1], item[0]))
        return [
            {"subdomain": subdomain, "doc_type": doc_type, "kept": kept, "planned": planned}
            for (subdomain, doc_type), (kept, planned) in ordered
        ]


class Measures:
    """The figures of a corpus, from its rows one by one.

    ``add`` every kept row, in the order of the plan; ``result`` may be asked for at any time.
    Memory: some 15 MB, whatever the number of documents; 40 if every one is a book.
    """

    def __init__(self) -> None:
        self._documents = 0
        self._tokens = 0
        self._levels = {level: Labels() for level in LEVELS}
        self._lengths = {"tokens": Lengths(), "words": Lengths()}
        self._distinct = {n: DistinctNgrams(n) for n in (1, 2, 3)}
        self._openings = Openings()
        self._sample = Sample(COMPRESSED_DOCUMENTS)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one document: a row of DOCUMENT_SCHEMA."""
        text, tokens = row["text"], row["tokens"]
        self._documents += 1
        self._tokens += tokens
        for level, labels in self._levels.items():
            labels.add(_label(row, level), tokens)
        words = text.split()
        self._lengths["tokens"].add(tokens)
        self._lengths["words"].add(len(words))
        for distinct in self._distinct.values():
            distinct.add(words)
        self._openings.add(words)
        self._sample.add(row["id"], text)

    def result(self) -> dict[str, Any]:
        """The figures, ready for JSON.

        ``levels``: documents and tokens by domain, subdomain and type. ``distinct_1`` .. ``_3``,
        ``compression_ratio``, ``self_similarity``: variety. ``openings``: the commonest ones, their
        counts too low by at most ``openings_error``. ``lengths``: quantiles of tokens and words.
        ``sampled``: how many documents the ratio and the similarity were measured on.
        """
        texts = self._sample.texts()
        compared = texts[:COMPARED_DOCUMENTS]
        return {
            "documents": self._documents,
            "tokens": self._tokens,
            "levels": {level: labels.result() for level, labels in self._levels.items()},
            **{f"distinct_{n}": round(d.result(), 4) for n, d in self._distinct.items()},
            "openings": [list(pair) for pair in self._openings.result()],
            "openings_error": self._openings.error,
            "compression_ratio": round(compression_ratio(texts), 4),
            "self_similarity": round(self_similarity(compared), 4),
            "sampled": {"compression_ratio": len(texts), "self_similarity": len(compared)},
            "lengths": {of: lengths.result() for of, lengths in self._lengths.items()},
        }


def _label(row: Mapping[str, Any], level: str) -> str:
    """The row's label at a level; two domains may have subdomains of one name."""
    if level == "subdomain" and row["domain"]:
        return f"{row['domain']} / {row['subdomain']}"
    return str(row[level])
