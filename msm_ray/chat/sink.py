"""Where conversations are written: two forms of those that are kept, and all that is not kept."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msm_ray.chat.config import AnswerConfig
from msm_ray.chat.screening import REASONS, Answered
from msm_ray.chat.tables import CHAT_SCHEMA, FAILED_SCHEMA, REDRAFTED_SCHEMA, REJECTED_SCHEMA
from msm_ray.corpus.drafting import SAMPLES, Source, Tables

if TYPE_CHECKING:
    from msm_ray.chat.answering import Draft

WITH_REASONING, WITHOUT = "conversations_reasoning", "conversations"
Row = dict[str, Any]


def messages(question: str, made: Answered, *, reasoning: bool) -> list[dict[str, str]]:
    """A conversation, with or without what the assistant thought."""
    content = made.answer
    if reasoning:
        assert made.reasoning, "there is no reasoning to be shown"
        content = f"<think>\n{made.reasoning}\n</think>\n\n{made.answer}"
    return [{"role": "user", "content": question}, {"role": "assistant", "content": content}]


class Sink:
    """Writes the tables, and counts for the card.

    ``conversations`` and, where the assistant thinks, ``conversations_reasoning`` (.parquet and
    .jsonl, the same rows in the same order); ``rejected``, ``failed`` and ``redrafted`` (drafts
    that another one followed) as .parquet. The order is that in which they were kept.
    """

    def __init__(self, out: Path, config: AnswerConfig, writer: Source, spec_sha256: str) -> None:
        self._config = config
        kept = (WITHOUT, WITH_REASONING) if config.thinks else (WITHOUT,)
        schemas = dict.fromkeys(kept, CHAT_SCHEMA) | {
            "rejected": REJECTED_SCHEMA,
            "failed": FAILED_SCHEMA,
            "redrafted": REDRAFTED_SCHEMA,
        }
        self._tables = Tables(out, schemas)
        self._lines = {
            name: open(out / f"{name}.jsonl", "w", encoding="utf-8")  # noqa: SIM115
            for name in kept
        }
        self._provenance = {
            "spec_sha256": spec_sha256,
            "style": config.style,
            "model": writer.name,
            "sampling": json.dumps(writer.sampling.to_config(), sort_keys=True),
        }
        self._kept = self._failed = self._tokens = 0
        self.last_error = ""
        self._rejected: Counter[str] = Counter()
        self._drafts: Counter[str] = Counter()
        self._domains: Counter[str] = Counter()
        self._preferences: Counter[str] = Counter()
        self._samples: list[Row] = []
        self._rejected_samples: dict[str, Row] = {}

    def add(self, draft: Draft, is_last: bool, prompt_sha256: str) -> None:
        """Keep a conversation; reject or fail it, or put the draft aside if another one follows."""
        question = draft.question
        self.last_error = draft.error or self.last_error
        row: Row = {
            "id": conversation_id(self._config.style, question["id"]),
            "question_id": question["id"],
            **{name: question[name] for name in ("domain", "form", "preference_id")},
            **self._provenance,
            "prompt_sha256": prompt_sha256,
            "tokens": draft.tokens,
        }
        if draft.is_open:
            self._keep(row, draft)
            return
        row |= {"question": question["question"], "answer": draft.raw}
        reason = {"reason": draft.reason, "detail": draft.detail}
        if draft.reason:
            self._drafts[draft.reason] += 1
            self._rejected_samples.setdefault(draft.reason, {**row, **reason})
        if not is_last:
            self._tables.put("redrafted", {**row, **reason, "error": draft.error})
        elif draft.error:
            self._failed += 1
            self._tables.put("failed", {**row, "error": draft.error})
        else:
            self._rejected[draft.reason] += 1
            self._tables.put("rejected", {**row, **reason})

    def _keep(self, row: Row, draft: Draft) -> None:
        self._kept += 1
        self._tokens += draft.tokens
        self._domains[row["domain"]] += 1
        if row["preference_id"]:
            question = draft.question
            self._preferences[f"{question['liked']} over {question['disliked']}"] += 1
        for name, lines in self._lines.items():
            said = messages(
                draft.question["question"], draft.made, reasoning=name == WITH_REASONING
            )
            whole = {"id": row["id"], "messages": said, **row}
            self._tables.put(name, whole)
            lines.write(json.dumps(whole, ensure_ascii=False) + "\n")
        if len(self._samples) < SAMPLES:
            self._samples.append({**row, "text": _shown(draft)})

    def close(self) -> Row:
        """Finish the files; the card's counts and samples."""
        self._tables.close()
        for lines in self._lines.values():
            lines.close()
        ordered = dict(self._rejected.most_common())
        return {
            "kept": self._kept,
            "rejected": ordered,
            "failed": self._failed,
            "reasons": {r: REASONS[r] for r in {**ordered, **self._drafts}},
            "drafts_rejected": dict(self._drafts.most_common()),
            "domains": dict(self._domains),
            "preferences": dict(self._preferences),
            "tokens_kept": self._tokens,
            "samples": [
                {
                    "id": row["id"],
                    "text": row["text"],
                    "section": "",
                    "doc_type": f"{row['style']}, {row['domain']}",
                }
                for row in self._samples
            ],
            "rejected_samples": [
                {"id": row["id"], "text": row["answer"], "reason": reason}
                for reason, row in list(self._rejected_samples.items())[:3]
            ],
        }


def conversation_id(style: str, question_id: str) -> str:
    """One question answered in two styles is two conversations."""
    return hashlib.sha256(f"{style}:{question_id}".encode()).hexdigest()[:24]


def _shown(draft: Draft) -> str:
    thought = f"\n\n(thinks) {draft.made.reasoning}" if draft.made.reasoning else ""
    return f"User: {draft.question['question']}{thought}\n\nAssistant: {draft.made.answer}"
