"""What documents and conversations are drafted with until they are whole: judge, tally, tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.corpus.verdicts import JUDGE_UNREADABLE
from msm_ray.llm.price import CHARACTERS_PER_TOKEN, Price
from msm_ray.llm.protocol import PROMPT_SCHEMA, Answers, Sampling

BATCH_ROWS = 4096
SAMPLES = 5
JUDGE_ATTEMPTS = 2

Row = dict[str, Any]


class Judged(Protocol):
    """A draft as the judge sees it."""

    reason: str  # why it is rejected
    error: str  # why there is no answer, of the writer or of the judge
    is_unjudged: bool  # it is the judge who did not answer


D = TypeVar("D", bound=Judged)


@dataclass(frozen=True)
class Source:
    """A model and how it is asked.

    ``name`` goes into the rows' provenance; ``where`` it stands, into errors.
    """

    name: str
    answers: Answers
    sampling: Sampling
    where: str


def asked_at(*sources: Source | None) -> str:
    """Where these are, for an error that any of them may have had."""
    return ", ".join(dict.fromkeys(source.where for source in sources if source))


@dataclass
class Tally:
    """What was asked of the models so far."""

    calls: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    judge_prompt_tokens: int = 0
    judge_tokens: int = 0
    unmetered: int = 0  # answers whose tokens are `tokens_of` and not what the endpoint counted

    def wrote(self, answer: Mapping[str, Any]) -> None:
        """Count a writer's answer (a row of ANSWER_SCHEMA)."""
        self.calls += 1
        self.prompt_tokens += answer["prompt_tokens"]
        self.tokens += tokens_of(answer)
        self.unmetered += answer["tokens"] != tokens_of(answer)

    def judged(self, answer: Mapping[str, Any]) -> None:
        """Count a judge's."""
        self.calls += 1
        self.judge_prompt_tokens += answer["prompt_tokens"]
        self.judge_tokens += tokens_of(answer)
        self.unmetered += answer["tokens"] != tokens_of(answer)

    def facts(self, writer: Price, judge: Price) -> dict[str, Any]:
        """For a stage's record; money in US dollars."""
        written = writer.of(self.prompt_tokens, self.tokens)
        judged = judge.of(self.judge_prompt_tokens, self.judge_tokens)
        return {
            "tokens_generated": self.tokens + self.judge_tokens,
            "prompt_tokens": self.prompt_tokens + self.judge_prompt_tokens,
            "calls": self.calls,
            "money": written + judged,
            "money_writer": written,
            "money_judge": judged,
        }


def tokens_of(answer: Mapping[str, Any]) -> int:
    """Tokens of an answer (a row of ANSWER_SCHEMA); by its characters where none were counted."""
    counted = int(answer["tokens"])
    return counted or math.ceil(len(answer["text"]) / CHARACTERS_PER_TOKEN)


def draft_id(id: str, draft: int) -> str:
    """The prompt's id: another draft has another one, and so another seed."""
    return id if draft == 0 else f"{id}/{draft}"


def prompt_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table of PROMPT_SCHEMA."""
    return pa.Table.from_pylist(list(rows), schema=PROMPT_SCHEMA)


def ask_judge(
    judge: Source,
    asked: Sequence[D],
    prompt: Callable[[D], Row],
    read: Callable[[D, Row], str | None],
    tally: Tally,
    work: Path,
) -> None:
    """Ask a judge about drafts; a verdict that is missing or cannot be read is asked for once more.

    Another verdict costs less than another draft. ``prompt`` makes a row of PROMPT_SCHEMA; ``read``
    takes an answer in and returns the reason against the draft, JUDGE_UNREADABLE to ask again.

    A draft that the judge has no answer about is nobody's fault but the judge's: it has the judge's
    error and is unjudged, and writing another one would not help. Where the judge answers nothing
    at all, it is not asked a second time.
    """
    for attempt in range(JUDGE_ATTEMPTS):
        if not asked:
            return
        prompts = [prompt(d) for d in asked]
        if attempt:
            prompts = [{**row, "id": f"{row['id']}/again-{attempt}"} for row in prompts]
        answers = judge.answers.answer(
            prompt_table(prompts), judge.sampling, work / str(attempt), lambda done: None
        )
        open_still: list[D] = []
        errors = 0
        for d, answer in zip(asked, answers.to_pylist(), strict=True):
            tally.judged(answer)
            d.is_unjudged = bool(answer["error"])
            d.error = f"the judge: {answer['error']}" if d.is_unjudged else ""
            if d.is_unjudged:
                d.reason = ""  # of a verdict before this one that could not be read
                errors += 1
                open_still.append(d)
            elif read(d, answer) == JUDGE_UNREADABLE:
                open_still.append(d)
        if errors == len(asked):
            return
        asked = open_still


class Tables:
    """Parquet files that rows are put into one by one, and written to in batches."""

    def __init__(self, out: Path, schemas: Mapping[str, pa.Schema]) -> None:
        self._schemas = schemas
        self._files = {
            name: pq.ParquetWriter(out / f"{name}.parquet", schema)
            for name, schema in schemas.items()
        }
        self._rows: dict[str, list[Row]] = {name: [] for name in schemas}

    def put(self, name: str, row: Row) -> None:
        """Add a row to ``name``.parquet."""
        self._rows[name].append(row)
        if len(self._rows[name]) >= BATCH_ROWS:
            self._flush(name)

    def close(self) -> None:
        """Write what is left."""
        for name, file in self._files.items():
            self._flush(name)
            file.close()

    def _flush(self, name: str) -> None:
        rows, self._rows[name] = self._rows[name], []
        if rows:
            self._files[name].write_table(pa.Table.from_pylist(rows, self._schemas[name]))
