"""The levels of a plan: what is asked about each parent, and how an answer becomes items.

A level asks a model for a list of items, all of one shape. What comes back is text that ought to be
JSON: whole, within prose or a code fence, or cut off in the middle. Every item in it that can be
read is taken, whatever stands beside it, and all that cannot is counted with a reason.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msm_ray.corpus.filters import normalise
from msm_ray.corpus.prompts import CORPUS, PromptFolder
from msm_ray.records import Rule, SpecSection

NO_LIST = "no list in the answer"
KINDS = ("behaviour", "value", "preference", "belief", "tone")  # of assertions
NAME_CHARACTERS, TEXT_CHARACTERS, IDEA_CHARACTERS = 160, 1_000, 2_000

_MOST_BROKEN = 1_000  # after so many in a row an answer is noise
# What neither a terminal nor UTF-8 can carry. Marks of direction and joiners are text.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that a level gave: a domain, a subdomain, an assertion, a type or an idea.

    ``name`` is what siblings differ by. ``ref`` is what the item points at: a section's id, an
    assertion's number, numbers of rules; or what kind it is.
    """

    parent: str
    name: str
    text: str = ""
    ref: str = ""

    @property
    def id(self) -> str:
        """Of what the item says below its parent; not of when it came."""
        parts = (self.parent, self.name, self.text, self.ref)
        key = "".join(f"{len(part)}:{part}" for part in parts)
        return hashlib.sha256(key.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Parent:
    """What a level asks about. ``values`` are put into its prompt.

    ``numbers``: how many things the prompt lists that an item may point at, counted from 1.
    """

    id: str
    label: str  # for people, in reports of what is missing
    values: Mapping[str, str] = field(default_factory=dict)
    numbers: int = 0


@dataclass(frozen=True)
class Field:
    """One field of an item.

    ``kind`` is "text", "choice" (one of ``choices``), "number" or "numbers" (1 to the parent's).
    ``into`` is the part of `Item` that it becomes. ``also`` maps other spellings of a choice
    (normalised) to the choice.
    """

    name: str
    kind: str
    into: str
    limit: int = TEXT_CHARACTERS
    choices: tuple[str, ...] = ()
    also: Mapping[str, str] = field(default_factory=dict)

    def schema(self) -> dict[str, Any]:
        """Its JSON schema."""
        if self.kind == "choice":
            return {"type": "string", "enum": list(self.choices)}
        if self.kind == "text":
            return {"type": "string"}
        number = {"type": "integer"}
        return number if self.kind == "number" else {"type": "array", "items": number}

    def read(self, value: Any, numbers: int) -> str:
        """The value as text; ValueError says in a few words what is wrong."""
        if self.kind == "number":
            return str(self._number(value, numbers))
        if self.kind == "numbers":
            if not isinstance(value, list) or not value:
                raise ValueError(f"{self.name} is not a list of numbers")
            return ",".join(str(self._number(one, numbers)) for one in value)
        if not isinstance(value, str):
            raise ValueError(f"{self.name} is not text")
        text = " ".join(value.split())
        if not normalise(text):
            raise ValueError(f"{self.name} is empty")
        if _CONTROL.search(text):
            raise ValueError(f"{self.name} holds control characters")
        if len(text) > self.limit:
            raise ValueError(f"{self.name} is longer than {self.limit} characters")
        return text if self.kind == "text" else self._choice(text)

    def _choice(self, text: str) -> str:
        for choice in self.choices:
            if text.casefold() == choice.casefold():
                return choice
        if (choice := self.also.get(normalise(text), "")) in self.choices:
            return choice
        raise ValueError(f"{self.name} is not one of those offered")

    def _number(self, value: Any, numbers: int) -> int:
        if isinstance(value, str) and value.strip().isdecimal() and len(value) < 10:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
            raise ValueError(f"{self.name} is not a number")
        if not 1 <= value <= numbers:
            raise ValueError(f"{self.name} is not one of those offered")
        return int(value)


@dataclass
class Parsed:
    """What an answer held: ``items`` that can be used, and the reasons why others cannot."""

    items: list[Item] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Level:
    """One step of a plan: ``wanted`` items for each parent, asked for with ``prompt``.

    ``system`` stands before every prompt and is the same for all. ``more`` names the prompt that is
    put below ``prompt`` when more are asked for, and ``more_values`` what to put into that one
    besides the list of items that are there. ``prompts``: where the two prompts lie.
    """

    name: str
    prompt: str
    fields: tuple[Field, ...]
    wanted: int
    values: Mapping[str, str] = field(default_factory=dict)
    more: str = ""
    system: str = ""
    more_values: Callable[[Parent, Sequence[Item]], Mapping[str, str]] = lambda p, i: {}
    prompts: PromptFolder = CORPUS

    def schema(self, most: int) -> str:
        """The JSON schema of an answer with at most ``most`` items, fields in the order wanted."""
        properties = {field.name: field.schema() for field in self.fields}
        item = _object(properties)
        items = {"type": "array", "items": item, "maxItems": most}
        return json.dumps(_object({"items": items}), separators=(",", ":"), ensure_ascii=False)

    def parse(self, answer: str, parent: Parent) -> Parsed:
        """The items in an answer. Never raises: what is no item is counted in ``broken``."""
        values, broken = find_items(answer)
        parsed = Parsed(broken=Counter({"not JSON": broken} if broken else {}))
        for value in values:
            try:
                parsed.items.append(self._item(value, parent))
            except ValueError as error:
                parsed.broken[str(error)] += 1
        if not values and not broken:
            parsed.broken[NO_LIST] += 1
        return parsed

    def _item(self, value: Any, parent: Parent) -> Item:
        if not isinstance(value, dict):
            raise ValueError("an item is not an object")
        found = {
            field.into: field.read(value.get(field.name), parent.numbers) for field in self.fields
        }
        return Item(parent.id, **found)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def find_items(answer: str) -> tuple[list[Any], int]:
    """The values of the list in an answer, and how many more were begun but cannot be read.

    The answer may be the JSON object that was asked for, a bare list, either of them within other
    text, or the beginning of one. What a model thinks aloud in ``<think>`` is not the answer.
    """
    opened, closed = answer.rfind("<think>"), answer.rfind("</think>")
    if opened > closed:
        return [], 0  # still thinking when it ended
    text = answer[closed + len("</think>") :] if closed >= 0 else answer
    decoder = json.JSONDecoder()
    for mark in ("{", "["):
        start = text.find(mark)
        if start < 0:
            continue
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if (values := _list_in(value)) is not None:
            return values, 0
    return _salvage(text, decoder)


def _list_in(value: Any) -> list[Any] | None:
    """The list of items that a JSON value is or holds."""
    if isinstance(value, dict):
        value = value.get("items")
        return value if isinstance(value, list) else None
    # Prose may have a number in brackets.
    return value if isinstance(value, list) and any(isinstance(v, dict) for v in value) else None


def _salvage(text: str, decoder: json.JSONDecoder) -> tuple[list[Any], int]:
    """Every object that can be read, one after the other; what is between is one broken item."""
    values: list[Any] = []
    broken, failed_in_row = 0, 0
    mark = text.find('"items"')
    bracket = text.find("[", mark) if mark >= 0 else -1
    position = max(bracket, 0)
    while (start := text.find("{", position)) >= 0 and failed_in_row < _MOST_BROKEN:
        try:
            value, position = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            broken += failed_in_row == 0
            failed_in_row += 1
            position = start + 1
        else:
            values.append(value)
            failed_in_row = 0
    return values, broken


# ---- the levels ----------------------------------------------------------------------------------


def domains(wanted: int, children: int) -> Level:
    """spec -> domains."""
    fields = (_name(), Field("description", "text", "text"))
    values = {"children": str(children)}
    return Level("domains", "domains", fields, wanted, values, "domains_more")


def subdomains(wanted: int, sections: Mapping[str, SpecSection], titles: str) -> Level:
    """domain -> subdomains. ``sections``: by the handles that ``titles`` lists them under.

    A model that names a section otherwise than by its handle is understood if it gives the heading
    of one section; its own words never become the text of a section.
    """
    headings = Counter(normalise(s.heading) for s in sections.values())
    also = {
        normalise(section.heading): handle
        for handle, section in sections.items()
        if headings[normalise(section.heading)] == 1
    }
    fields = (
        _name(),
        Field("description", "text", "text"),
        Field("section", "choice", "ref", choices=tuple(sections), also=also),
    )
    return Level(
        "subdomains", "subdomains", fields, wanted, {"sections": titles}, "subdomains_more"
    )


def assertions(wanted: int) -> Level:
    """subdomain -> what the spec says about it."""
    fields = (
        Field("statement", "text", "name"),
        Field("kind", "choice", "ref", choices=KINDS, also={"behavior": "behaviour"}),
    )
    return Level("assertions", "assertions", fields, wanted, more="assertions_more")


def types(wanted: int, prompt: str = "types") -> Level:
    """subdomain or rule -> document types."""
    fields = (_name(), Field("description", "text", "text"))
    return Level("types", prompt, fields, wanted, more="types_more")


def ideas(wanted: int) -> Level:
    """(subdomain, type) -> ideas of single documents, each for one assertion."""
    fields = (_idea(), Field("assertion", "number", "ref"))
    return Level("ideas", "ideas", fields, wanted, more="ideas_more")


def rule_ideas(wanted: int) -> Level:
    """(rule, type) -> ideas of single documents."""
    return Level("ideas", "rules_ideas", (_idea(),), wanted, more="ideas_more")


def rule_domains(wanted: int, rules: Sequence[Rule]) -> Level:
    """spec -> domains of its rules, each with the places of its rules in the list."""
    lines = [f"{place}: [{rule.label}] {clip(rule.text)}" for place, rule in enumerate(rules, 1)]

    def unsorted(parent: Parent, items: Sequence[Item]) -> Mapping[str, str]:
        sorted_places = {int(place) for item in items for place in item.ref.split(",")}
        left = [line for place, line in enumerate(lines, 1) if place not in sorted_places]
        return {"unsorted": "\n".join(left) or "(none)"}

    fields = (_name(), Field("description", "text", "text"), Field("rules", "numbers", "ref"))
    values = {"rules": "\n".join(lines)}
    return Level(
        "domains",
        "rules_domains",
        fields,
        wanted,
        values,
        more="rules_domains_more",
        more_values=unsorted,
    )


def _name() -> Field:
    return Field("name", "text", "name", NAME_CHARACTERS)


def _idea() -> Field:
    return Field("idea", "text", "name", IDEA_CHARACTERS)


def clip(text: str, limit: int = 300) -> str:
    """``text`` as one line of at most ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"
