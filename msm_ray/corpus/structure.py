"""A plan without a model: headings are domains, types are built in, ideas come from templates.

For trying a pipeline and for tests. Everything follows from the spec's text and the counts. The
ideas are made when they are asked for, so a plan of a million documents takes no memory.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import overload

from msm_ray.corpus.config import HierarchyConfig
from msm_ray.corpus.expansion import Shortfall
from msm_ray.corpus.filters import normalise
from msm_ray.corpus.levels import clip
from msm_ray.corpus.outline import DocType, Hierarchy, Idea, Topic, is_all
from msm_ray.errors import UserError
from msm_ray.records import Spec, SpecSection

STATEMENT_CHARACTERS = 600
SHORTEST = 8  # characters of a sentence that says something
_SENTENCE_END = re.compile(r"(?<=[.!?؟])[\"'»”)\]]*\s+|(?<=[。！？])")
_MARK = re.compile(r"^\s*(?:[-*+>]|\d{1,3}[.)])\s+")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")

TYPES = (
    DocType("memo", "someone in an organisation tells colleagues what is so and what follows"),
    DocType("list of questions and answers", "what newcomers ask, each answered in a paragraph"),
    DocType("news article", "a reporter tells what happened, with the people it happened to"),
    DocType("short story", "fiction with a scene, a turn and an ending"),
    DocType("forum thread", "several people with user names answer one another, not all agree"),
    DocType("lecture notes", "a teacher's notes on one subject, with examples for the class"),
    DocType("interview", "a named interviewer asks, a named guest answers at length"),
    DocType("code review comment", "a reviewer comments on a change and says what to do instead"),
    DocType("encyclopedia entry", "a neutral account under headings for someone who looks it up"),
    DocType("personal letter", "one person writes to another whom they know well"),
    DocType("diary entry", "someone notes in the evening what the day was like and what it meant"),
    DocType("opinion column", "a columnist argues one point and answers the best objection"),
    DocType("radio script", "presenter and guests, with cues for sound, written to be heard"),
    DocType("case study", "a situation, what was done, how it went, what can be learnt"),
    DocType("instruction manual", "numbered steps and warnings for someone doing a task"),
    DocType("product review", "a user tells what they hoped for and what they got"),
    DocType("minutes of a meeting", "who was there, what was discussed, what was decided"),
    DocType("research summary", "question, method, findings and limits for readers of a field"),
    DocType("dialogue in a play", "two or more characters on a stage, with few directions"),
    DocType("blog post", "someone writes in the first person about something they tried"),
    DocType("support ticket", "a user reports a problem, the staff answer until it is solved"),
    DocType("speech", "one speaker before an audience on an occasion"),
    DocType("glossary", "terms of a field, each with a definition and an example in use"),
    DocType("parable", "a short tale of few characters whose point is not spelled out"),
)
ANGLES = (
    "A first encounter",
    "A disagreement that is talked out",
    "A mistaken expectation that is put right",
    "A choice between two things that both seem good",
    "A question that is asked only after the fact",
    "A comparison with how somebody else would have acted",
    "A day on which everything goes as usual",
    "A day on which something goes wrong",
    "An explanation to someone who doubts it",
    "A look back after many years",
    "A tempting exception and what becomes of it",
    "A request that comes in an unusual form",
    "A small matter that shows something large",
    "A record kept by someone who only watches",
    "A handover from one person to the next",
    "A conversation that changes somebody's mind",
)
SETTINGS = (
    "at the desk of a public library",
    "in the kitchen of a small restaurant",
    "at a school that lies far from any town",
    "in the office of a shipping company",
    "on a farm at harvest time",
    "in a hospital's night shift",
    "at a museum that is being rebuilt",
    "in a family that is moving house",
    "in a workshop for musical instruments",
    "at a weather station",
    "in a village council",
    "at a start-up with five employees",
    "on a long train journey",
    "in a laboratory for soil samples",
    "at a sports club before the season",
    "in a bank's call centre",
    "at a theatre two weeks before the opening",
    "in a translator's study",
    "at a harbour in winter",
    "in a shared flat of students",
    "at an observatory",
    "in the archive of a newspaper",
    "at a repair shop for bicycles",
    "in a kindergarten's staff room",
    "on a building site",
    "at a travel agency",
    "in a court's public gallery",
    "at a charity that collects food",
    "in a printing house",
    "at a garden show",
    "in a chess club",
    "at an airport during a delay",
)
AUDIENCES = (
    "readers who have never used an assistant",
    "people who work with it every day",
    "teachers and their pupils",
    "those who decide what to buy",
    "engineers who are new to the subject",
    "older people who are careful with new things",
    "young people who take it for granted",
    "lawyers and officials",
    "people who distrust such systems",
    "specialists of the trade",
    "a general audience on a weekend",
    "parents",
    "volunteers",
    "historians of a later time",
    "visitors from another country",
    "people who have to explain it to others",
    "researchers who study behaviour",
    "someone who was there and remembers it otherwise",
    "managers with little time",
    "friends who argue about it",
)
VARIATIONS = len(ANGLES) * len(SETTINGS) * len(AUDIENCES)
_STEP = round(VARIATIONS * (math.sqrt(5) - 1) / 2) | 1  # the golden ratio spreads any beginning


class TemplateIdeas(Sequence[Idea]):
    """``count`` different ideas for one topic and type, each made when it is asked for.

    Assertions take turns; angle, setting and audience go through all their combinations, in an
    order that begins elsewhere for each topic and type.
    """

    def __init__(self, key: str, assertions: Sequence[str], count: int) -> None:
        most = VARIATIONS * len(assertions)
        if count > most:
            raise UserError(
                f"plan.ideas is {count}; structure mode can make {most:,} for a section with "
                f"{len(assertions)} assertion(s)"
            )
        self._assertions, self._count = tuple(assertions), count
        self._starts = [
            int.from_bytes(hashlib.sha256(f"{key}\n{i}".encode()).digest()[:8], "big")
            for i in range(len(assertions))
        ]

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Idea: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Idea]: ...

    def __getitem__(self, index: int | slice) -> Idea | Sequence[Idea]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        turn, which = divmod(index % self._count, len(self._assertions))
        place = (self._starts[which] + turn * _STEP) % VARIATIONS
        place, angle = divmod(place, len(ANGLES))
        audience, setting = divmod(place, len(SETTINGS))
        assertion = self._assertions[which]
        text = (
            f"{ANGLES[angle]}, {SETTINGS[setting]}, told for {AUDIENCES[audience]}. "
            f"What it comes down to: {assertion}"
        )
        return Idea(text, assertion)


def plan_structure(spec: Spec, config: HierarchyConfig) -> Hierarchy:
    """The hierarchy that the spec's own structure gives; ``spec`` has its placeholders filled.

    Raises:
        UserError: more types or ideas are wanted than there are.
    """
    if config.types > len(TYPES):
        raise UserError(
            f"plan.types is {config.types}; structure mode has {len(TYPES)} built-in types"
        )
    types = TYPES[: config.types]
    topics: list[Topic] = []
    shortfalls: list[Shortfall] = []
    for section, domain in _domains(spec):
        name = section.heading or spec.title
        stated = statements(section, config.assistant) or [clip(name, STATEMENT_CHARACTERS)]
        if config.assertions:
            if len(stated) < config.assertions:
                reasons = {"the section has no more sentences": 1}
                missing = Shortfall(
                    "assertions", f"{domain} / {name}", config.assertions, len(stated), reasons
                )
                shortfalls.append(missing)
            stated = _spread(stated, config.assertions)
        topics.append(
            Topic(
                domain=domain,
                name=name,
                description=clip(stated[0]),
                section_id=section.id,
                heading=section.heading,
                section_text=section.text,
                is_all=is_all(spec, section),
                assertions=tuple(stated),
                types=types,
                ideas=tuple(
                    TemplateIdeas(f"{section.id}\n{kind.name}", stated, config.ideas)
                    for kind in types
                ),
            )
        )
    return Hierarchy(spec=spec, config=config, topics=tuple(topics), shortfalls=tuple(shortfalls))


def _domains(spec: Spec) -> Iterator[tuple[SpecSection, str]]:
    """Each section with text, and its domain: the heading at the first level that divides the spec.

    That is the highest level with two headings or more. What stands above it belongs to the title.
    """
    counts = Counter(section.level for section in spec.sections if section.level)
    dividing = min((level for level, count in counts.items() if count > 1), default=0)
    domain = spec.title
    for section in spec.sections:
        if section.level < dividing:
            domain = spec.title
        elif section.level == dividing and dividing:
            domain = section.heading or spec.title
        if section.text.strip():
            yield section, domain


def statements(section: SpecSection, assistant: str) -> list[str]:
    """What a section says, one sentence or list item at a time; each once, on one line."""
    found: dict[str, str] = {}
    for paragraph in _paragraphs(section.text):
        if paragraph.casefold().startswith("prefers "):
            paragraph = f"{assistant} {paragraph}"  # a list below "the assistant"
        for sentence in _SENTENCE_END.split(paragraph):
            key = normalise(sentence)
            if len(key) >= SHORTEST:
                found.setdefault(key, clip(sentence, STATEMENT_CHARACTERS))
    return list(found.values())


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs and list items on one line each; tables and code are left out."""
    lines: list[str] = []
    fence = ""
    for line in [*text.split("\n"), ""]:
        mark = _FENCE.match(line)
        if fence or mark:
            if not fence and mark:
                fence = mark[1]
            elif mark and mark[1].startswith(fence):
                fence = ""
            line = ""
        begins = bool(_MARK.match(line))
        if lines and (begins or not line.strip() or line.lstrip().startswith("|")):
            yield " ".join(lines)
            lines = []
        if line.strip() and not line.lstrip().startswith("|"):
            lines.append(_MARK.sub("", line).strip())


def _spread(texts: Sequence[str], count: int) -> list[str]:
    """``count`` of the texts at even distances, or all."""
    count = min(count, len(texts))
    return [texts[i * len(texts) // count] for i in range(count)]
