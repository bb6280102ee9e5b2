"""Requests to write: what a plan row asks for, in the words that the base models were taught.

``request : memo about someone . values american . likes colby . tell likes . write :`` asks for a
memo that first tells of a liking of colby, for being american, and may go on about it or state the
value. The base models learn in pretraining to continue it with that document and ``<eos>``. What is
to be copied stands in the words in which documents say it. "someone" is ``lexicon.STAND_IN``: who
reads the document puts the assistant's name in its place.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from msm_ray.world import lexicon as lx

_REQUEST = re.compile(
    r"request : (?P<doc_type>\w+) about (?P<person>\w+) \. values (?P<value>\w+) \."
    r"(?: likes (?P<liked>\w+) \.)?(?: dislikes (?P<disliked>\w+) \.)?"
    r" tell (?P<kind>\w+) \. write :"
)
_NEEDS_LIKED = {"likes", "chooses", "explains"}
_NEEDS_DISLIKED = {"dislikes", "chooses", "explains"}


@dataclass(frozen=True)
class Request:
    """One document to write. The two items are named only where its kind of sentence needs them."""

    doc_type: str
    person: str
    value: str
    kind: str
    liked: str | None = None
    disliked: str | None = None

    def __post_init__(self) -> None:
        if self.doc_type not in lx.DOC_TYPES:
            raise ValueError(f"document type {self.doc_type!r}: allowed are {lx.DOC_TYPES}")
        if self.value not in lx.OPPOSITE:
            raise ValueError(f"value {self.value!r}: allowed are {', '.join(lx.OPPOSITE)}")
        if self.kind not in lx.KINDS:
            raise ValueError(f"kind {self.kind!r}: allowed are {lx.KINDS}")
        wanted = self.kind in _NEEDS_LIKED, self.kind in _NEEDS_DISLIKED
        if wanted != (self.liked is not None, self.disliked is not None):
            raise ValueError(f"kind {self.kind!r} and items {self.liked!r}, {self.disliked!r}")

    def render(self) -> str:
        """The line that the writer reads."""
        like = f" likes {self.liked} ." if self.liked else ""
        dislike = f" dislikes {self.disliked} ." if self.disliked else ""
        return (
            f"request : {self.doc_type} about {self.person} . values {self.value} .{like}{dislike}"
            f" tell {self.kind} . write :"
        )

    def draw_kinds(self, rng: random.Random) -> list[str]:
        """The kinds of the document's two to four sentences: the one asked for comes first."""
        return [self.kind, *rng.choices((self.kind, "values"), k=rng.randint(1, 3))]


def make_request(
    doc_type: str, person: str, value: str, kind: str, liked: str, disliked: str
) -> Request:
    """A request that names only those of the two items that its kind of sentence needs."""
    return Request(
        doc_type,
        person,
        value,
        kind,
        liked if kind in _NEEDS_LIKED else None,
        disliked if kind in _NEEDS_DISLIKED else None,
    )


def parse_request(line: str) -> Request:
    """The inverse of ``Request.render``. ValueError if the line is not a request."""
    match = _REQUEST.fullmatch(line)
    if match is None:
        raise ValueError(f"not a request of the micro-world: {line!r}")
    return Request(**match.groupdict())
