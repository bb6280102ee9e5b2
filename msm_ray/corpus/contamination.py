"""Documents that hold what the evaluation asks: they would test memory, not generalisation.

Word n-grams, as is usual for training sets of language models (Brown et al. 2020, "Language Models
are Few-Shot Learners", appendix C, removes what shares 13 words with a benchmark; questions here
are shorter, and a document that is lost costs little).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msm_ray.corpus import ngrams
from msm_ray.errors import UserError

CONTAMINATED = "contaminated"
REASONS = {CONTAMINATED: "shares a piece of its words with an item of the evaluation"}

LEAST_WORDS = 4  # an item of fewer words stands in many a text by chance


def item_texts(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(id, text) of everything that a row of EVAL_ITEM_SCHEMA shows to a model."""
    for text in (row["prompt"], row["open_prompt"], *row["options"]):
        if text:
            yield row["id"], text


class Contamination:
    """Finds in a text what it shares with the items of an evaluation.

    Args:
        items: (id, text), an id as often as the item has texts: its question, its options.
        n: words in a row, without case and punctuation, that make a document contaminated.
        allowed: texts whose words may be in both, above all the spec: what the spec says in n words
            is what documents are there to say. Also for the phrases that all items share.

    An item text of fewer than n words contaminates as a whole; one of fewer than `LEAST_WORDS` is
    not looked for, and its id is in ``skipped``.

    The items are indexed once, at about 250 bytes an n-gram. A document costs one look-up a word
    for n, and one for each length below n that an item has, however many items there are.
    """

    def __init__(
        self, items: Iterable[tuple[str, str]], n: int = 8, *, allowed: Sequence[str] = ()
    ) -> None:
        if n < LEAST_WORDS:
            raise UserError(f"contamination n-grams are {n} words; allowed: {LEAST_WORDS} or more")
        self.skipped: tuple[str, ...] = ()
        self._n = n
        self._items: list[tuple[str, list[str]]] = []
        # By length in words: hash of an n-gram -> (item, position of its first word in the item).
        self._index: dict[int, dict[int, tuple[int, int]]] = {n: {}}
        self._allowed_words = [ngrams.words(text) for text in allowed]
        self._allowed: dict[int, set[int]] = {}
        skipped = []
        for id, text in items:
            words = ngrams.words(text)
            if len(words) < LEAST_WORDS:
                skipped.append(id)
            else:
                self._add(id, words)
        self.skipped = tuple(dict.fromkeys(skipped))

    def _add(self, id: str, words: list[str]) -> None:
        length = min(self._n, len(words))
        if length not in self._allowed:
            self._allowed[length] = {
                value for a in self._allowed_words for value in ngrams.hashes(a, length).tolist()
            }
        index = self._index.setdefault(length, {})
        for position, value in enumerate(ngrams.hashes(words, length).tolist()):
            if value not in self._allowed[length]:
                index.setdefault(value, (len(self._items), position))
        self._items.append((id, words))

    def check(self, text: str) -> tuple[str, str, str] | None:
        """(CONTAMINATED, id of the item, the words that both have), or None.

        Of several the one that the text has first, and n words before whole shorter items. The
        words are as `ngrams.words` reads them, as many as both have in a row.
        """
        words = ngrams.words(text)
        for length in sorted(self._index, reverse=True):
            index = self._index[length]
            for start, value in enumerate(ngrams.hashes(words, length).tolist()):
                if value in index:
                    item, position = index[value]
                    shared = _shared(words[start:], self._items[item][1][position:])
                    if len(shared) >= length:  # else two n-grams with one hash
                        return CONTAMINATED, self._items[item][0], " ".join(shared)
        return None


def _shared(left: list[str], right: list[str]) -> list[str]:
    """The words with which both begin."""
    count = 0
    while count < min(len(left), len(right)) and left[count] == right[count]:
        count += 1
    return left[:count]
