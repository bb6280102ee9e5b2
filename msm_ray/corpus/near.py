"""Near duplicates: documents that share most of their words in most of their order.

MinHash with locality-sensitive hashing (Broder 1997, "On the resemblance and containment of
documents"; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3) finds candidates
over word 5-shingles, and the exact Jaccard similarity of the shingles decides: a document is never
dropped because of what a sketch estimates.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from datasketch import MinHash
from numpy.typing import NDArray

from msm_ray.corpus import ngrams
from msm_ray.corpus.compact import BandIndex, Spool
from msm_ray.corpus.filters import DUPLICATE, MEANINGS, Duplicates
from msm_ray.errors import UserError

NEAR_DUPLICATE = "near_duplicate"
REASONS = {
    DUPLICATE: MEANINGS[DUPLICATE],
    NEAR_DUPLICATE: "shares most of its 5-word sequences with an earlier document of this corpus",
}

SHINGLE_WORDS = 5
CROWD = 64  # candidates from which on a document is not indexed
_SEED = 20_260_502  # fixed: another one would keep other documents
_RECALL = 0.9  # least probability that a pair of exactly the threshold becomes a candidate


def bands(threshold: float, num_perm: int) -> tuple[int, int]:
    """(bands, hashes in a band): as few bands as find a pair at the threshold with ``_RECALL``.

    A pair of similarity s agrees in at least one of b bands of r hashes with probability
    1 - (1 - s^r)^b. Memory grows with b; false candidates cost a comparison and no document, so
    recall decides. At 0.8 with 128 hashes: 16 bands of 8, which find a pair of similarity 0.80
    in 95 of 100 cases, of 0.85 in 99.4, of 0.90 in 99.99.
    """
    for rows in range(num_perm // 2, 0, -1):
        count = num_perm // rows
        if 1 - (1 - threshold**rows) ** count >= _RECALL:
            return count, rows
    raise UserError(f"threshold {threshold} with {num_perm} hashes: use more hashes")


class NearDuplicates:
    """Tells of each document in turn whether an earlier one is the same or nearly the same.

    Args:
        threshold: Jaccard similarity of the sets of 5-word shingles, above 0 and at most 1, from
            which on two documents are near duplicates.
        num_perm: hashes in a sketch; more find pairs at the threshold more surely.
        scratch: folder for a nameless file of the shingles; None for the system's own. `close`
            deletes it, and so does the end of the process.

    Ask in the order of the plan's index: the first of two near duplicates is the one that is kept.
    The same documents in the same order give the same answers on every machine. A rejected document
    is not indexed, so what is near to another is near to one that was kept; an exact repeat may be
    of one that was not.

    A text of fewer than 5 words has no shingle. It is compared exactly (`Duplicates`) and never
    near, because two notes that differ in one word of four are two notes.

    Cost: flat in the number of documents. No bucket of the index ever holds more than ``CROWD``
    documents, because a document that already has as many candidates is kept without being
    indexed: ``crowded`` counts those, and a later near duplicate of one is not found. They stand in
    a crowd of texts that are alike, but not as alike as the threshold: forms filled in.

    Memory: `nbytes`, with 16 bands 260 to 470 bytes a document (benchmarks/corpus/filters.md) and
    at most some 4 MB of shingles. The file has the rest of them, 8 bytes a shingle: 2.4 GB for a
    million documents of 300 words.
    """

    def __init__(
        self, threshold: float = 0.8, num_perm: int = 128, scratch: Path | None = None
    ) -> None:
        if not 0 < threshold <= 1:
            raise UserError(f"near-duplicate threshold is {threshold}; allowed: above 0, at most 1")
        if num_perm < 16:
            raise UserError(f"near-duplicate hashes are {num_perm}; allowed: 16 or more")
        self.threshold = threshold
        self.compared = 0  # exact comparisons so far
        self.crowded = 0  # documents that were kept and not indexed
        self._duplicates = Duplicates()
        self._sketch: Any = MinHash(num_perm, seed=_SEED, hashfunc=_as_it_is, scheme="affine32")
        self._index = BandIndex(*bands(threshold, num_perm))
        self._shingles = Spool(scratch)  # of the documents in the index
        self._numbers = array("I")  # of the same ones among the ids of `_duplicates`

    @property
    def nbytes(self) -> int:
        """Bytes of memory that are held for the documents so far."""
        numbers = self._numbers.itemsize * len(self._numbers)
        return self._duplicates.nbytes + self._index.nbytes + self._shingles.nbytes + numbers

    def check(self, id: str, text: str) -> tuple[str, str] | None:
        """(reason, id of the earlier document), or None for one that is new and is remembered."""
        earlier = self._duplicates.earlier(text, id)
        if earlier is not None:
            return DUPLICATE, earlier
        shingles = ngrams.unique(ngrams.words(text), SHINGLE_WORDS)
        if not len(shingles):
            return None
        tags = self._index.tags(self._sketched(shingles))
        candidates = self._index.find(tags)
        found = self._first_alike(shingles, candidates)
        if found is not None:
            return NEAR_DUPLICATE, self._duplicates.ids[self._numbers[found]]
        if len(candidates) >= CROWD:
            self.crowded += 1
            return None
        self._index.add(tags)
        self._shingles.append(shingles)
        self._numbers.append(len(self._duplicates.ids) - 1)
        return None

    def close(self) -> None:
        """Delete the file of shingles; nothing may be asked any more."""
        self._shingles.close()

    def _sketched(self, shingles: ngrams.Hashes) -> NDArray[np.uint32]:
        sketch = self._sketch.copy()
        # One "value" that is an array of them: they are hashed already, and one by one is slow.
        sketch.update_batch([shingles.astype(np.uint32)])
        hashes: NDArray[np.uint32] = sketch.hashvalues
        return hashes

    def _first_alike(self, shingles: ngrams.Hashes, candidates: Iterable[int]) -> int | None:
        """The earliest candidate that is at least as similar as the threshold."""
        for candidate in candidates:
            few, many = sorted((len(shingles), self._shingles.length(candidate)))
            if few < self.threshold * many:  # then no overlap reaches the threshold
                continue
            self.compared += 1
            if ngrams.jaccard(shingles, self._shingles[candidate]) >= self.threshold:
                return candidate
        return None


def _as_it_is(hashes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return hashes
