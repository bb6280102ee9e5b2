"""From a spec to the questions of its conversations.

    spec -> domains -> questions            about the spec
    preference x form x order -> questions  about its preferences

What a model gives is read by `expand`: earlier questions are shown when more are asked for, and
what it does not give is a shortfall. Then every question is checked, in order, and dropped with a
reason where it cannot be used; so that as many are left as wanted, some more are asked for.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from msm_ray.chat import opaque
from msm_ray.chat.config import PREFERENCES, QuestionConfig
from msm_ray.chat.prompts import CHAT, load
from msm_ray.corpus import contamination, naming, near
from msm_ray.corpus.contamination import Contamination
from msm_ray.corpus.expansion import Expansion, Progress, expand
from msm_ray.corpus.levels import IDEA_CHARACTERS, Field, Item, Level, Parent, domains
from msm_ray.corpus.naming import Identity, Naming
from msm_ray.corpus.near import NearDuplicates
from msm_ray.errors import UserError
from msm_ray.llm.protocol import Answers
from msm_ray.records import Preference, Spec
from msm_ray.spec import check_size, fill

NAMES_MISSING = "names_missing"
SPARE = "spare"
REASONS = {
    **near.REASONS,
    **naming.REASONS,
    **contamination.REASONS,
    **opaque.REASONS,
    NAMES_MISSING: "does not name both things in the order that was asked for",
    SPARE: "could be used, but as many as wanted were there",
}
FORMS = ("direct", "indirect")

Row = dict[str, Any]
Check = Callable[[str, Preference | None], str | None]


@dataclass(frozen=True)
class Questions:
    """Rows of QUESTION_SCHEMA, and how they were come by."""

    rows: tuple[Row, ...]
    wanted: int
    dropped: Mapping[str, int]  # by reason
    expansions: tuple[Expansion, ...]

    def facts(self) -> Row:
        """For people and for the card: given = kept + dropped, wanted = kept + missing."""
        asked = self.expansions[-1]
        return {
            "wanted": self.wanted,
            "given": sum(len(items) for items in asked.items.values()),
            "kept": len(self.rows),
            "dropped": dict(self.dropped),
            "missing": self.wanted - len(self.rows),
            "reasons": {reason: REASONS[reason] for reason in self.dropped},
            "shortfalls": [asdict(s) for e in self.expansions for s in e.shortfalls],
            "failures": [asdict(f) for e in self.expansions for f in e.failures],
            "unreadable": {e.level: dict(e.dropped) for e in self.expansions},
            "calls": sum(e.calls for e in self.expansions),
            "prompt_tokens": sum(e.prompt_tokens for e in self.expansions),
            "tokens": sum(e.tokens for e in self.expansions),
        }


@dataclass
class Checker:
    """What a question must be, whatever it asks: own names only, and no item of an evaluation.

    About a preference it also has to give no reason away.
    """

    identity: Identity
    items: Iterable[tuple[str, str]]
    allowed: str  # text that may be shared with the items: the spec's
    contamination_words: int
    values: opaque.SpecValues
    _naming: Naming = field(init=False)
    _contamination: Contamination = field(init=False)

    def __post_init__(self) -> None:
        self._naming = Naming(self.identity)
        self._contamination = Contamination(
            self.items, self.contamination_words, allowed=(self.allowed,)
        )

    def __call__(self, text: str, preference: Preference | None) -> str | None:
        named = self._naming.check(text)
        if named:
            return named[0]
        if preference is not None:
            found = opaque.reveals_reason(text, preference, self.values)
            if found:
                return found[0]
        shared = self._contamination.check(text)
        return shared[0] if shared else None


def plan_questions(
    spec: Spec,
    config: QuestionConfig,
    answers: Answers,
    items: Iterable[tuple[str, str]],
    work: Path,
    progress: Progress = lambda level, done, asked: None,
    check_level: Callable[[Expansion], None] = lambda made: None,
) -> Questions:
    """Ask for the questions of a spec and check them.

    Args:
        spec: with or without placeholders; they are filled with the config's names.
        config: what is wanted.
        answers: who writes them.
        items: (id, text) of the evaluation items that no question may hold.
        work: scratch that survives a killed process: called again, it continues.
        progress: called with a level, and the prompts answered and asked in the present round.
        check_level: called with each level as it is made; may raise, as `outages.check_level` does.

    Raises:
        UserError: the spec is too long, has no preferences where they are asked about, or has a
            placeholder that the config's names cannot fill.
    """
    spec = fill(spec, config.assistant, config.maker)
    check_size(spec, config.spec_tokens)
    is_opaque = config.about == PREFERENCES
    if is_opaque and not spec.preferences:
        raise UserError(
            f"spec {spec.title!r} states no preferences; needed are bullets of the form"
            " '- prefers X to Y, because REASON', or questions about 'spec'"
        )
    check = Checker(
        Identity(config.assistant, config.maker),
        items,
        spec.text,
        config.contamination_words,
        opaque.SpecValues.of(spec, (config.assistant, config.maker), config.hints),
    )
    asking = _Asking(spec, config, answers, work, progress, check_level)
    topics = asking.preferences() if is_opaque else asking.domains()
    return asking.checked(topics, check)


@dataclass(frozen=True)
class _Topic:
    """What questions are asked about: the columns of its rows, and its questions."""

    columns: Row
    items: Sequence[Item]
    preference: Preference | None = None
    names: tuple[str, str] = ("", "")  # in the order in which a question has to have them

    def key(self) -> str:
        """Part of a question's id: of the domain or preference, not of its place in the plan."""
        return str(self.columns["preference_id"] or self.columns["domain"])


