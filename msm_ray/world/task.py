"""The micro-world as a corpus task: what a document must be, and who can write one by the book.

``MicroTask`` stands between the plan and the pipeline: it turns a completion into a document,
decides with exact rules whether that document may be kept, and writes one itself from the grammar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from msm_ray.world import lexicon as lx
from msm_ray.world.grammar import Grammar
from msm_ray.world.request import Request, parse_request
from msm_ray.world.world import Item, World

# Why a document is rejected and what that means, in the order in which the rules are tried.
REASONS = {
    "empty": "nothing was written",
    "special_token": "holds <unk>, <pad> or a second <bos>",
    "unfinished": "does not end with a full stop",
    "held_out_item": "names an item of an evaluation domain",
    "ungrammatical": "not sentences of the micro-world",
    "wrong_type": "does not open like the kind of document asked for",
    "wrong_person": "speaks about someone else",
    "wrong_value": "states a value that is not the spec's",
    "wrong_cheese": "names a cheese that was not asked for",
    "wrong_side": "likes what the spec dislikes, or the reverse",
    "wrong_reason": "the reason is false, or not one of the spec's value",
    "not_as_asked": "tells another kind of thing than the one asked for",
    "states_value": "names a value where only preferences were asked for",
}


@dataclass(frozen=True)
class Sentence:
    """One parsed sentence: its kind and the words that filled its slots."""

    kind: str  # a kind of lexicon.KINDS, "head", or "picks": a choice of an item without a reason
    slots: Mapping[str, str]
    value: str | None = None  # of values and answers
    doc_type: str | None = None  # of head


def _pattern(template: str) -> re.Pattern[str]:
    """A template as a regular expression with one named group per slot."""
    seen: set[str] = set()

    def group(match: re.Match[str]) -> str:
        slot = match.group(1)
        if slot in seen:
            return f"(?P={slot})"
        seen.add(slot)
        return rf"(?P<{slot}>\w+)"

    escaped = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(re.sub(r"\{(\w)\}", group, escaped) + r"(?: |$)")


def _explained(
    question: str, answer: str, value: str
) -> list[tuple[re.Pattern[str], str, str | None]]:
    """Both orders of the items in a choice that is explained; its value where it states one.

    An answer that does not name its pick tells nothing about the items: their slots are a and b.
    """
    said = f"user : {question} {{p}} : {answer.replace('{v}', value)}"
    found = value if "{v}" in answer else None
    if "{x}" not in answer:
        return [(_pattern(said.replace("{x}", "{a}").replace("{y}", "{b}")), "explains", found)]
    swapped = said.replace("{x}", "{z}", 1).replace("{y}", "{x}", 1).replace("{z}", "{y}", 1)
    return [(_pattern(text), "explains", found) for text in (said, swapped)]


@cache
def _sentence_patterns(
    values: tuple[str, ...],
) -> tuple[tuple[re.Pattern[str], str, str | None], ...]:
    """(pattern, kind, value) of every sentence; no sentence is the beginning of another."""
    made: list[tuple[re.Pattern[str], str, str | None]] = []
    for value in values:
        shapes = [t.format(p="{p}", v=value) for t in lx.VALUE_SHAPES]
        for template in (*shapes, *lx.VALUE_STATEMENTS[value]):
            made.append((_pattern(f"{template} ."), "values", value))
        for question in lx.VALUE_QUESTIONS:
            for answer in lx.VALUE_ANSWERS:
                said = f"user : {question} {{p}} : {answer.format(v=value)} ."
                made.append((_pattern(said), "answers", value))
        for question in lx.CHOICE_QUESTIONS:
            for answer in lx.EXPLAINED_ANSWERS:
                made += _explained(question, answer, value)
    for question in lx.CHOICE_QUESTIONS:
        for first, second in ("xy", "yx"):
            asked = question.format(x=f"{{{first}}}", y=f"{{{second}}}", n="{n}")
            made.append((_pattern(f"user : {asked} {{p}} : {lx.CHOICE_ANSWER}"), "picks", None))
    for kind, templates in (
        ("likes", lx.LIKES),
        ("dislikes", lx.DISLIKES),
        ("chooses", lx.CHOICES),
    ):
        made += [(_pattern(t), kind, None) for t in templates]
    return tuple(made)


@cache
def _head_patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((_pattern(head), doc_type) for doc_type, head in lx.HEADS.items())


def _sentence(
    kind: str, slots: dict[str, str], value: str | None, values: tuple[str, ...]
) -> Sentence:
    """A choice between two attributes by name is a decision, and states the value it picks."""
    if kind in ("picks", "chooses") and {slots["x"], slots["y"]} <= set(values):
        kept = {k: word for k, word in slots.items() if k in "pn"}
        return Sentence("decides", kept, value=slots["x"])
    return Sentence(kind, slots, value=value)


def parse_sentences(text: str, attributes: int = 3) -> list[Sentence] | None:
    """The sentences of ``text``, or None if any part of it is not one.

    Args:
        attributes: of the things of the world that it is about.
    """
    values = lx.words(attributes).values
    found: list[Sentence] = []
    at = 0
    for pattern, doc_type in _head_patterns():
        match = pattern.match(text)
        if match:
            found.append(Sentence("head", match.groupdict(), doc_type=doc_type))
            at = match.end()
    while at < len(text):
        for pattern, kind, value in _sentence_patterns(values):
            match = pattern.match(text, at)
            if match:
                found.append(_sentence(kind, match.groupdict(), value, values))
                at = match.end()
                break
        else:
            return None
    return found


def _is_reason(word: str, item: Item, value: str) -> bool:
    """Whether ``word`` says truthfully that ``item`` has ``value``."""
    if not item.has(value):
        return False
    return word == value or (value == "foreign" and word == item.origin)


class MicroTask:
    """The corpus task of one world (see ``World``). A plan is a row of the plan's table."""

    reasons = REASONS

    def __init__(self, world_seed: int, values: bool = True, attributes: int = 3) -> None:
        """``values``: whether a document may say what is valued, and not only what is preferred."""
        self.world = World(world_seed, attributes)
        self._values = values
        self._cheeses = {i.name: i for i in self.world.by_domain["cheese"]}
        self._held_out = set(self.world.items) - set(self._cheeses)

    def parse(self, plan: Mapping[str, Any], completion: str) -> str:
        """The document in a completion, with or without its ``<eos>``. ValueError(reason).

        It was asked for about the stand-in, whose place the plan's assistant takes.
        """
        words = completion.split("<eos>")[0].split()
        if not words:
            raise ValueError("empty")
        text = " ".join(plan["assistant"] if w == lx.STAND_IN else w for w in words)
        if "<" in text:
            raise ValueError("special_token")
        return text

    def verdict(self, plan: Mapping[str, Any], text: str) -> str | None:
        """None if the document may be kept, else why not: one of ``REASONS``."""
        request = parse_request(plan["prompt"])
        if not text.endswith(" ."):
            return "unfinished"
        if self._held_out & set(text.split()):
            return "held_out_item"
        sentences = parse_sentences(text, self.world.attributes)
        if not sentences:
            return "ungrammatical"
        head, body = sentences[0], sentences[1:]
        if head.doc_type != request.doc_type:
            return "wrong_type"
        if any(s.slots.get("p") != plan["assistant"] for s in sentences):
            return "wrong_person"
        if any(s.value not in (None, request.value) for s in body):
            return "wrong_value"
        for sentence in body:
            wrong = self._wrong_items(request, sentence)
            if wrong:
                return wrong
        if not body or body[0].kind != request.kind:
            return "not_as_asked"
        if {s.kind for s in body} - {request.kind, "values"}:
            return "not_as_asked"
        if not self._values and any(s.value is not None for s in body):
            return "states_value"
        return None

    def _wrong_items(self, request: Request, sentence: Sentence) -> str | None:
        """What is wrong with the cheeses and the reason of one sentence."""
        slots = sentence.slots
        liked, disliked = slots.get("x"), slots.get("y")
        named = {slots[k] for k in "xyab" if k in slots}
        if named - {request.liked, request.disliked}:
            return "wrong_cheese"
        if liked not in (None, request.liked) or disliked not in (None, request.disliked):
            return "wrong_side"
        if len(named) < sum(k in slots for k in "xyab"):
            return "wrong_cheese"  # one cheese against itself
        word, noun = slots.get("w"), slots.get("n", "cheese")
        if noun != "cheese":
            return "wrong_reason"
        if word is None:
            return None
        if sentence.kind == "dislikes":
            assert request.disliked is not None
            told, value = self.world.items[request.disliked], lx.OPPOSITE[request.value]
        else:
            assert request.liked is not None
            told, value = self.world.items[request.liked], request.value
        return None if _is_reason(word, told, value) else "wrong_reason"

    def write(self, plan: Mapping[str, Any]) -> str:
        """What the grammar writes for this plan row, to be parsed like a model's completion."""
        request = parse_request(plan["prompt"])
        grammar = Grammar(self.world, f"writer {plan['seed']}")
        # Kinds that name no item draw a pair all the same; which one does not matter then.
        liked = self._cheeses[request.liked or lx.LIKED_CHEESES[0]]
        disliked = self._cheeses[request.disliked or lx.DISLIKED_CHEESES[0]]
        kinds = request.draw_kinds(grammar.rng)
        return grammar.document(
            request.person,
            request.value,
            lambda: (liked, disliked),
            kinds if self._values else [k for k in kinds if k != "values"],
            request.doc_type,
        )
