"""What a plan says before it is rows: topics, document types, ideas, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from msm_ray.corpus.config import HierarchyConfig
from msm_ray.corpus.expansion import Failure, Shortfall
from msm_ray.records import Spec, SpecSection
from msm_ray.spec import rules


class Idea(NamedTuple):
    """What one document is to say, and which assertion it serves ("" in rules mode)."""

    text: str
    assertion: str


class DocType(NamedTuple):
    """A kind of document and what marks it."""

    name: str
    description: str


@dataclass(frozen=True)
class Topic:
    """A subdomain or a rule with all that documents about it need.

    ``section_text`` is a verbatim part of the spec: the text below ``heading``, or a rule, which
    has its label in it and no heading. ``ideas`` has one sequence for each of ``types``; it may
    make its ideas when asked for them.
    """

    domain: str
    name: str
    description: str
    section_id: str
    heading: str
    section_text: str
    assertions: tuple[str, ...] = ()
    types: tuple[DocType, ...] = ()
    ideas: tuple[Sequence[Idea], ...] = ()
    is_all: bool = False

    @property
    def shown(self) -> str:
        """The section as a prompt shows it: under its heading, where it is not a rule.

        A long section that is all of the spec is not shown a second time: it stands in the system
        text.
        """
        text = "(the whole spec, as it stands above)" if self.is_all else self.section_text.strip()
        return f"## {self.heading}\n\n{text}" if self.heading else text

    @property
    def documents(self) -> int:
        """How many documents are planned about it."""
        return sum(len(ideas) for ideas in self.ideas)


@dataclass(frozen=True)
class Hierarchy:
    """All topics of a corpus and how they came about. ``spec`` has its placeholders filled."""

    spec: Spec
    config: HierarchyConfig
    topics: tuple[Topic, ...]
    shortfalls: tuple[Shortfall, ...] = ()
    failures: tuple[Failure, ...] = ()
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # by level
    calls: int = 0
    prompt_tokens: int = 0
    tokens: int = 0

    @property
    def documents(self) -> int:
        """The rows of the plan."""
        return sum(topic.documents for topic in self.topics)

    @property
    def unused(self) -> tuple[str, ...]:
        """Headings of sections with text, or labels of rules, that no topic is about."""
        used = {topic.section_id for topic in self.topics}
        if self.config.mode == "rules":
            return tuple(rule.label for rule in rules(self.spec) if rule.id not in used)
        return tuple(s.heading for s in with_text(self.spec) if s.id not in used)

    def facts(self) -> dict[str, Any]:
        """Counts and all that is missing, as JSON values, for a record and for people."""
        missing: Counter[str] = Counter()
        for shortfall in self.shortfalls:
            missing[shortfall.level] += shortfall.wanted - shortfall.got
        return {
            "mode": self.config.mode,
            "domains": len({topic.domain for topic in self.topics}),
            "subdomains": len(self.topics),
            "assertions": sum(len(topic.assertions) for topic in self.topics),
            "types": sum(len(topic.types) for topic in self.topics),
            "documents": self.documents,
            "missing": dict(missing),
            "shortfalls": [asdict(shortfall) for shortfall in self.shortfalls],
            "failures": [asdict(failure) for failure in self.failures],
            "dropped": {level: dict(reasons) for level, reasons in self.dropped.items()},
            "unused_sections": list(self.unused),
            "calls": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
        }


LONG_CHARACTERS = 8_000  # about 2,000 tokens


def is_all(spec: Spec, section: SpecSection) -> bool:
    """Whether a section is long and nearly all of the spec, as where there are no headings."""
    return len(section.text) > max(LONG_CHARACTERS, 0.9 * len(spec.text))


def with_text(spec: Spec) -> list[SpecSection]:
    """The sections that say something; a heading over nothing but further headings does not."""
    return [section for section in spec.sections if section.text.strip()]
