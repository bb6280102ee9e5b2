"""Verdicts bought once a store: what a judge was asked before, by any stage, it is not asked again.

A verdict depends on the judge, on how it is asked and on the question itself; not on the checkpoint
or the run whose words it is about. Where there is none yet the judge is asked, and once more about
what is no verdict. What it says then is kept; an error is not, so that the next run asks again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from msm_ray.corpus.drafting import JUDGE_ATTEMPTS, prompt_table, tokens_of
from msm_ray.corpus.outages import check_failed
from msm_ray.identity import digest
from msm_ray.llm.model import answers_at, price_at, where_at
from msm_ray.llm.protocol import ANSWER_SCHEMA, Answers, Sampling
from msm_ray.tasks.items import Row
from msm_ray.tasks.verdicts import FAILED, OK, Reading, read

if TYPE_CHECKING:
    from msm_ray.stage import StageContext

# Makes a source of answers for the length of a block.
Source = Callable[[], contextlib.AbstractContextManager[Answers]]


@dataclass(frozen=True)
class Question:
    """What a judge reads."""

    system: str
    prompt: str


class Judging:
    """Asks the judge of a stage what the store does not know already.

    Args:
        ctx: its runtime has ``judge`` (a model's place) and ``failed_share``.
        shared: what all verdicts have in common, as the stage's config has it: ``judge`` (a model's
            identity), ``judge_sampling``, and whatever else they depend on besides their questions.
            The name under which they are kept.
        schema: of a verdict, a JSON schema.
        source: who answers; by default what config and runtime name.
    """

    def __init__(
        self,
        ctx: StageContext,
        shared: Mapping[str, Any],
        schema: Mapping[str, Any],
        source: Source | None = None,
    ) -> None:
        self._ctx, self._schema = ctx, schema
        self._sampling = replace(
            Sampling.from_config(shared["judge_sampling"]),
            schema=json.dumps(schema, separators=(",", ":")),
        )
        self._name = f"verdicts-{digest(dict(shared))[:24]}"
        place = ctx.runtime["judge"]
        self._source = source or (
            lambda: contextlib.nullcontext(answers_at(shared["judge"], place))
        )
        self._calls = self._prompt_tokens = self._tokens = self._from_cache = 0

    def of(self, questions: Mapping[str, Question]) -> dict[str, Reading]:
        """A reading for each question, by its key: a hash of all that tells it from others.

        Raises:
            UserError: more of them ended in an error than ``failed_share`` allows.
        """
        if not questions:
            return {}
        shelf = self._ctx.shelf
        assert shelf is not None, "verdicts are kept in a store"
        found: dict[str, Reading] = {}
        while len(found) < len(questions):
            left = [k for k in questions if k not in found]
            with shelf.adding(self._name, ANSWER_SCHEMA, left) as (table, mine):
                known = {row["id"]: row for row in table.to_pylist()}
                fresh = self._ask({k: questions[k] for k in left if k in mine})
                rows = {k: known.get(k) or fresh.get(k) for k in left}
                read_now = {k: read(row, self._schema) for k, row in rows.items() if row}
                keep = [row for k, row in fresh.items() if read_now[k].is_final]
                if keep:
                    kept = pa.Table.from_pylist(keep, ANSWER_SCHEMA)
                    shelf.put(self._name, digest([sorted(fresh), self._ctx.input_ids])[:24], kept)
            self._from_cache += sum(k in known for k in left)
            found |= read_now
        found = {k: found[k] for k in questions}
        self._check(found)
        return found

    def facts(self) -> dict[str, Any]:
        """What it took until now; ``from_cache``: verdicts that an earlier stage had asked for."""
        price = price_at(self._ctx.runtime["judge"])
        return {
            "from_cache": self._from_cache,
            "calls": self._calls,
            "prompt_tokens": self._prompt_tokens,
            "tokens_generated": self._tokens,
            "money": price.of(self._prompt_tokens, self._tokens),
        }

    def _ask(self, asked: Mapping[str, Question]) -> dict[str, Row]:
        """The judge's last answer about each; what is no verdict is asked for once more."""
        found: dict[str, Row] = {}
        if not asked:
            return found
        with self._source() as source:
            open_still = list(asked)
            for attempt in range(JUDGE_ATTEMPTS):
                done = len(asked) - len(open_still)
                for answer in self._answers(source, asked, open_still, attempt, done):
                    self._calls += 1
                    self._prompt_tokens += answer["prompt_tokens"]
                    self._tokens += tokens_of(answer)
                    key = answer["id"].partition("/")[0]
                    found[key] = {**answer, "id": key}
                if all(found[k]["error"] for k in asked):
                    break  # nobody is there: no use in asking again
                open_still = [k for k in open_still if read(found[k], self._schema).status != OK]
                if not open_still:
                    break
        return found

    def _answers(
        self,
        source: Answers,
        asked: Mapping[str, Question],
        keys: list[str],
        attempt: int,
        done: int,
    ) -> list[Row]:
        prompts = [
            {
                # Another id, and so another seed; of the content alone, so that it is the same
                # whichever questions stand beside it.
                "id": k if not attempt else f"{k}/again-{attempt}",
                "system": asked[k].system,
                "prompt": asked[k].prompt,
            }
            for k in keys
        ]
        got: list[Row] = []
        for start in range(0, len(prompts), source.call_rows):
            part = prompts[start : start + source.call_rows]
            got += source.answer(
                prompt_table(part),
                self._sampling,
                self._ctx.work / f"{attempt}-{start}",
                partial(self._progress, done + start, len(asked)),
            ).to_pylist()
        return got

    def _progress(self, before: int, asked: int, done: int) -> None:
        facts = {"answered": before + done, "asked": asked}
        self._ctx.progress(min(0.99, (before + done) / asked), facts)

    def _check(self, found: Mapping[str, Reading]) -> None:
        """UserError if more verdicts ended in an error than may."""
        failed = [one for one in found.values() if one.status == FAILED]
        if failed:
            share, where = self._ctx.runtime["failed_share"], where_at(self._ctx.runtime["judge"])
            check_failed(len(failed), len(found), share, failed[-1].reason, where)
