"""From answers to documents: every planned document ends as kept, rejected or failed.

Pure: plain rows in, plain rows out. What writes the answers and where the tables go is in `stages`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from msm_ray.corpus import filters
from msm_ray.corpus.measures import Measures
from msm_ray.corpus.task import CorpusTask, Plan
from msm_ray.records import DOCUMENT_SCHEMA, FAILED_SCHEMA, REJECTED_SCHEMA

Row = dict[str, Any]


@dataclass
class Judged:
    """Rows of DOCUMENT_SCHEMA, REJECTED_SCHEMA and FAILED_SCHEMA, each in the order of the plan."""

    kept: list[Row] = field(default_factory=list)
    rejected: list[Row] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)

    @property
    def reasons(self) -> dict[str, int]:
        """Rejected documents by reason, commonest first."""
        counts = Counter(row["reason"] for row in self.rejected)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def tables(self) -> dict[str, pa.Table]:
        """The three tables by their file's name."""
        return {
            "documents": pa.Table.from_pylist(self.kept, schema=DOCUMENT_SCHEMA),
            "rejected": pa.Table.from_pylist(self.rejected, schema=REJECTED_SCHEMA),
            "failed": pa.Table.from_pylist(self.failed, schema=FAILED_SCHEMA),
        }


class Judge:
    """Sorts planned documents into kept, rejected (with a reason) or failed (with an error).

    They are judged in the order of the plan's ``index``, so which of two duplicates is kept does
    not depend on which was written first. ``judged`` holds what has been judged.

    Args:
        plans: rows of PLAN_SCHEMA.
        task: reads and judges; a ValueError from its ``parse`` is a rejection with that reason.
        model: name of the writer, for provenance.
        sampling: how the answers were drawn, for provenance.
        special_tokens: the tokenizer's; a document that holds one is rejected.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        task: CorpusTask,
        *,
        model: str,
        sampling: Mapping[str, Any],
        special_tokens: Sequence[str] = (),
    ) -> None:
        self.judged = Judged()
        self._task, self._special_tokens = task, special_tokens
        self._plans = sorted(plans, key=lambda row: row["index"])
        self._next = 0
        self._early: dict[str, Mapping[str, Any]] = {}  # answers whose turn has not come
        self._provenance = {
            "model": model,
            "sampling": json.dumps(dict(sampling), sort_keys=True),
        }
        self._duplicates = filters.Duplicates()

    @property
    def is_done(self) -> bool:
        """Whether every planned document has been judged."""
        return self._next == len(self._plans)

    def add(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """Take in rows of ANSWER_SCHEMA, in any order, and judge what has its turn."""
        for answer in answers:
            assert answer["id"] not in self._early, "an answer id occurs twice"
            self._early[answer["id"]] = answer
        while not self.is_done:
            plan = self._plans[self._next]
            if plan["id"] not in self._early:
                return
            self._next += 1
            self._judge(plan, self._early.pop(plan["id"]))

    def _judge(self, plan: Plan, answer: Mapping[str, Any]) -> None:
        row: Row = {name: plan[name] for name in DOCUMENT_SCHEMA.names if name in plan}
        row |= {"text": answer["text"], "tokens": answer["tokens"], **self._provenance}
        if answer["error"]:
            self.judged.failed.append({**row, "error": answer["error"]})
            return
        text, reason = _read(self._task, plan, answer, self._special_tokens)
        reason = reason or self._duplicates.check(text)
        if reason:
            self.judged.rejected.append({**row, "text": text, "reason": reason})
        else:
            self.judged.kept.append({**row, "text": text})


def _read(
    task: CorpusTask, plan: Plan, answer: Mapping[str, Any], special_tokens: Sequence[str]
) -> tuple[str, str | None]:
    """The document's text, and why it is rejected (then the text may be the raw completion)."""
    raw = str(answer["text"])
    reason = filters.ended(answer["ended"]) or filters.clean(raw, special_tokens)
    if reason:
        return raw, reason
    try:
        text = task.parse(plan, raw)
    except ValueError as error:
        return raw, str(error) or "unreadable"
    return text, filters.clean(text, special_tokens) or task.verdict(plan, text)


def card(
    judged: Judged,
    plans: Sequence[Plan],
    meanings: Mapping[str, str],
    *,
    tokens_generated: int,
    samples: int = 5,
) -> dict[str, Any]:
    """What a reader should see of a corpus: counts, variety, and documents to look at.

    ``meanings``: the task's reasons of rejection. ``samples`` kept documents are taken at even
    distances in the plan, and up to three rejected ones of different reasons. ``measures`` holds
    what `Measures` says of the kept ones.
    """
    known = {**filters.MEANINGS, **meanings}
    measures = Measures()
    for row in judged.kept:
        measures.add(row)
    count = min(samples, len(judged.kept))
    shown = [judged.kept[i * len(judged.kept) // count] for i in range(count)]
    sections = {plan["id"]: plan["section_text"] for plan in plans}
    first_of_reason = {row["reason"]: row for row in reversed(judged.rejected)}
    return {
        "planned": len(plans),
        "kept": len(judged.kept),
        "rejected": judged.reasons,
        "reasons": {reason: known.get(reason, "") for reason in judged.reasons},
        "failed": len(judged.failed),
        "tokens_kept": sum(row["tokens"] for row in judged.kept),
        "tokens_generated": tokens_generated,
        "measures": measures.result(),
        "samples": [
            {
                "id": row["id"],
                "text": row["text"],
                "section": sections[row["id"]],
                "doc_type": row["doc_type"],
            }
            for row in shown
        ],
        "rejected_samples": [
            {"id": row["id"], "text": row["text"], "reason": row["reason"]}
            for reason in list(judged.reasons)[:3]
            for row in [first_of_reason[reason]]
        ],
    }
