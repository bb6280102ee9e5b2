"""Conversations as a job: a spec, who asks, answers and judges, and what an answer must be.

    spec -> questions -> conversations

Run, previewed and resumed like any other job. Two styles about one spec share their questions.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_ray.artifact import Record, Store
from msm_ray.chat.config import PREFERENCES, AnswerConfig, QuestionConfig
from msm_ray.chat.prompts import fingerprint
from msm_ray.corpus.outages import FAILED_SHARE
from msm_ray.corpus.running import (
    SpecJob,
    check_drafting,
    drafted_part,
    items_stage,
    runtime_of,
    spec_stage,
)
from msm_ray.errors import UserError
from msm_ray.llm.model import AnyModel
from msm_ray.llm.price import CHARACTERS_PER_TOKEN
from msm_ray.llm.protocol import Sampling
from msm_ray.spec import read_spec
from msm_ray.stage import Stage, topological

# Of English; for what a preview expects.
INSTRUCTION_TOKENS = 700
ANSWER_TOKENS = {"value": 700, "rule": 700, PREFERENCES: 30}
QUESTION_TOKENS = 60
VERDICT_TOKENS = 80

_QUESTION_PROMPTS = {
    "spec": ("planner", "domains", "domains_more", "questions", "questions_more"),
    PREFERENCES: ("planner_preferences", "direct", "indirect", "preferences_more"),
}
_ANSWER_PROMPTS = {
    "value": ("value", "respond", "judge_system", "manner_value", "judge_conversation"),
    "rule": ("rule", "respond", "judge_system", "manner_rule", "judge_conversation"),
    PREFERENCES: (
        *("preference", "respond_preference", "judge_preference_system", "judge_preference"),
    ),
}


@dataclass(frozen=True)
class ConversationJob(SpecJob):
    """What a set of conversations decides.

    ``planner``: who writes the users' questions. ``judge``: who judges the answers that pass the
    screen (None keeps them). ``drafts``: how often a question is asked at most, so that the set
    gets whole. ``items``: JSONL files of evaluation items that no conversation may hold.
    ``failed_share``: a stage ends with an error, to be continued, where more than this share ended
    without an answer; see `msm_ray.corpus.outages`.
    """

    spec: str
    questions: QuestionConfig
    planner: AnyModel
    answers: AnswerConfig
    writer: AnyModel
    sampling: Sampling
    drafts: int
    judge: AnyModel | None = None
    judge_sampling: Sampling | None = None
    items: tuple[str, ...] = ()
    failed_share: float = FAILED_SHARE

    def __post_init__(self) -> None:
        check_drafting(self.drafts, self.judge, self.judge_sampling, self.failed_share)
        if (self.questions.about == PREFERENCES) != (self.answers.style == PREFERENCES):
            raise UserError(
                f"answers.style is {self.answers.style!r} to questions about"
                f" {self.questions.about!r}; 'preferences' go with 'preferences' only"
            )

    # ---- stages -------------------------------------------------------------------------------

    def stages(self) -> list[Stage]:
        """spec, items, questions, conversations: inputs before what reads them."""
        return topological([self.conversations_stage()])

    def spec_stage(self) -> Stage:
        """The spec's text as an artifact."""
        q = self.questions
        return spec_stage(self.spec, q.spec_tokens, q.assistant, q.maker)

    def questions_stage(self) -> Stage:
        """From the spec to the users' questions; the same for all styles about it."""
        prompts, tokens = self._question_costs()
        return Stage(
            kind="chat_questions",
            version="1",
            config={
                "questions": self.questions.to_config(),
                "planner": self.planner.identity(),
                "prompts": fingerprint(_QUESTION_PROMPTS[self.questions.about]),
            },
            inputs={"spec": self.spec_stage(), **self._items()},
            run="msm_ray.chat.making:questions",
            label=self.name,
            runtime=runtime_of(self.failed_share, planner=self.planner),
            estimate={
                "seconds": 30.0,
                "calls": self._question_calls(),
                "prompt_tokens": prompts,
                "tokens": tokens,
                "money": round(self.planner.price.of(prompts, tokens), 4),
            },
        )

    def conversations_stage(self) -> Stage:
        """From the questions to the conversations."""
        calls, prompts, tokens, dollars = self._answer_costs()
        judging = self.judge_sampling.to_config() if self.judge_sampling else None
        return Stage(
            kind="chat_conversations",
            version="2",
            config={
                "answers": dataclasses.asdict(self.answers),
                "writer": self.writer.identity(),
                "sampling": self.sampling.to_config(),
                "judge": self.judge.identity() if self.judge else None,
                "judge_sampling": judging,
                "drafts": self.drafts,
                "assistant": self.questions.assistant,
                "maker": self.questions.maker,
                "prompts": fingerprint(_ANSWER_PROMPTS[self.answers.style]),
            },
            inputs={
                "questions": self.questions_stage(),
                "spec": self.spec_stage(),
                **self._items(),
            },
            run="msm_ray.chat.making:conversations",
            label=self.name,
            runtime=runtime_of(self.failed_share, writer=self.writer, judge=self.judge),
            estimate={
                "seconds": max(5.0, calls * 10.0 / self.writer.in_flight),
                "documents": self.planned(),
                "calls": calls,
                "prompt_tokens": prompts,
                "tokens": tokens,
                "money": dollars,
            },
        )

    def _items(self) -> dict[str, Stage]:
        return {"items": items_stage(self.items, self.name)} if self.items else {}

    # ---- what it will cost --------------------------------------------------------------------

    def planned(self) -> int:
        """The questions that are wanted; fewer if the planner gives fewer."""
        return self._parents() * self.questions.questions

    def _parents(self) -> int:
        """Domains, or preferences in both forms and orders."""
        return self.questions.domains or 4 * len(read_spec(Path(self.spec)).preferences)

    def _question_calls(self) -> int:
        """Prompts of a planner that gives all it is asked for."""
        q = self.questions
        asked = -(-math.ceil(q.questions * (1 + q.spare)) // q.per_answer)
        return self._parents() * asked + (-(-q.domains // q.per_answer))

    def _question_costs(self) -> tuple[int, int]:
        calls, spare = self._question_calls(), 1 + self.questions.spare
        return (
            int(calls * self._system_tokens(self.questions.about != PREFERENCES)),
            int(self.planned() * spare * QUESTION_TOKENS),
        )

    def _system_tokens(self, with_spec: bool) -> float:
        spec = len(read_spec(Path(self.spec)).text) / CHARACTERS_PER_TOKEN if with_spec else 0
        return spec + INSTRUCTION_TOKENS

    def _answer_costs(self) -> tuple[int, int, int, float]:
        """Calls, prompt tokens, answer tokens, US dollars of one draft of each answer."""
        planned, style = self.planned(), self.answers.style
        system = self._system_tokens(style != PREFERENCES)
        answer = min(ANSWER_TOKENS[style], self.sampling.max_tokens)
        calls, prompts, tokens = (
            planned,
            int(planned * (system + QUESTION_TOKENS)),
            planned * answer,
        )
        dollars = self.writer.price.of(prompts, tokens)
        if self.judge is not None:
            read, written = int(planned * (system + answer)), planned * VERDICT_TOKENS
            calls, prompts, tokens = calls + planned, prompts + read, tokens + written
            dollars += self.judge.price.of(read, written)
        return calls, prompts, tokens, round(dollars, 4)

    # ---- report -------------------------------------------------------------------------------

    def result(
        self, store: Store, stages: list[Stage], records: dict[str, Record]
    ) -> dict[str, Any]:
        """The report's part on the conversations."""
        last = stages[-1]
        if last.id not in records:
            return {}
        part, card = drafted_part(
            store.fetch(last.id),
            f"{Path(self.spec).stem}, {self.answers.style}",
            self.writer,
            ("conversations.jsonl", "conversations_reasoning.jsonl"),
        )
        folder = store.fetch(last.inputs["questions"].id)
        asked = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
        return {
            **part,
            "domains": card["domains"],
            "preferences": card["preferences"],
            "questions": asked,
            "unit": "conversations",
            "hierarchy": {
                "domains": len(card["domains"]),
                "questions": asked["kept"],
                "missing": {"questions": asked["missing"]},
                "dropped": {"questions": asked["dropped"]},
                "shortfalls": asked["shortfalls"],
            },
        }
