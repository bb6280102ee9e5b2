"""Free answers, judged from 1 to 10 by a model that knows the rubric and nothing else.

Two stages: the checkpoint answers every question (``open_answers``), then the judge grades the
answers (``open_qa``). A judge with one rubric is asked about one question with one answer once per
store, whatever checkpoint or run the answer came from. What is no verdict is counted by its kind
and is never a score; a judge that gives no score at all gives no rate: the eval is missing then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.corpus.drafting import JUDGE_ATTEMPTS, prompt_table, tokens_of
from msm_ray.corpus.outages import FAILED_SHARE, check_failed, check_share
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.identity import digest
from msm_ray.llm.model import AnyModel, answers_at, price_at, where_at
from msm_ray.llm.price import CHARACTERS_PER_TOKEN, Bill
from msm_ray.llm.protocol import ANSWER_SCHEMA, Sampling
from msm_ray.stage import Stage
from msm_ray.tasks import verdicts
from msm_ray.tasks.asking import (
    Made,
    Size,
    ask_checkpoint,
    by,
    items_in,
    rate,
    row,
    task_stage,
    write_rows,
)
from msm_ray.tasks.items import Items, Row
from msm_ray.tasks.prompts import load
from msm_ray.tasks.subject import Open, Subject
from msm_ray.tasks.verdicts import FAILED, REFUSED, UNPARSED, Verdict

if TYPE_CHECKING:
    from msm_ray.stage import StageContext

TEMPLATE_TOKENS = 20
ANSWER_TOKENS = 250  # of an answer, as most are, if it may be that long
VERDICT_TOKENS = 80
ANSWERS = "open_answers"
CUT = "cut"  # status of an answer that reached the limit of tokens
VERDICT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # the answer's, in rows.parquet
        ("status", pa.string()),  # ok | unparsed | refused | failed
        ("score", pa.int64()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class OpenQA:
    """Questions to be answered freely, and who judges the answers.

    ``items``: "open_qa", or the path of a JSONL file of `open_qa`. ``rubric``: the path of a text
    that says what is graded from 1 to 10; "" for the packaged one. ``sampling``: how the checkpoint
    answers, with a seed of each item's own. ``failed_share``: the run stops, to be continued, where
    more than this share of the verdicts ended in an error; see `msm_ray.corpus.outages`.
    """

    judge: AnyModel
    items: str = "open_qa"
    rubric: str = ""
    sampling: Sampling = field(
        default_factory=lambda: Sampling(temperature=0.7, top_p=1.0, max_tokens=512, seed=0)
    )
    judge_sampling: Sampling = field(
        default_factory=lambda: Sampling(temperature=0.0, top_p=1.0, max_tokens=400, seed=0)
    )
    failed_share: float = FAILED_SHARE

    def __post_init__(self) -> None:
        check_share(self.failed_share)
        verdicts.rubric_text(self.rubric)

    @property
    def name(self) -> str:
        """The eval's name."""
        name = Items("open_qa", self.items).name
        return name if name == "open_qa" else f"open_qa:{name}"

    @property
    def evals(self) -> tuple[str, ...]:
        """The mean score."""
        return (self.name,)

    def models(self) -> tuple[AnyModel, ...]:
        """The judge."""
        return (self.judge,)

    def stage(self, inputs: Mapping[str, Stage], label: str, engine: EngineSettings) -> Stage:
        """The verdicts; their input ``answers`` is the stage that asks the checkpoint."""
        items = Items("open_qa", self.items)
        rows, label = items.rows(), f"{label} {items.name}"
        length = sum(len(item["question"]) for item in rows) / CHARACTERS_PER_TOKEN
        written = min(ANSWER_TOKENS, self.sampling.max_tokens)
        answers = task_stage(
            ANSWERS,
            "1",
            {"sampling": self.sampling.to_config()},
            {**inputs, "items": items.stage()},
            "msm_ray.tasks.open_qa:ask",
            label,
            engine,
            Size(len(rows), length + TEMPLATE_TOKENS * len(rows), written * len(rows)),
        )
        rubric = verdicts.rubric_text(self.rubric)
        read = (len(rubric) + len(load("judge").text)) / CHARACTERS_PER_TOKEN + written
        bill = self.judge.price.bill(len(rows), read + length / len(rows), VERDICT_TOKENS)
        # All that graded answers have in common; also the name under which verdicts are kept.
        judged = {
            "judge": self.judge.identity(),
            "judge_sampling": self.judge_sampling.to_config(),
            "rubric": rubric,
            "prompt": load("judge").text,
            "scorer": verdicts.SCORER,
        }
        return Stage(
            kind="open_qa",
            version="1",
            config={"name": self.name, **judged},
            inputs={"answers": answers},
            run="msm_ray.tasks.open_qa:judge",
            label=label,
            runtime={
                "judge": self.judge.place(),
                "failed_share": self.failed_share,
                "where": "driver",
                "cpus": 0.1,
            },
            estimate={"seconds": 5.0, **_estimate(bill)},
        )