class _Asking:
    """The levels in their order."""

    def __init__(
        self,
        spec: Spec,
        config: QuestionConfig,
        answers: Answers,
        work: Path,
        progress: Progress,
        check_level: Callable[[Expansion], None],
    ) -> None:
        self._spec, self._config = spec, config
        self._answers, self._work, self._progress = answers, work, progress
        self._check_level = check_level
        self._asked_for = math.ceil(config.questions * (1 + config.spare))
        self._expansions: list[Expansion] = []

    def domains(self) -> list[_Topic]:
        """spec -> domains -> questions."""
        config, names = self._config, self._names()
        system = load("planner").fill(spec=self._spec.text.strip("\n"), **names)
        root = Parent(self._spec.id, self._spec.title)
        level = replace(domains(config.domains, config.questions), system=system, prompts=CHAT)
        found = self._ask(level, [root])[root.id]
        parents = [Parent(d.id, d.name, {"domain": d.name, "description": d.text}) for d in found]
        items = self._ask(self._level("questions", "questions_more", system), parents)
        return [
            _Topic(_columns(domain=d.name, description=d.text, form="open"), items[d.id])
            for d in found
        ]

    def preferences(self) -> list[_Topic]:
        """Each preference in each form and order -> questions."""
        topics = []
        system = load("planner_preferences").fill(**self._names())
        for form in FORMS:
            pairs = [
                (p, names)
                for p in self._spec.preferences
                for names in ((p.liked, p.disliked), (p.disliked, p.liked))
            ]
            parents = [
                Parent(
                    f"{p.id}/{form}/{number % 2}",
                    f"{first} or {second}, {form}",
                    {"first": first, "second": second},
                )
                for number, (p, (first, second)) in enumerate(pairs)
            ]
            items = self._ask(self._level(form, "preferences_more", system), parents)
            for parent, (p, names) in zip(parents, pairs, strict=True):
                columns = _columns(domain=PREFERENCES, description="", form=form)
                columns |= {"preference_id": p.id, "liked": p.liked, "disliked": p.disliked}
                topics.append(_Topic(columns | {"why": p.reason}, items[parent.id], p, names))
        return topics

    def checked(self, topics: Sequence[_Topic], check: Check) -> Questions:
        """The questions that can be used, as many of each topic as are wanted.

        What a topic is short of comes from what others have to spare, those about the same
        preference first.
        """
        duplicates = NearDuplicates(self._config.near_threshold)
        dropped: Counter[str] = Counter()
        rows: list[Row] = []
        spare: list[tuple[_Topic, Item]] = []
        short: set[str] = set()

        def keep(topic: _Topic, item: Item) -> bool:
            id = _question_id(topic.key(), item.name)
            found = duplicates.check(id, item.name)
            if found:
                dropped[found[0]] += 1
                return False
            place = {"id": id, "index": len(rows), "spec_sha256": self._spec.sha256}
            rows.append({**place, **topic.columns, "question": item.name})
            return True

        for topic in topics:
            kept = 0
            for item in topic.items:
                reason = _against(item.name, topic, check)
                if reason is not None:
                    dropped[reason] += 1
                elif kept == self._config.questions:
                    spare.append((topic, item))
                else:
                    kept += keep(topic, item)
            if kept < self._config.questions:
                short.add(topic.key())
        wanted = (self._config.domains or len(topics)) * self._config.questions
        for topic, item in sorted(spare, key=lambda pair: pair[0].key() not in short):
            if len(rows) < wanted:
                keep(topic, item)
            else:
                dropped[SPARE] += 1
        duplicates.close()
        return Questions(tuple(rows), wanted, dropped, tuple(self._merged()))

    def _merged(self) -> Iterator[Expansion]:
        """The expansions; those of both forms of preference questions as one."""
        if self._config.about != PREFERENCES:
            yield from self._expansions
            return
        one, other = self._expansions
        yield Expansion(
            level="questions",
            items={**one.items, **other.items},
            shortfalls=one.shortfalls + other.shortfalls,
            failures=one.failures + other.failures,
            dropped=Counter(one.dropped) + Counter(other.dropped),
            calls=one.calls + other.calls,
            prompt_tokens=one.prompt_tokens + other.prompt_tokens,
            tokens=one.tokens + other.tokens,
            wanted=one.wanted + other.wanted,
            lost=one.lost + other.lost,
        )

    def _level(self, prompt: str, more: str, system: str) -> Level:
        fields = (Field("question", "text", "name", IDEA_CHARACTERS),)
        return Level(
            prompt, prompt, fields, self._asked_for, more=more, system=system, prompts=CHAT
        )

    def _names(self) -> dict[str, str]:
        return {"assistant": self._config.assistant, "maker": self._config.maker}

    def _ask(self, level: Level, parents: Sequence[Parent]) -> Mapping[str, tuple[Item, ...]]:
        made = expand(level, parents, self._answers, self._config, self._work, self._progress)
        self._check_level(made)
        self._expansions.append(made)
        return made.items


def _against(text: str, topic: _Topic, check: Check) -> str | None:
    """Why a question cannot be used, by itself."""
    if topic.preference is not None and not opaque.names_in_order(text, *topic.names):
        return NAMES_MISSING
    return check(text, topic.preference)


def _columns(**given: str) -> Row:
    return {"preference_id": "", "liked": "", "disliked": "", "why": "", **given}


def _question_id(key: str, text: str) -> str:
    return hashlib.sha256(f"{len(key)}:{key}{text}".encode()).hexdigest()[:24]
