"""Word n-grams of a text as 64-bit numbers, the same on every machine and in every process.

Near duplicates, contamination, leaked plans and measures of variety all compare n-grams. Python's
own ``hash`` differs from process to process, and tuples of words cost ten times the memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from msm_ray.corpus.filters import normalise

Hashes = NDArray[np.uint64]

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses no bit


def words(text: str) -> list[str]:
    """The words of a text after `normalise`.

    A word is what stands between spaces and punctuation. Languages written without spaces come out
    as few and very long words, so that measures over n-grams mean little for them.
    """
    return normalise(text).split()


def hashes(words: Sequence[str], n: int) -> Hashes:
    """The hash of every n-gram, in the order of the words; empty if there are fewer than ``n``.

    Two different n-grams share a hash with probability 2^-64.
    """
    count = len(words) - n + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    single = np.fromiter(map(_word, words), np.uint64, len(words))
    mixed = np.zeros(count, np.uint64)
    for offset in range(n):
        mixed = mixed * _FACTOR + single[offset : offset + count]  # modulo 2^64
    return _finalised(mixed)


def unique(words: Sequence[str], n: int) -> Hashes:
    """The different hashes of `hashes`, sorted."""
    return sorted_unique(hashes(words, n))


def sorted_unique(values: Hashes) -> Hashes:
    """What ``np.unique`` gives, whose hash table takes several times as long for one text."""
    ordered = np.sort(values)
    is_new = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
    return ordered[is_new]


def contained(values: Hashes, among: Hashes) -> NDArray[np.bool_]:
    """Which of the values are in ``among``, a result of `unique`."""
    if not len(among):
        return np.zeros(len(values), np.bool_)
    places = np.searchsorted(among, values)
    places[places == len(among)] = 0
    found: NDArray[np.bool_] = among[places] == values
    return found


def jaccard(a: Hashes, b: Hashes) -> float:
    """Shared elements divided by all elements of two results of `unique`; 1 for two empty ones."""
    if not len(a) and not len(b):
        return 1.0
    # Each array is sorted and without repeats: an equal neighbour in the merged one is shared.
    merged = np.sort(np.concatenate((a, b)), kind="stable")
    shared = int(np.count_nonzero(merged[1:] == merged[:-1]))
    return shared / (len(a) + len(b) - shared)


@lru_cache(maxsize=1 << 16)
def _word(word: str) -> int:
    # surrogatepass: half a surrogate pair is a broken character, not a reason to crash.
    data = word.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _finalised(values: Hashes) -> Hashes:
    """MurmurHash3's 64-bit finaliser (Appleby, public domain): every bit depends on every bit."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))