def _estimate(bill: Bill) -> dict[str, float]:
    return bill.estimate(bill * JUDGE_ATTEMPTS)


# ---- the checkpoint's answers -------------------------------------------------------------------


def ask(ctx: StageContext) -> dict[str, Any]:
    """Stage: see `ask_open`. Inputs: ``model`` (and ``base``), ``items``."""
    sampling = Sampling.from_config(ctx.config["sampling"])
    facts = ask_checkpoint(ctx, lambda subject: ask_open(subject, items_in(ctx), sampling))
    return {name: value for name, value in facts.items() if name != "evals"}  # nothing is rated yet


def ask_open(subject: Subject, items: Sequence[Row], sampling: Sampling) -> Made:
    """A row for each answer, without a value; an answer that was cut off is judged as it is."""
    opens = [
        Open(
            item["id"],
            item["question"],
            sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed_of(item["id"]),
        )
        for item in items
    ]
    written = subject.write(opens)
    rows = [
        row(
            item,
            ANSWERS,
            None,
            prompt=item["question"],
            answer=one.text,
            status=verdicts.OK if one.ended else CUT,
        )
        for item, one in zip(items, written, strict=True)
    ]
    return Made(rows, {}, {"items": len(items), "cut": sum(not one.ended for one in written)})


# ---- the judge's verdicts -----------------------------------------------------------------------


