"""Which of a writer's answers may be trained on: every check that needs no model, in one order.

    read -> length -> identity -> contamination          each answer by itself
    near duplicates                                      in the order of the plan, over all of them

Pure: answers in, verdicts out. What asks the models is `writing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_ray.corpus import contamination, naming, near, reading, verdicts
from msm_ray.corpus.contamination import Contamination
from msm_ray.corpus.naming import Identity, Naming, RuleIds
from msm_ray.corpus.near import NearDuplicates
from msm_ray.errors import UserError

TOO_SHORT = "too_short"
TOO_LONG = "too_long"
REASONS = {
    **reading.REASONS,
    TOO_SHORT: "fewer words than a document needs",
    TOO_LONG: "more words than a document may have",
    **naming.REASONS,
    **contamination.REASONS,
    **verdicts.REASONS,
    **near.REASONS,
}


@dataclass(frozen=True)
class ScreenConfig:
    """What a document must be.

    ``min_words``, ``max_words``: its length. ``must_name``: it has to name the assistant.
    ``aliases``: further words that mean the assistant. ``near_threshold``: Jaccard similarity from
    which on two documents are near duplicates. ``contamination_words``: so many words in a row
    shared with an evaluation item are too many. ``check_rules``: rule ids that a document cites
    must be in the spec.
    """

    min_words: int
    max_words: int
    must_name: bool = False
    aliases: tuple[str, ...] = ()
    near_threshold: float = 0.8
    contamination_words: int = 8
    check_rules: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.min_words <= self.max_words:
            raise UserError(
                f"screen.min_words is {self.min_words} and max_words {self.max_words};"
                " allowed: 0 <= min_words <= max_words"
            )
        if not 0 < self.near_threshold <= 1:
            raise UserError(
                f"screen.near_threshold is {self.near_threshold}; allowed: above 0, at most 1"
            )
        if self.contamination_words < contamination.LEAST_WORDS:
            raise UserError(
                f"screen.contamination_words is {self.contamination_words};"
                f" allowed: {contamination.LEAST_WORDS} or more"
            )


class Screen:
    """The checks of one corpus.

    Args:
        config: what a document must be.
        identity: whose documents they are.
        rule_labels: of the rules that the spec has; none if it has no numbered rules.
        spec_text: what documents may share with evaluation items, because the spec says it; its own
            braces and brackets are theirs too.
        items: (id, text) of every evaluation item.
        scratch: folder for what near duplicates are compared with, up to 2.4 KB a document; None
            for the system's own.

    `close` when all documents were asked about.
    """

    def __init__(
        self,
        config: ScreenConfig,
        identity: Identity,
        rule_labels: Sequence[str],
        spec_text: str,
        items: Iterable[tuple[str, str]],
        scratch: Path | None = None,
    ) -> None:
        self._config, self._spec_text = config, spec_text
        rules = RuleIds.of_labels(rule_labels) if config.check_rules and rule_labels else None
        self._naming = Naming(identity, must_name=config.must_name, rules=rules)
        self._contamination = Contamination(items, config.contamination_words, allowed=(spec_text,))
        self._near = NearDuplicates(config.near_threshold, scratch=scratch)

    def read(self, plan: Mapping[str, Any], answer: Mapping[str, Any]) -> tuple[str, str, str]:
        """(document, "", ""), or (what was answered, the reason against it, what it was found in).

        What it was found in are words of the document or, of a contaminated one, the id of the item
        and the words that both have; "" where the reason says all.
        """
        text, reason = reading.read_document(
            answer["text"],
            ended=answer["ended"],
            quotable=plan["section_text"],
            spec=self._spec_text,
        )
        if reason:
            return text, reason, ""
        words = len(text.split())
        if words < self._config.min_words:
            return text, TOO_SHORT, f"{words} words"
        if words > self._config.max_words:
            return text, TOO_LONG, f"{words} words"
        named = self._naming.check(text)
        if named:
            return text, *named
        found = self._contamination.check(text)
        return (text, found[0], f"{found[1]}: {found[2]}") if found else (text, "", "")

    def repeated(self, id: str, text: str) -> tuple[str, str] | None:
        """(reason, id of the earlier document) if one is the same or nearly so, else None.

        A new one is remembered.

        To be asked in the order of the plan, of documents that are to be kept otherwise.
        """
        return self._near.check(id, text)

    def facts(self) -> dict[str, Any]:
        """See `not_looked_at`."""
        return not_looked_at(self._contamination, self._near)

    def close(self) -> None:
        """Delete what lies in ``scratch``."""
        self._near.close()


def not_looked_at(contamination: Contamination, near: NearDuplicates) -> dict[str, Any]:
    """What was not looked at, for the card.

    ``items_too_short``: evaluation items with a text of fewer than `contamination.LEAST_WORDS`
    words, which is not looked for. ``not_compared``: kept texts in a crowd of alike ones, with
    which later ones were not compared (`NearDuplicates.crowded`).
    """
    return {"items_too_short": len(contamination.skipped), "not_compared": near.crowded}
