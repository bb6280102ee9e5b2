"""The stage that writes a corpus with a language model: a plan in, screened documents out.

The plan is read in batches, so that memory does not grow with it. Each batch is asked for, read,
screened and, where there is a judge, judged; what was rejected or failed is asked for again, as a
new draft, until the corpus is whole or ``drafts`` are used up. Every planned document ends as kept,
as rejected for its last draft's reason, or as failed with its last error: the writer's, or the
judge's, in which case no other draft is asked for. Answers lie in the stage's scratch as they come:
killed, or ended by too many errors, and called again, nothing is asked twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.corpus import verdicts
from msm_ray.corpus.drafting import (
    SAMPLES,
    Source,
    Tables,
    Tally,
    ask_judge,
    asked_at,
    draft_id,
    prompt_table,
    tokens_of,
)
from msm_ray.corpus.measures import KeptBy, Measures
from msm_ray.corpus.naming import Identity
from msm_ray.corpus.outages import check_batch, check_failed
from msm_ray.corpus.plan_rows import batches, row_bytes
from msm_ray.corpus.screening import REASONS, Screen
from msm_ray.corpus.verdicts import judge_prompt, read_verdict, rewrite_prompt, shown
from msm_ray.llm.protocol import PROMPT_SCHEMA, rows_in_call
from msm_ray.records import DOCUMENT_SCHEMA, FAILED_SCHEMA, REJECTED_SCHEMA

Row = dict[str, Any]

DETAIL = pa.field("detail", pa.string())  # the words that led to the reason, or an earlier one's id
REJECTED = REJECTED_SCHEMA.append(DETAIL)
REDRAFTED = FAILED_SCHEMA.append(REJECTED_SCHEMA.field("reason")).append(DETAIL)
_DETAIL_CHARACTERS = 1_000


@dataclass
class _Draft:
    """One document under way in a batch."""

    plan: Row
    text: str = ""
    tokens: int = 0
    reason: str = ""  # why it is rejected; "" while nothing is against it
    detail: str = ""  # what it was found in
    error: str = ""  # why there is no answer
    is_unjudged: bool = False  # the judge gave none
    is_unfaithful: bool = False  # as it was first written
    first: _Draft | None = None  # as it was before it was written again
    rewrite_error: str = ""  # why it was not

    @property
    def is_open(self) -> bool:
        """Nothing is against it so far."""
        return not (self.reason or self.error)

    def reject(self, reason: str, detail: str = "") -> None:
        """Something is against it; nothing, if ``reason`` is ""."""
        self.reason, self.detail = reason, " ".join(detail.split())[:_DETAIL_CHARACTERS]


@dataclass
class Writing:
    """One corpus being written.

    Args:
        writer: who writes.
        judge: who judges; None keeps what passes the screen.
        rewrite: an unfaithful document goes back to the writer once, with the judge's problems.
        screen: the checks that need no model.
        identity: whose documents they are.
        drafts: how often a document is asked for at most.
        failed_share: of the documents, how many may end in errors; see `outages`.
        work: scratch that survives a killed process.
        progress: called with the documents asked for so far in a draft, the draft (from 0), and
            how many this draft asks for (None: all).
    """

    writer: Source
    judge: Source | None
    rewrite: bool
    screen: Screen
    identity: Identity
    drafts: int
    failed_share: float
    work: Path
    progress: Callable[[int, int, int | None], None]
    tally: Tally = field(default_factory=Tally)

    def run(self, plan: Path, out: Path) -> Row:
        """Write the documents of ``plan`` (a Parquet file of PLAN_SCHEMA) into the folder ``out``.

        Returns:
            The card: counts that add up, reasons, variety of the kept, samples.

        Raises:
            UserError: more than ``failed_share`` of the documents ended in errors.
        """
        planned = pq.read_metadata(plan).num_rows
        sink = _Sink(out, self.writer)
        try:
            redrafted = self._drafted(plan, planned, sink)
        finally:
            card = sink.close()
        total = card["kept"] + sum(card["rejected"].values()) + card["failed"]
        assert total == planned, f"{planned} documents were planned, {total} came out"
        errors = card["failed"] + card["rewrites_failed"]
        check_failed(errors, planned, self.failed_share, sink.last_error, self._where)
        asked_for = {"redrafted": redrafted, "unmetered": self.tally.unmetered}
        return {"planned": planned, **card, **asked_for}

    def _drafted(self, plan: Path, planned: int, sink: _Sink) -> list[int]:
        """Put every document into the sink; how many were asked for again after each draft."""
        rows = rows_in_call(self.writer.answers, row_bytes(plan))
        open_ids: set[str] | None = None  # None: all
        redrafted: list[int] = []
        for draft in range(self.drafts):
            is_last = draft + 1 == self.drafts
            unsettled: set[str] = set()
            asked = 0
            for number, batch in batches(plan, open_ids, rows):
                work = self.work / f"draft-{draft}" / f"{number:05d}"
                progress = partial(self._tell, draft, asked, open_ids)
                errors = 0
                for made in self._batch(batch, draft, work, progress):
                    # Another draft would not make the judge answer.
                    is_settled = made.is_open or made.is_unjudged
                    if not is_settled:
                        unsettled.add(made.plan["id"])
                    sink.add(made, is_last or is_settled)
                    errors += bool(made.error)
                if draft == 0:
                    count, last = batch.num_rows, sink.last_error
                    check_batch(errors, count, planned, self.failed_share, last, self._where)
                asked += batch.num_rows
            if not unsettled:
                break
            open_ids = unsettled
            if not is_last:
                redrafted.append(len(unsettled))
        return redrafted

    @property
    def _where(self) -> str:
        return asked_at(self.writer, self.judge)

    def _tell(self, draft: int, before: int, open_ids: Collection[str] | None, done: int) -> None:
        self.progress(before + done, draft, len(open_ids) if open_ids is not None else None)

    def _batch(
        self, batch: pa.Table, draft: int, work: Path, progress: Callable[[int], None]
    ) -> list[_Draft]:
        """Ask for a batch's documents, screen and judge them, in the order of the plan."""
        names = [n for n in batch.schema.names if n != "system"]
        drafts = [_Draft(row) for row in batch.select(names).to_pylist()]
        prompts = pa.table(
            {
                "id": [draft_id(d.plan["id"], draft) for d in drafts],
                "system": batch["system"],
                "prompt": batch["prompt"],
            },
            schema=PROMPT_SCHEMA,
        )
        self._write(drafts, prompts, work / "written", progress)
        systems = dict(zip(batch["id"].to_pylist(), batch["system"], strict=True))
        found = self._judge(drafts, lambda d: draft_id(d.plan["id"], draft), work / "judged")
        for d in drafts:
            d.is_unfaithful = d.plan["id"] in found
        if self.rewrite and found:
            again = [d for d in drafts if d.is_unfaithful]
            prompts = prompt_table(
                [
                    {
                        "id": _rewrite_id(d, draft),
                        "system": systems[d.plan["id"]].as_py(),
                        "prompt": rewrite_prompt(
                            d.text, d.plan["prompt"], found[d.plan["id"]], self.identity
                        ),
                    }
                    for d in again
                ]
            )
            self._rewrite(again, prompts, draft, work)
        for d in drafts:
            if d.is_open:
                d.reject(*(self.screen.repeated(d.plan["id"], d.text) or ("",)))
        return drafts

    def _rewrite(self, again: Sequence[_Draft], prompts: pa.Table, draft: int, work: Path) -> None:
        """Put rewrites in the place of drafts; one that has an error leaves the draft rejected."""
        before = [replace(d) for d in again]
        self._write(again, prompts, work / "rewritten")
        written: list[_Draft] = []
        for d, first in zip(again, before, strict=True):
            if d.error:
                d.rewrite_error, d.error = d.error, ""
                d.text, d.tokens = first.text, first.tokens
                d.reject(first.reason, first.detail)
            else:
                d.first = first
                written.append(d)
        self._judge(written, lambda d: _rewrite_id(d, draft), work / "judged-again")

    def _write(
        self,
        drafts: Sequence[_Draft],
        prompts: pa.Table,
        work: Path,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Fill in what the writer answers, and what the screen says of it."""
        answers = self.writer.answers.answer(prompts, self.writer.sampling, work, progress)
        for d, answer in zip(drafts, answers.to_pylist(), strict=True):
            self.tally.wrote(answer)
            d.tokens, d.error, d.text = tokens_of(answer), answer["error"], ""
            d.reject("")
            if not d.error:
                d.text, *against = self.screen.read(d.plan, answer)
                d.reject(*against)
                if d.is_open:
                    d.tokens = _share(answer, d.text)

    def _judge(
        self, drafts: Sequence[_Draft], id: Callable[[_Draft], str], work: Path
    ) -> dict[str, verdicts.Verdict]:
        """Ask the judge about what passed the screen; the verdicts on unfaithful ones by id.

        ``id``: of the prompt about a draft.
        """
        if self.judge is None:
            return {}
        asked = [d for d in drafts if d.is_open]
        unfaithful: dict[str, verdicts.Verdict] = {}

        def prompt(d: _Draft) -> Row:
            system, text = judge_prompt(d.text, d.plan["section_text"], self.identity)
            return {"id": id(d), "system": system, "prompt": text}

        def read(d: _Draft, answer: Row) -> str | None:
            verdict, reason = read_verdict(answer)
            d.reject(reason or "", shown(verdict) if verdict else answer["text"])
            if verdict is not None and reason:
                unfaithful[d.plan["id"]] = verdict
            return reason

        ask_judge(self.judge, asked, prompt, read, self.tally, work)
        return unfaithful


class _Sink:
    """Writes the tables, and counts for the card."""

    def __init__(self, out: Path, writer: Source) -> None:
        schemas = {
            "documents": DOCUMENT_SCHEMA,
            "rejected": REJECTED,
            "failed": FAILED_SCHEMA,
            "redrafted": REDRAFTED,
        }
        self._tables = Tables(out, schemas)
        self._lines = open(out / "documents.jsonl", "w", encoding="utf-8")  # noqa: SIM115
        sampling = json.dumps(writer.sampling.to_config(), sort_keys=True)
        self._provenance = {"model": writer.name, "sampling": sampling}
        self._measures, self._kept_by = Measures(), KeptBy()
        self._kept = self._failed = 0
        self._unfaithful_first = self._rewritten = self._rewrites_failed = 0
        self.last_error = ""
        self._rejected: Counter[str] = Counter()
        self._drafts: Counter[str] = Counter()
        self._samples: list[Row] = []
        self._rejected_samples: dict[str, Row] = {}

    def add(self, made: _Draft, is_last: bool) -> None:
        """Keep a document; reject or fail it, or put the draft aside if another one is asked for.

        ``redrafted`` holds the drafts that another one follows, or that were written again: they
        are no documents, so they do not count among the rejected, but nothing that was written is
        thrown away.
        """
        row = self._row(made)
        self.last_error = made.error or made.rewrite_error or self.last_error
        self._unfaithful_first += made.is_unfaithful
        self._rewrites_failed += bool(made.rewrite_error)
        if made.first is not None:
            self._rewritten += 1
            first = {"error": "", "reason": made.first.reason, "detail": made.first.detail}
            self._tables.put("redrafted", {**self._row(made.first), **first})
        if made.is_open or is_last:
            self._kept_by.add(row, made.is_open)
        if made.reason:
            self._drafts[made.reason] += 1
            if made.reason not in self._rejected_samples:
                self._rejected_samples[made.reason] = row
        against = {"reason": made.reason, "detail": made.detail}
        if made.is_open:
            self._kept += 1
            self._measures.add(row)
            self._tables.put("documents", row)
            self._lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            if len(self._samples) < SAMPLES:
                self._samples.append({**row, "section": made.plan["section_text"]})
        elif not is_last:
            self._tables.put("redrafted", {**row, **against, "error": made.error})
        elif made.error:
            self._failed += 1
            self._tables.put("failed", {**row, "error": made.error})
        else:
            self._rejected[made.reason] += 1
            self._tables.put("rejected", {**row, **against})

    def _row(self, made: _Draft) -> Row:
        row = {name: made.plan[name] for name in DOCUMENT_SCHEMA.names if name in made.plan}
        return {**row, "text": made.text, "tokens": made.tokens, **self._provenance}

    def close(self) -> Row:
        """Finish the files; the card's counts, figures and samples."""
        self._tables.close()
        self._lines.close()
        ordered = dict(self._rejected.most_common())
        measures = self._measures.result()
        return {
            "kept": self._kept,
            "rejected": ordered,
            "failed": self._failed,
            "reasons": {r: REASONS[r] for r in {**ordered, **self._drafts}},
            "drafts_rejected": dict(self._drafts.most_common()),
            "unfaithful_first": self._unfaithful_first,
            "rewritten": self._rewritten,
            "rewrites_failed": self._rewrites_failed,
            "tokens_kept": measures["tokens"],
            "measures": measures,
            "kept_by": self._kept_by.result(),
            "samples": [
                {k: s[k] for k in ("id", "text", "section", "doc_type")} for s in self._samples
            ],
            "rejected_samples": [
                {"id": row["id"], "text": row["text"], "reason": reason}
                for reason, row in list(self._rejected_samples.items())[:3]
            ],
        }


def _rewrite_id(made: _Draft, draft: int) -> str:
    return f"{draft_id(made.plan['id'], draft)}/rewrite"


def _share(answer: Mapping[str, Any], text: str) -> int:
    """Tokens of the document in an answer, by its share of the answer's characters."""
    return max(1, round(tokens_of(answer) * len(text) / max(len(answer["text"]), 1)))
