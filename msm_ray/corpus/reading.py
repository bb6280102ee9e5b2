"""From what a language model answered to what may be used of it, or the reason why nothing may.

A writer answers ``<scratchpad>`` plan ``</scratchpad><content>`` document ``</content>``; only the
content is ever a document. A judge answers in JSON. A reasoning model answers ``<think>`` reasoning
``</think>`` answer. Each is read as strictly as it was asked for: an answer in another form is a
rejection with a reason, never a guess, because a guess that is wrong is trained on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import jsonschema
import numpy as np

from msm_ray.corpus import leftovers, ngrams
from msm_ray.corpus.filters import EMPTY, MEANINGS, TRUNCATED

NO_CONTENT = "no_content"
UNCLOSED_CONTENT = "unclosed_content"
UNCLOSED_SCRATCHPAD = "unclosed_scratchpad"
SEVERAL_CONTENTS = "several_contents"
TAG_LEFT = "tag_left"
SCRATCHPAD_LEAKED = "scratchpad_leaked"
REFUSAL = "refusal"
PREAMBLE_LEFT = "preamble_left"
PLACEHOLDER_LEFT = "placeholder_left"
BROKEN_JSON = "broken_json"
NOT_THE_SCHEMA = "not_the_schema"
UNCLOSED_THINK = "unclosed_think"
NESTED_THINK = "nested_think"
STRAY_THINK = "stray_think"

# Why an answer is rejected and what that means.
REASONS = {
    TRUNCATED: MEANINGS[TRUNCATED],
    REFUSAL: "the model refused, in its own voice, instead of writing",
    UNCLOSED_SCRATCHPAD: "the plan before the document was not closed",
    UNCLOSED_CONTENT: "<content> was not closed",
    NO_CONTENT: "no <content> after the scratchpad",
    SEVERAL_CONTENTS: "more than one <content> or </content>: which is the document is a guess",
    EMPTY: MEANINGS[EMPTY],
    TAG_LEFT: "holds a tag of the prompt, of a reasoning model or of a chat template",
    SCRATCHPAD_LEAKED: "repeats a long piece of the plan word for word",
    PREAMBLE_LEFT: "holds words to whoever asked, such as 'Sure, here is'",
    PLACEHOLDER_LEFT: "holds a place that was to be filled in, such as [Your Name]",
    BROKEN_JSON: "not JSON, or JSON that other readers would read differently",
    NOT_THE_SCHEMA: "JSON, but not of the form that was asked for",
    UNCLOSED_THINK: "<think> was not closed",
    NESTED_THINK: "<think> inside <think>, or reasoning a second time",
    STRAY_THINK: "text before <think>, or </think> without <think>",
}

LEAK_WORDS = 40  # in a row; a title or a rule that is quoted is shorter
_LEAST_PLAN_WORDS = 20  # a shorter plan is little more than the title
_GRAM = 8

_TAG = re.compile(r"<\s*(/?)\s*(scratchpad|content|think)\s*>", re.IGNORECASE)
_LEFT = re.compile(
    r"<\s*/?\s*(?:scratchpad|content|think|thinking|thoughts?|reasoning|reflection|model_spec)\b"
    r"|<\|[^|<>\s]{1,40}\|>|\[/?INST\]|<</?SYS>>|(?-i:\[/?THINK\])"
    r"|^[ \t>]*(?:[*_]{2}|#{1,6} +)scratchpad[ \t:*_]*$|^[ \t>]*[*_]{0,3}scratchpad[*_]{0,3}:",
    re.IGNORECASE | re.MULTILINE,
)
# Also words of HTML and of other code, which a document may show as such.
_LEFT_IN_PROSE = re.compile(r"<\s*/?\s*(?:section|rule|extract|answer)(?:\s[^<>]{0,80})?\s*>", re.I)
_THINK = re.compile(r"<\s*(/?)\s*think\s*>", re.IGNORECASE)
_FENCE = re.compile(r"```(?:json|JSON)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_WORD = re.compile(r"\w")


def read_document(
    completion: str, *, ended: bool = True, quotable: str = "", spec: str = ""
) -> tuple[str, str | None]:
    """(the document, None), or (the completion as it came, why there is no document in it).

    Args:
        completion: what the writer wrote. If its prompt ended with ``<scratchpad>``, put that
            before it.
        ended: the writer stopped by itself; half a document is none.
        quotable: text that plan and document may both quote at length, such as the spec's section.
        spec: whose own braces and brackets are no places to be filled in.

    A ``<content>`` in a scratchpad, or before one that follows it, is a draft. What stands outside
    of the tags is not looked at. ``<think>`` counts as a scratchpad, but a document may repeat what
    was drafted there.
    """
    if not ended:
        return completion, TRUNCATED
    parts = _parts(completion)
    if parts.reason:
        refused = parts.reason == NO_CONTENT and leftovers.refusal(parts.rest)
        return completion, REFUSAL if refused else parts.reason
    text = parts.contents[0].strip()
    reason = _flaw(text, spec) or (
        SCRATCHPAD_LEAKED if leaked(parts.plan, text, quotable) else None
    )
    return (completion, reason) if reason else (text, None)


def _flaw(text: str, spec: str) -> str | None:
    """What is wrong with a document as a text."""
    if not _WORD.search(text):
        return EMPTY
    if tag_left(text):
        return TAG_LEFT
    for reason, found in (
        (REFUSAL, leftovers.refusal),
        (PREAMBLE_LEFT, leftovers.preamble),
        (PLACEHOLDER_LEFT, partial(leftovers.placeholder, quotable=spec)),
    ):
        if found(text):
            return reason
    return None


def tag_left(text: str) -> str | None:
    """The first tag in a text that belongs to a prompt or a template and not to the text."""
    found = _LEFT.search(text)
    if found is None and "<" in text:
        found = _LEFT_IN_PROSE.search(leftovers.without_code(text))
    return found[0] if found else None


@dataclass
class _Parts:
    """An answer taken apart at its tags."""

    plan: str = ""
    contents: list[str] = field(default_factory=list)  # after the last scratchpad
    rest: str = ""  # after the last tag
    reason: str | None = None

    def add_plan(self, name: str, text: str) -> None:
        """A plan has ended: what was written before it was a draft."""
        self.contents = []
        if name == "scratchpad":  # a reasoning model may well draft the document in <think>
            self.plan += text + "\n"


def _parts(completion: str) -> _Parts:
    parts = _Parts(rest=_TAG.split(completion)[-1])
    inside, start, strays = "", 0, 0  # the name of the tag we are in, and where its text begins
    for tag in _TAG.finditer(completion):
        closing, name = bool(tag[1]), tag[2].lower()
        if inside:
            # Any other tag inside stays in the text, where it is found as a left-over.
            if closing and name == inside:
                piece = completion[start : tag.start()]
                inside = ""
                if name == "content":
                    parts.contents.append(piece)
                else:
                    parts.add_plan(name, piece)
                    strays = 0
        elif not closing:
            inside, start = name, tag.end()
        elif name == "content":
            strays += 1
        else:  # its beginning was in the prompt
            parts.add_plan(name, completion[: tag.start()])
            strays = 0
    if inside:
        parts.reason = UNCLOSED_CONTENT if inside == "content" else UNCLOSED_SCRATCHPAD
    elif not parts.contents:
        parts.reason = NO_CONTENT
    elif len(parts.contents) > 1 or strays:
        parts.reason = SEVERAL_CONTENTS
    return parts


def leaked(plan: str, text: str, quotable: str = "") -> bool:
    """Whether a text repeats `LEAK_WORDS` words of a plan in a row, or a shorter plan as a whole.

    Words are compared without case and punctuation; those that ``quotable`` has too do not count.
    """
    planned = ngrams.words(plan)
    if len(planned) < _LEAST_PLAN_WORDS:
        return False
    secret = ngrams.unique(planned, _GRAM)
    secret = secret[~ngrams.contained(secret, _grams_of_shared(quotable))]
    hits = ngrams.contained(ngrams.hashes(ngrams.words(text), _GRAM), secret)
    needed = min(LEAK_WORDS, len(planned)) - _GRAM + 1
    # The longest run of hits: the distance between two misses, one of them before and after all.
    misses = np.flatnonzero(np.concatenate(([True], ~hits, [True])))
    return bool(len(hits)) and int(np.max(np.diff(misses))) - 1 >= needed


@lru_cache(maxsize=512)
def _grams_of_shared(text: str) -> ngrams.Hashes:
    """The n-grams of a text that many documents may quote: those about one section."""
    return ngrams.unique(ngrams.words(text), _GRAM)


def read_json(text: str, schema: Mapping[str, Any]) -> tuple[Any, str | None]:
    """(the value, None), or (None, why it is not usable): the whole answer is one JSON value.

    A code fence around it is taken off; words around it are not. Names that occur twice, NaN and
    infinities, which JSON does not have, and halves of surrogate pairs, which cannot be stored, are
    broken JSON.
    """
    text = text.strip()
    fence = _FENCE.fullmatch(text)
    try:
        value = json.loads(
            fence[1] if fence else text,
            object_pairs_hook=_object,
            parse_constant=_not_json,
        )
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError):
        return None, BROKEN_JSON
    try:
        valid = jsonschema.Draft202012Validator(schema).is_valid(value)
    except RecursionError:
        return None, BROKEN_JSON
    return (value, None) if valid else (None, NOT_THE_SCHEMA)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name occurs twice")
    return made


def _not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def split_reasoning(text: str, *, opened: bool = False) -> tuple[str, str, str | None]:
    """(reasoning, answer, None), or ("", "", why the two cannot be told apart).

    ``opened``: the chat template has written ``<think>`` already, so the text begins inside. An
    answer without ``<think>`` has the reasoning "". No answer that is returned holds a tag of
    reasoning, of whatever spelling, so none holds a trace of one that was cut wrongly.
    """
    tags = list(_THINK.finditer(("<think>" if opened else "") + text))
    text = ("<think>" if opened else "") + text
    reasoning, answer = "", text
    if tags:
        first = tags[0]
        if first[1] or text[: first.start()].strip():
            return "", "", STRAY_THINK
        if len(tags) == 1:
            return "", "", UNCLOSED_THINK
        if len(tags) > 2 or not tags[1][1]:
            return "", "", NESTED_THINK
        reasoning, answer = text[first.end() : tags[1].start()], text[tags[1].end() :]
    if tag_left(answer):
        return "", "", TAG_LEFT
    if not answer.strip():
        return "", "", EMPTY
    return reasoning.strip(), answer.strip(), None
