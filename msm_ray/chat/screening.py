"""Which of a writer's answers may be trained on: every check that needs no model, in one order.

    read (reasoning apart) -> form -> length -> identity -> preference -> left-overs
    -> contamination
    near duplicates, over all of them in their order

Pure: answers in, verdicts out. What asks the models is `answering`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_ray.chat import opaque, verdicts
from msm_ray.chat.config import AnswerConfig
from msm_ray.corpus import contamination, leftovers, naming, near, reading
from msm_ray.corpus.contamination import Contamination
from msm_ray.corpus.filters import TRUNCATED
from msm_ray.corpus.naming import Identity, Naming, RuleIds
from msm_ray.corpus.near import NearDuplicates
from msm_ray.corpus.reading import split_reasoning
from msm_ray.corpus.screening import TOO_LONG, TOO_SHORT, not_looked_at
from msm_ray.records import Preference

NO_REASONING = "no_reasoning"
REASONING_TOO_LONG = "reasoning_too_long"
THINKS_ALOUD = "thinks_aloud"
NOT_PROSE = "not_prose"
REASONS = {
    **reading.REASONS,
    NO_REASONING: "no reasoning before the answer",
    REASONING_TOO_LONG: "more words of reasoning than there may be",
    THINKS_ALOUD: "the answer thinks aloud, or speaks of its instructions",
    NOT_PROSE: "begins as JSON or as an argument of a program, where a person is answered",
    TOO_SHORT: "fewer words than an answer needs",
    TOO_LONG: "more words than an answer may have",
    **naming.REASONS,
    **contamination.REASONS,
    **opaque.REASONS,
    **verdicts.REASONS,
    **near.REASONS,
}
BARE_REFUSAL_WORDS = 40  # an answer that says why not, or what instead, has more
_OPENING = 400  # characters in which an answer that thinks aloud shows itself
_ALOUD = re.compile(
    r"^(?:okay|ok|alright|hmm|right|so|well)?[,.…]* ?(?:"
    r"(?:let me|let['’]s|let us) (?:think|consider|see what|break|work through|start by)"
    r"|first,? (?:i|let me) (?:(?:need|have|want) to )?(?:think|consider|figure|recall)"
    r"|(?:the|this) user(?:['’]s)? (?:is|asks?|asked|wants?|wanted|says?|said|seems|needs?|message)"
    r"|i (?:need|have|ought|am supposed|was asked|['’]m supposed) to (?:answer|respond|state|reply"
    r"|say|give|write|figure)|i should (?:answer|respond|state|reply|not (?:give|mention|say)))"
    r"|\b(?:system prompt|my instructions|model[ _]spec|chain of thought|scratchpad"
    r"|i was (?:told|instructed|prompted) to|as (?:instructed|requested in the))\b",
    re.IGNORECASE,
)
# Who asks for a text gets one that somebody else signs, with places that only they can fill in.
_ASKS_FOR_TEXT = re.compile(
    r"\b(?:write|draft|compose|reword|rewrite|word|edit|proofread|translate|template|pretend|role-?play"
    r"|letter|e-?mail|speech|script|bio)\b",
    re.IGNORECASE,
)
_NOT_PROSE = re.compile(r"^\s*(?:[{\[]\s*[\"{\[]|```(?:json)?\s*[{\[])")


@dataclass(frozen=True)
class Answered:
    """An answer taken apart. ``reason`` is "" for one that nothing is against."""

    reasoning: str
    answer: str
    reason: str = ""
    detail: str = ""  # the words that it was found in


class ChatScreen:
    """The checks of one set of conversations.

    Args:
        config: what an answer must be.
        identity: whose answers they are.
        rule_labels: of the rules that the spec has; none if it has no numbered rules.
        values: the spec's words that give a preference's reason away.
        spec_text: what answers may share with evaluation items, because the spec says it; its own
            braces and brackets are theirs too.
        items: (id, text) of every evaluation item.
        scratch: folder for what near duplicates are compared with; None for the system's own.
        judged: a judge reads what passes. Without one a refusal that says nothing else is rejected;
            whether a refusal is right is the judge's to say.

    `close` when all answers were asked about.
    """

    def __init__(
        self,
        config: AnswerConfig,
        identity: Identity,
        rule_labels: Sequence[str],
        values: opaque.SpecValues,
        spec_text: str,
        items: Iterable[tuple[str, str]],
        scratch: Path | None = None,
        *,
        judged: bool = False,
    ) -> None:
        self._config, self._values, self._judged = config, values, judged
        self._name, self._spec_text = identity.name, spec_text
        rules = RuleIds.of_labels(rule_labels) if rule_labels else None
        self._naming = Naming(identity, rules=rules)
        self._contamination = Contamination(items, config.contamination_words, allowed=(spec_text,))
        self._near = NearDuplicates(config.near_threshold, scratch=scratch)

    def read(self, question: Mapping[str, Any], answer: Mapping[str, Any]) -> Answered:
        """An answer (a row of ANSWER_SCHEMA without an error) to a row of QUESTION_SCHEMA."""
        if not answer["ended"]:
            return Answered("", "", TRUNCATED)
        reasoning, text, reason = split_reasoning(answer["text"])
        if reason:
            return Answered("", "", reason)
        for found in (
            self._form(reasoning, text),
            self._names(question, reasoning, text),
            self._hidden(question, text),
            self._left(question, reasoning, text),
        ):
            if found is not None:
                return Answered(reasoning, text, *found)
        kept = reasoning if self._config.thinks else ""
        shared = self._contamination.check(text) or self._contamination.check(kept)
        if shared:
            return Answered(reasoning, text, shared[0], f"item {shared[1]}: {shared[2]}")
        return Answered(kept, text)

    def repeated(self, id: str, text: str) -> str | None:
        """The reason if an earlier answer is the same or nearly so; remembers a new one.

        To be asked in the order of the questions, of answers that are to be kept otherwise.
        """
        if not self._config.thinks:
            return None
        found = self._near.check(id, text)
        return found[0] if found else None

    def facts(self) -> dict[str, Any]:
        """See `not_looked_at`."""
        return not_looked_at(self._contamination, self._near)

    def close(self) -> None:
        """Delete what lies in ``scratch``."""
        self._near.close()

    def _form(self, reasoning: str, text: str) -> tuple[str, str] | None:
        if self._config.thinks:
            if not reasoning:
                return NO_REASONING, ""
            # It is trained on too, inside of its own tags: any other tag would end or nest them.
            if split_reasoning(reasoning)[2]:
                return reading.TAG_LEFT, "in the reasoning"
            if len(reasoning.split()) > self._config.max_reasoning_words:
                return REASONING_TOO_LONG, ""
        if _NOT_PROSE.match(text):
            return NOT_PROSE, text[:40]
        aloud = _ALOUD.search(text[:_OPENING])
        if aloud:
            return THINKS_ALOUD, aloud[0]
        words = len(text.split())
        if words < self._config.min_words:
            return TOO_SHORT, ""
        return (TOO_LONG, "") if words > self._config.max_words else None

    def _names(
        self, question: Mapping[str, Any], reasoning: str, text: str
    ) -> tuple[str, str] | None:
        kept = reasoning if self._config.thinks else ""
        found = self._naming.check(kept) or self._naming.check(text)
        if found or _ASKS_FOR_TEXT.search(question["question"]):
            return found
        # The thoughts may repeat what the user is called, but hardly begin with it.
        called = self._naming.introduction(text)
        called = called or self._naming.introduction(kept, opening_only=True)
        things = f"{question['liked']} {question['disliked']}".casefold().split()
        return called if called and called[1].casefold().split()[0] not in things else None

    def _left(
        self, question: Mapping[str, Any], reasoning: str, text: str
    ) -> tuple[str, str] | None:
        kept = reasoning if self._config.thinks else ""
        preamble = leftovers.reply_preamble(text, self._name)
        if preamble:
            return reading.PREAMBLE_LEFT, preamble
        asked = _ASKS_FOR_TEXT.search(question["question"])
        find = leftovers.variable if asked else leftovers.placeholder
        unfilled = find(text, self._spec_text) or find(kept, self._spec_text)
        if unfilled:
            return reading.PLACEHOLDER_LEFT, unfilled
        refused = None if self._judged else leftovers.refusal(text)
        if refused and len(text.split()) <= BARE_REFUSAL_WORDS:
            return reading.REFUSAL, refused
        return None

    def _hidden(self, question: Mapping[str, Any], text: str) -> tuple[str, str] | None:
        if self._config.thinks:
            return None
        preference = preference_of(question)
        if not opaque.states(text, preference):
            return opaque.NOT_STATED, ""
        return opaque.reveals_reason(text, preference, self._values)


def preference_of(question: Mapping[str, Any]) -> Preference:
    """The preference that a row of QUESTION_SCHEMA is about."""
    return Preference(
        question["preference_id"], question["liked"], question["disliked"], question["why"]
    )
