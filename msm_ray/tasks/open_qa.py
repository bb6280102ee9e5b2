"""Free answers, judged from 1 to 10 by a model that knows the rubric and nothing else.

Two stages: the checkpoint answers every question (``open_answers``), then the judge grades the
answers (``open_qa``). A judge with one rubric is asked about one question with one answer once per
store, whatever checkpoint or run the answer came from. What is no verdict is counted by its kind
and is never a score; a judge that gives no score at all gives no rate: the eval is missing then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.corpus.drafting import JUDGE_ATTEMPTS
from msm_ray.corpus.outages import FAILED_SHARE, check_share
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.llm.model import AnyModel
from msm_ray.llm.price import CHARACTERS_PER_TOKEN, Bill
from msm_ray.llm.protocol import Sampling
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
from msm_ray.tasks.judging import Judging, Question
from msm_ray.tasks.prompts import load
from msm_ray.tasks.subject import Open, Subject
from msm_ray.tasks.verdicts import FAILED, REFUSED, UNPARSED

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
    judging = Judging(ctx, {k: v for k, v in ctx.config.items() if k != "name"}, verdicts.SCHEMA)
    keys = [verdicts.key(a["prompt"], a["answer"]) for a in answers]
    found = judging.of(
        {
            k: Question(ctx.config["rubric"], verdicts.judge_prompt(a["prompt"], a["answer"]))
            for k, a in zip(keys, answers, strict=True)
        }
    )
    made = [verdicts.verdict(found[k]) for k in keys]
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
    return {**rated(rows, ctx.config["name"]), **judging.facts(), "items": len(rows), "cut": cut}


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
