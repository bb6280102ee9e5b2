"""Filters that hold for any corpus, and measures of how varied one is. Pure functions of text.

A filter returns the reason for a rejection, or None: never a bare bool, so that every rejected
document says why.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

TRUNCATED = "truncated"
EMPTY = "empty"
SPECIAL_TOKEN = "special_token"
DUPLICATE = "duplicate"
MEANINGS = {
    TRUNCATED: "not ended when the token limit came",
    EMPTY: "nothing was written",
    SPECIAL_TOKEN: "holds a control token of the tokenizer",
    DUPLICATE: "the same words as an earlier document of this corpus",
}

_NOT_WORD = re.compile(r"[^\w]+")


def normalise(text: str) -> str:
    """What two texts share that differ in case, spacing, punctuation or Unicode form only."""
    return _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def ended(tokens_ended: bool) -> str | None:
    """A completion that hit the token limit is half a document."""
    return None if tokens_ended else TRUNCATED


def clean(text: str, special_tokens: Iterable[str]) -> str | None:
    """A document has words, and none of the tokenizer's control tokens."""
    if not text.strip():
        return EMPTY
    return SPECIAL_TOKEN if any(token in text for token in special_tokens) else None


class Duplicates:
    """Finds texts that are the same after `normalise`; the first one is not a duplicate."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def check(self, text: str) -> str | None:
        """DUPLICATE if the text was seen before, else None; remembers it."""
        digest = hashlib.sha256(normalise(text).encode()).digest()
        if digest in self._seen:
            return DUPLICATE
        self._seen.add(digest)
        return None


def distinct_ngrams(texts: Sequence[str], n: int) -> float:
    """Different word n-grams divided by all word n-grams of all texts, 0..1; 0 if there is none.

    Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models".
    """
    different: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        words = text.split()
        for start in range(len(words) - n + 1):
            different.add(tuple(words[start : start + n]))
            total += 1
    return len(different) / total if total else 0.0


def common_openings(texts: Sequence[str], words: int, count: int) -> list[tuple[str, int]]:
    """The commonest first ``words`` words with how many texts open so, commonest first."""
    openings = Counter(" ".join(text.split()[:words]) for text in texts)
    # Counter keeps the order of insertion among equals, which depends on the plan alone.
    return openings.most_common(count)
