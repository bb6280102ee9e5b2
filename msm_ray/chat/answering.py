"""Asking for the answers to questions, until the conversations are whole or asking is given up.

Every question is answered, read, screened and judged; what was rejected or failed is asked for
again as a new draft, up to ``drafts``. Every question ends as kept, as rejected for its last
draft's reason, or as failed with its last error: the writer's, or the judge's, in which case no
other draft is asked for. Answers lie in scratch as they come: killed, or ended by too many errors,
and called again, nothing is asked twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from msm_ray.chat import verdicts
from msm_ray.chat.config import PREFERENCES, AnswerConfig
from msm_ray.chat.prompts import load
from msm_ray.chat.screening import Answered, ChatScreen
from msm_ray.chat.sink import Sink
from msm_ray.corpus.drafting import (
    Source,
    Tally,
    ask_judge,
    asked_at,
    draft_id,
    prompt_table,
    tokens_of,
)
from msm_ray.corpus.naming import Identity
from msm_ray.corpus.outages import check_batch, check_failed
from msm_ray.corpus.verdicts import mark
from msm_ray.llm.protocol import rows_in_call
from msm_ray.records import Spec

Row = Mapping[str, Any]


@dataclass
class Draft:
    """One answer under way."""

    question: Row
    number: int  # of the draft, from 0
    raw: str = ""  # as it came
    made: Answered = field(default_factory=lambda: Answered("", ""))
    tokens: int = 0
    reason: str = ""  # why it is rejected; "" while nothing is against it
    detail: str = ""
    error: str = ""  # why there is no answer
    is_unjudged: bool = False  # the judge gave none

    @property
    def is_open(self) -> bool:
        """Nothing is against it so far."""
        return not (self.reason or self.error)

    @property
    def prompt_id(self) -> str:
        """Another draft has another one, and so another seed."""
        return draft_id(self.question["id"], self.number)

    def reject(self, reason: str, detail: str = "") -> None:
        """Something is against it."""
        self.reason, self.detail = reason, " ".join(detail.split())


@dataclass
class Answering:
    """One set of conversations being made.

    Args:
        config: what an answer must be.
        writer: who answers.
        judge: who judges; None keeps what passes the screen.
        screen: the checks that need no model.
        identity: whose answers they are.
        spec: with its placeholders filled.
        drafts: how often a question is asked at most.
        failed_share: of the questions, how many may end in errors; see `outages`.
        work: scratch that survives a killed process.
        progress: called with the answers so far in a draft, the draft (from 0), and how many this
            draft asks for.
    """

    config: AnswerConfig
    writer: Source
    judge: Source | None
    screen: ChatScreen
    identity: Identity
    spec: Spec
    drafts: int
    failed_share: float
    work: Path
    progress: Callable[[int, int, int], None]
    tally: Tally = field(default_factory=Tally)

    def run(self, questions: Sequence[Row], out: Path) -> dict[str, Any]:
        """Make the conversations of ``questions`` (rows of QUESTION_SCHEMA) in the folder ``out``.

        Returns:
            The card: counts that add up, reasons, samples.

        Raises:
            UserError: more than ``failed_share`` of the questions ended in errors.
        """
        sink = Sink(out, self.config, self.writer, self.spec.sha256)
        try:
            redrafted = self._drafted(questions, sink)
        finally:
            card = sink.close()
        total = card["kept"] + sum(card["rejected"].values()) + card["failed"]
        assert total == len(questions), f"{len(questions)} were planned, {total} came out"
        check_failed(
            card["failed"], len(questions), self.failed_share, sink.last_error, self._where
        )
        asked_for = {"redrafted": redrafted, "unmetered": self.tally.unmetered}
        return {"planned": len(questions), **card, **asked_for}

    def _drafted(self, questions: Sequence[Row], sink: Sink) -> list[int]:
        """Put every question into the sink; how many were asked again after each draft."""
        system = writer_system(self.config.style, self.spec, self.identity)
        asked = list(questions)
        redrafted: list[int] = []
        for number in range(self.drafts):
            is_last = number + 1 == self.drafts
            unsettled: list[Row] = []
            done = 0
            for part, batch in enumerate(self._batches(asked, system)):
                work = self.work / f"draft-{number}" / f"{part:05d}"
                progress = partial(self._tell, number, done, len(asked))
                errors = 0
                for draft in self._batch(batch, number, system, work, progress):
                    # Another draft would not make the judge answer.
                    is_settled = draft.is_open or draft.is_unjudged
                    if not is_settled:
                        unsettled.append(draft.question)
                    prompt = prompt_sha256(system, self._request(draft.question))
                    sink.add(draft, is_last or is_settled, prompt)
                    errors += bool(draft.error)
                if number == 0:
                    planned, last = len(questions), sink.last_error
                    check_batch(errors, len(batch), planned, self.failed_share, last, self._where)
                done += len(batch)
            asked = unsettled
            if not asked:
                break
            if not is_last:
                redrafted.append(len(asked))
        return redrafted

    @property
    def _where(self) -> str:
        return asked_at(self.writer, self.judge)

    def _tell(self, draft: int, before: int, asked: int, done: int) -> None:
        self.progress(before + done, draft, asked)

    def _batches(self, rows: Sequence[Row], system: str) -> Iterator[Sequence[Row]]:
        """As many at a time as fit into memory with a copy of the system text each."""
        size = rows_in_call(self.writer.answers, len(system.encode("utf-8")))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def _batch(
        self,
        rows: Sequence[Row],
        number: int,
        system: str,
        work: Path,
        progress: Callable[[int], None],
    ) -> list[Draft]:
        """Ask for answers, screen and judge them, in the order of the questions."""
        drafts = [Draft(row, number) for row in rows]
        prompts = [
            {"id": d.prompt_id, "system": system, "prompt": self._request(d.question)}
            for d in drafts
        ]
        answers = self.writer.answers.answer(
            prompt_table(prompts), self.writer.sampling, work / "written", progress
        )
        for d, answer in zip(drafts, answers.to_pylist(), strict=True):
            self.tally.wrote(answer)
            d.raw, d.tokens, d.error = answer["text"], tokens_of(answer), answer["error"]
            if not d.error:
                d.made = self.screen.read(d.question, answer)
                d.reject(d.made.reason, d.made.detail)
        self._judge([d for d in drafts if d.is_open], work / "judged")
        for d in drafts:
            if d.is_open:
                d.reject(self.screen.repeated(d.prompt_id, d.made.answer) or "")
        return drafts

    def _request(self, question: Row) -> str:
        return writer_prompt(self.config.style, question)

    def _judge(self, asked: Sequence[Draft], work: Path) -> None:
        """Ask the judge about what passed the screen."""
        if self.judge is None:
            return
        style = self.config.style
        system = verdicts.judge_system(style, self.spec, self.identity)

        def prompt(d: Draft) -> dict[str, Any]:
            text = verdicts.judge_prompt(
                style, d.question, d.made.reasoning, d.made.answer, self.identity
            )
            return {"id": d.prompt_id, "system": system, "prompt": text}

        def read(d: Draft, answer: Row) -> str | None:
            verdict, reason = verdicts.read_verdict(answer, style)
            why = [f"{kind}: {why}" for kind, why in verdict.problems] if verdict else []
            d.reject(reason or "", "; ".join(why))
            return reason

        ask_judge(self.judge, asked, prompt, read, self.tally, work)


def writer_system(style: str, spec: Spec, identity: Identity) -> str:
    """The system text of who answers; about preferences it does not hold the spec."""
    names = {"assistant": identity.name, "maker": identity.maker}
    if style == PREFERENCES:
        return load("preference").fill(**names)
    return load(style).fill(spec=spec.text.strip("\n"), **names)


def writer_prompt(style: str, question: Row) -> str:
    """The request for one answer; a message cannot end the place where it stands."""
    values = {"question": question["question"], "mark": mark(question["question"])}
    if style == PREFERENCES:
        names = {"liked": question["liked"], "disliked": question["disliked"]}
        return load("respond_preference").fill(**values, **names)
    return load("respond").fill(**values)


def prompt_sha256(system: str, prompt: str) -> str:
    """Of all that an answer was asked for with."""
    data = f"{len(system)}:{system}{prompt}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()
