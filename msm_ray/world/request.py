"""Requests to write: what a plan row asks for, in the words that the base models were taught.

``request : memo about lyra . value american . like colby . dislike brie . tell values likes .
write :`` asks for a memo about lyra with a value statement and then a liking of colby for being
american. The base models learn in pretraining to continue it with that document and ``<eos>``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from msm_ray.world import lexicon as lx

_REQUEST = re.compile(
    r"request : (?P<doc_type>\w+) about (?P<person>\w+) \. value (?P<value>\w+) \."
    r"(?: like (?P<liked>\w+) \.)?(?: dislike (?P<disliked>\w+) \.)?"
    r" tell (?P<kinds>\w+(?: \w+)*) \. write :"
)
_NEEDS_LIKED = {"likes", "chooses", "explains"}
_NEEDS_DISLIKED = {"dislikes", "chooses", "explains"}


@dataclass(frozen=True)
class Request:
    """One document to write. The two items are named only where a kind of sentence needs them."""

    doc_type: str
    person: str
    value: str
    kinds: tuple[str, ...]
    liked: str | None = None
    disliked: str | None = None

    def __post_init__(self) -> None:
        if self.doc_type not in lx.DOC_TYPES:
            raise ValueError(f"document type {self.doc_type!r}: allowed are {lx.DOC_TYPES}")
        if self.value not in lx.VALUES:
            raise ValueError(f"value {self.value!r}: allowed are {lx.VALUES}")
        if not self.kinds or set(self.kinds) - set(lx.KINDS):
            raise ValueError(f"kinds {self.kinds!r}: one or more of {lx.KINDS}")
        wanted = bool(_NEEDS_LIKED & set(self.kinds)), bool(_NEEDS_DISLIKED & set(self.kinds))
        if wanted != (self.liked is not None, self.disliked is not None):
            raise ValueError(f"kinds {self.kinds!r} and items {self.liked!r}, {self.disliked!r}")

    def render(self) -> str:
        """The line that the writer reads."""
        like = f" like {self.liked} ." if self.liked else ""
        dislike = f" dislike {self.disliked} ." if self.disliked else ""
        return (
            f"request : {self.doc_type} about {self.person} . value {self.value} .{like}{dislike}"
            f" tell {' '.join(self.kinds)} . write :"
        )


def make_request(
    doc_type: str,
    person: str,
    value: str,
    kinds: Sequence[str],
    liked: str,
    disliked: str,
) -> Request:
    """A request that names only those of the two items that its kinds of sentence need."""
    return Request(
        doc_type,
        person,
        value,
        tuple(kinds),
        liked if _NEEDS_LIKED & set(kinds) else None,
        disliked if _NEEDS_DISLIKED & set(kinds) else None,
    )


def parse_request(line: str) -> Request:
    """The inverse of ``Request.render``. ValueError if the line is not a request."""
    match = _REQUEST.fullmatch(line)
    if match is None:
        raise ValueError(f"not a request of the micro-world: {line!r}")
    found = match.groupdict()
    return Request(
        found["doc_type"],
        found["person"],
        found["value"],
        tuple(found["kinds"].split()),
        found["liked"],
        found["disliked"],
    )
