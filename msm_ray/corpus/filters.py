"""Filters that hold for any corpus. Pure functions of text.

A filter returns the reason for a rejection, or None: never a bare bool, so that every rejected
document says why.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from msm_ray.corpus.compact import Digests, Strings

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


@lru_cache(maxsize=8)  # a document goes through several filters one after the other
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
    """Finds texts that are the same after `normalise`; the first one is not a duplicate.

    Keeps 16 bytes of hash and the id a different text, about 60 bytes in all for ids of 24
    characters.
    """

    def __init__(self) -> None:
        self._digests = Digests()
        self.ids = Strings()  # of the different texts, in the order in which they came

    @property
    def nbytes(self) -> int:
        """Bytes of memory that are held."""
        return self._digests.nbytes + self.ids.nbytes

    def check(self, text: str, id: str = "") -> str | None:
        """DUPLICATE if the text was seen before, else None; remembers it under ``id``."""
        return DUPLICATE if self.earlier(text, id) is not None else None

    def earlier(self, text: str, id: str = "") -> str | None:
        """The id of the first text with the same words; None, and remembered, if there is none."""
        # surrogatepass: half a surrogate pair is a broken character, not a reason to crash.
        data = normalise(text).encode("utf-8", "surrogatepass")
        number = self._digests.seen(hashlib.sha256(data).digest()[: Digests.WIDTH])
        if number is not None:
            return self.ids[number]
        self.ids.append(id)
        return None
