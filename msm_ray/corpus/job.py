"""A corpus as a job: a spec, who plans and writes and judges, and what a document must be.

    spec -> plan -> corpus

Run, previewed and resumed like any other job. No Ray is needed: what is waited for is the network.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_ray.artifact import Record, Store
from msm_ray.corpus import verdicts
from msm_ray.corpus.drafting import JUDGE_ATTEMPTS
from msm_ray.corpus.hierarchy import HierarchyConfig
from msm_ray.corpus.outages import FAILED_SHARE
from msm_ray.corpus.prompts import fingerprint, names
from msm_ray.corpus.running import (
    SpecJob,
    check_drafting,
    drafted_part,
    items_stage,
    runtime_of,
    spec_stage,
    titled,
)
from msm_ray.corpus.screening import ScreenConfig
from msm_ray.corpus.structure import plan_structure
from msm_ray.errors import UserError
from msm_ray.llm.model import AnyModel, LocalModel, Model
from msm_ray.llm.price import CHARACTERS_PER_TOKEN, Bill
from msm_ray.llm.protocol import Sampling
from msm_ray.spec import fill, read_spec, rules
from msm_ray.stage import Stage, topological

__all__ = ["CorpusJob", "LocalModel", "Model"]

TOKENS_PER_WORD = 1.35  # of English prose, with what a scratchpad adds below
SCRATCHPAD_TOKENS = 220
# Of the prompts without spec, section and document, and of what is answered; for a preview.
PLANNER_TOKENS, ITEM_TOKENS = 900, 80
WRITER_TOKENS = 1_100
JUDGE_TOKENS, VERDICT_TOKENS, REWRITE_TOKENS = 900, 150, 300


@dataclass(frozen=True)
class CorpusJob(SpecJob):
    """What a corpus decides.

    ``planner``: who plans (None in structure mode). ``judge``: who judges what passes the screen
    (None keeps it). ``rewrite``: what the judge rejects goes back to the writer once with its
    problems. ``drafts``: how often a document is asked for at most, so that the corpus gets whole.
    ``items``: JSONL files of evaluation items that no document may hold. ``failed_share``: a stage
    ends with an error, to be continued, where more than this share ended without an answer; see
    `outages`.
    """

    spec: str
    plan: HierarchyConfig
    planner: AnyModel | None
    writer: AnyModel
    sampling: Sampling
    screen: ScreenConfig
    drafts: int
    judge: AnyModel | None = None
    judge_sampling: Sampling | None = None
    rewrite: bool = False
    items: tuple[str, ...] = ()
    failed_share: float = FAILED_SHARE

    def __post_init__(self) -> None:
        check_drafting(self.drafts, self.judge, self.judge_sampling, self.failed_share)
        if (self.planner is None) != (self.plan.mode == "structure"):
            has = "none is given" if self.planner is None else "one is given"
            raise UserError(f"planner: plan.mode is {self.plan.mode!r} and {has}")
        if self.rewrite and self.judge is None:
            raise UserError("rewrite is on without a judge; give one or switch it off")

    # ---- stages -------------------------------------------------------------------------------

    def stages(self) -> list[Stage]:
        """spec, plan, items, corpus: inputs before what reads them."""
        return topological([self.corpus_stage()])

    def spec_stage(self) -> Stage:
        """The spec's text as an artifact. UserError if it cannot be read or planned from."""
        plan = self.plan
        if plan.mode == "rules" and not self._rules():
            raise UserError(
                f"{self.spec}: has no numbered rules, which mode 'rules' plans for; begin each with"
                " a label such as '1.', '1.2' or 'R3:', or use mode 'model'"
            )
        return spec_stage(self.spec, plan.spec_tokens, plan.assistant, plan.maker)

    def plan_stage(self) -> Stage:
        """From the spec to one row for each document."""
        config = {f.name: getattr(self.plan, f.name) for f in dataclasses.fields(self.plan)}
        config["sampling"] = self.plan.sampling.to_config() if self.plan.sampling else None
        return Stage(
            kind="corpus_plan",
            version="1",
            config={
                "plan": config,
                "planner": self.planner.identity() if self.planner else None,
                "prompts": fingerprint(n for n in names() if not n.startswith("judge")),
                **titled(self.spec),
            },
            inputs={"spec": self.spec_stage()},
            run="msm_ray.corpus.making:plan",
            label=self.name,
            runtime=runtime_of(self.failed_share, planner=self.planner),
            estimate={"seconds": 60.0 if self.planner else 1.0, **self._planning()},
        )

    def corpus_stage(self) -> Stage:
        """From the plan to the documents. UserError if none could be as long as it is to be."""
        needed = self.plan.words * TOKENS_PER_WORD
        if self.sampling.max_tokens < needed:
            raise UserError(
                f"sampling.max_tokens is {self.sampling.max_tokens} and plan.words"
                f" {self.plan.words}, which are about {needed:.0f} tokens: every document would be"
                " cut off; raise max_tokens or ask for fewer words"
            )
        inputs = {"plan": self.plan_stage(), "spec": self.spec_stage()}
        if self.items:
            inputs["items"] = items_stage(self.items, self.name)
        once, at_most = self._writing()
        judge = self.judge_sampling.to_config() if self.judge_sampling else None
        return Stage(
            kind="corpus",
            version="2",  # keeps what a rewrite replaces, and says what a reason was found in
            config={
                "writer": self.writer.identity(),
                "sampling": self.sampling.to_config(),
                "judge": self.judge.identity() if self.judge else None,
                "judge_sampling": judge,
                "rewrite": self.rewrite,
                "drafts": self.drafts,
                "screen": dataclasses.asdict(self.screen),
                "assistant": self.plan.assistant,
                "maker": self.plan.maker,
                "prompts": fingerprint(verdicts.PROMPTS),
            },
            inputs=inputs,
            run="msm_ray.corpus.making:corpus",
            label=self.name,
            runtime=runtime_of(self.failed_share, writer=self.writer, judge=self.judge),
            estimate={
                "seconds": max(5.0, once.calls * 10.0 / self.writer.in_flight),
                "documents": self._documents(),
                **once.estimate(at_most),
            },
        )

    # ---- what it will cost --------------------------------------------------------------------

    def _documents(self) -> int:
        """Planned documents: exact without a planner, else what the counts ask for."""
        plan = self.plan
        if plan.mode == "structure":
            spec = fill(read_spec(Path(self.spec)), plan.assistant, plan.maker)
            return plan_structure(spec, plan).documents
        topics = plan.domains * plan.subdomains if plan.mode == "model" else self._rules()
        return topics * plan.types * plan.ideas

    def _rules(self) -> int:
        return len(rules(read_spec(Path(self.spec))))

    def _planning_calls(self) -> int:
        """Prompts of a planner that answers all it is asked for."""
        plan = self.plan
        if plan.mode == "structure":
            return 0

        def asked(count: int) -> int:
            return -(-count // plan.per_answer)

        if plan.mode == "rules":
            topics = self._rules()
            levels = [asked(plan.domains), topics * asked(plan.types)]
        else:
            topics = plan.domains * plan.subdomains
            levels = [asked(plan.domains), plan.domains * asked(plan.subdomains)]
            levels += [topics * asked(plan.assertions), topics * asked(plan.types)]
        return sum(levels) + topics * plan.types * asked(plan.ideas)

    def _planning(self) -> dict[str, float]:
        """What the planner is asked for; at most, if it falls short in every round."""
        if self.planner is None:
            return {}
        read, written = self._spec_tokens() + PLANNER_TOKENS, ITEM_TOKENS * self.plan.per_answer
        once = self.planner.price.bill(self._planning_calls(), read, written)
        return once.estimate(once * (1 + self.plan.rounds))

    def _writing(self) -> tuple[Bill, Bill]:
        """One draft of each document, and all drafts with all that may follow each of them.

        A draft is written and judged. At most, every draft is used up, every verdict is asked for
        twice, and every document is rewritten and judged again.
        """
        documents, section = self._documents(), self._section_tokens()
        words = self.plan.words * TOKENS_PER_WORD
        request = self._spec_tokens() + WRITER_TOKENS + section
        answer = min(words + SCRATCHPAD_TOKENS, self.sampling.max_tokens)
        written = self.writer.price.bill(documents, request, answer)
        judged = rewritten = Bill()
        if self.judge is not None:
            read = words + section + JUDGE_TOKENS
            judged = self.judge.price.bill(documents, read, VERDICT_TOKENS)
        if self.rewrite:
            more = words + VERDICT_TOKENS + REWRITE_TOKENS
            rewritten = self.writer.price.bill(documents, request + more, answer)
        verdicts_twice = judged * JUDGE_ATTEMPTS
        again = rewritten + verdicts_twice if self.rewrite else Bill()
        return written + judged, (written + verdicts_twice + again) * self.drafts

    def _spec_tokens(self) -> float:
        return len(read_spec(Path(self.spec)).text) / CHARACTERS_PER_TOKEN

    def _section_tokens(self) -> float:
        """Of the piece of the spec that a document is about: the mean over all there are."""
        spec = read_spec(Path(self.spec))
        pieces = rules(spec) if self.plan.mode == "rules" else spec.sections
        texts = [piece.text for piece in pieces]
        return sum(map(len, texts)) / max(len(texts), 1) / CHARACTERS_PER_TOKEN

    def result(
        self, store: Store, stages: list[Stage], records: dict[str, Record]
    ) -> dict[str, Any]:
        """The report's part on the corpus."""
        last = stages[-1]
        if last.id not in records:
            return {}
        part, card = drafted_part(
            store.fetch(last.id), Path(self.spec).stem, self.writer, ("documents.jsonl",)
        )
        plan = last.inputs["plan"]
        hierarchy = json.loads(
            (store.fetch(plan.id) / "hierarchy.json").read_text(encoding="utf-8")
        )
        return {
            **part,
            "measures": card["measures"],
            "kept_by": card["kept_by"],
            "hierarchy": hierarchy,
        }