def judge(ctx: StageContext) -> dict[str, Any]:
    """Stage: grade the answers of ``answers``. Config: see `OpenQA.stage`.

    Writes ``rows.parquet``: a row for each answer, its value the score, null where there is none;
    and ``verdicts.parquet``: the judge's reason for each, or why there is no score.

    Returns:
        ``evals``: the mean score, with counts of what is no verdict, unless there is no score at
        all: then ``problems`` says why there is none. ``from_cache``: verdicts that an earlier
        stage had asked for.
    """
    answers = pq.read_table(ctx.inputs["answers"] / "rows.parquet").to_pylist()
    made, facts = _Judging(ctx).of(answers)
    rows = [
        {
            **a,
            "eval": ctx.config["name"],
            "value": v.score,
            "status": v.status,
        }
        for a, v in zip(answers, made, strict=True)
    ]
    write_rows(ctx.out, rows)
    reasons = [
        {"id": a["id"], "status": v.status, "score": v.score, "reason": v.reason}
        for a, v in zip(answers, made, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(reasons, VERDICT_SCHEMA), ctx.out / "verdicts.parquet")
    cut = sum(a["status"] == CUT for a in answers)
    return {**rated(rows, ctx.config["name"]), **facts, "items": len(rows), "cut": cut}


def rated(rows: Sequence[Row], name: str) -> dict[str, Any]:
    """``evals`` with the mean score, or ``problems`` where there is none."""
    counts = Counter(r["status"] for r in rows)
    no_score = {status: counts[status] for status in (UNPARSED, REFUSED, FAILED)}
    if not counts[verdicts.OK]:
        why = ", ".join(f"{n} {status}" for status, n in no_score.items() if n)
        words = f"{name}: the judge gave no score for any of {len(rows)} answers ({why})"
        return {"evals": {}, "problems": [words], **no_score}
    entry = {
        **rate(rows),
        "by_domain": by(rows, "domain"),
        **no_score,
        "unit": f"score from {verdicts.LOWEST} to {verdicts.HIGHEST}",
        "range": [verdicts.LOWEST, verdicts.HIGHEST],
    }
    return {"evals": {name: entry}}


class _Judging:
    """Asks a judge what the store does not know already."""

    def __init__(self, ctx: StageContext) -> None:
        self._ctx, config = ctx, ctx.config
        sampling = replace(
            Sampling.from_config(config["judge_sampling"]), schema=verdicts.SCHEMA_TEXT
        )
        self._sampling, self._system = sampling, config["rubric"]
        shared = {name: config[name] for name in config if name != "name"}
        self._name = f"verdicts-{digest(shared)[:24]}"
        self._calls = self._prompt_tokens = self._tokens = 0

    def of(self, answers: Sequence[Row]) -> tuple[list[Verdict], dict[str, Any]]:
        """A verdict for each answer, and what they took."""
        ctx = self._ctx
        assert ctx.shelf is not None, "verdicts are kept in a store"
        keys = [verdicts.key(a["prompt"], a["answer"]) for a in answers]
        asked = dict(zip(keys, answers, strict=True))
        with ctx.shelf.held(self._name):
            table = ctx.shelf.read(self._name, ANSWER_SCHEMA)
            known = {row["id"]: row for row in table.to_pylist()}
            fresh = self._ask({k: a for k, a in asked.items() if k not in known})
            found = {k: verdicts.read_verdict(known.get(k) or fresh[k]) for k in asked}
            keep = [fresh[k] for k in fresh if found[k].is_final]
            if keep:
                kept = pa.Table.from_pylist(keep, ANSWER_SCHEMA)
                ctx.shelf.put(self._name, digest([sorted(fresh), ctx.input_ids])[:24], kept)
        made = [found[k] for k in keys]
        self._check(made)
        price = price_at(ctx.runtime["judge"])
        return made, {
            "from_cache": sum(k in known for k in asked),
            "calls": self._calls,
            "prompt_tokens": self._prompt_tokens,
            "tokens_generated": self._tokens,
            "money": price.of(self._prompt_tokens, self._tokens),
        }

    def _ask(self, asked: Mapping[str, Row]) -> dict[str, Row]:
        """The judge's last answer about each; what is no verdict is asked for once more."""
        found: dict[str, Row] = {}
        if not asked:
            return found
        source = answers_at(self._ctx.config["judge"], self._ctx.runtime["judge"])
        open_still = list(asked)
        for attempt in range(JUDGE_ATTEMPTS):
            prompts = [
                {
                    # Another id, and so another seed; of the content alone, so that it is the same
                    # whichever answers stand beside it.
                    "id": k if not attempt else f"{k}/again-{attempt}",
                    "system": self._system,
                    "prompt": verdicts.judge_prompt(asked[k]["prompt"], asked[k]["answer"]),
                }
                for k in open_still
            ]
            done = len(asked) - len(open_still)
            got: list[Row] = []
            for start in range(0, len(prompts), source.call_rows):
                part = prompts[start : start + source.call_rows]
                got += source.answer(
                    prompt_table(part),
                    self._sampling,
                    self._ctx.work / f"{attempt}-{start}",
                    partial(self._progress, done + start, len(asked)),
                ).to_pylist()
            for k, answer in zip(open_still, got, strict=True):
                self._calls += 1
                self._prompt_tokens += answer["prompt_tokens"]
                self._tokens += tokens_of(answer)
                found[k] = {**answer, "id": k}
            failed = [k for k in open_still if found[k]["error"]]
            if len(failed) == len(asked):
                break  # nobody is there: no use in asking again
            open_still = [
                k for k in open_still if verdicts.read_verdict(found[k]).status != verdicts.OK
            ]
            if not open_still:
                break
        return found

    def _progress(self, before: int, asked: int, done: int) -> None:
        facts = {"answered": before + done, "asked": asked}
        self._ctx.progress(min(0.99, (before + done) / asked), facts)

    def _check(self, made: Sequence[Verdict]) -> None:
        """UserError if more verdicts ended in an error than may."""
        failed = [v for v in made if v.status == FAILED]
        if failed:
            share, where = self._ctx.runtime["failed_share"], where_at(self._ctx.runtime["judge"])
            check_failed(len(failed), len(made), share, failed[-1].reason, where)
