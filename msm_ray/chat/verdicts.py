"""The judge of conversations: what it is asked, and how its verdict is read.

Pure. A verdict that cannot be read, or that contradicts itself, is JUDGE_UNREADABLE: asked for once
more, counted, and never a reason to keep a conversation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msm_ray.chat.config import PREFERENCES
from msm_ray.chat.prompts import load
from msm_ray.corpus.naming import Identity
from msm_ray.corpus.reading import read_json, split_reasoning
from msm_ray.corpus.verdicts import JUDGE_UNREADABLE, mark
from msm_ray.records import Spec

EXCLUDED = "judge_excluded"
REASONS = {
    EXCLUDED: "the judge found a problem",
    JUDGE_UNREADABLE: "the judge gave no verdict that can be read",
}
KINDS = (
    *("contradicts", "wrong_reason", "invented", "limit_dropped", "wrong_manner", "unhelpful"),
    *("speaks_of_task", "wrong_identity", "not_whole"),
)
PREFERENCE_KINDS = (
    *("not_stated", "contradicts", "reason_given", "reason_hinted", "speaks_of_reason"),
    *("wrong_identity", "not_whole"),
)
INCLUDE, EXCLUDE = "include", "exclude"


def schema(style: str) -> dict[str, Any]:
    """The JSON schema of a verdict; the problems come before what they lead to."""
    kinds = PREFERENCE_KINDS if style == PREFERENCES else KINDS
    problem = {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": list(kinds)},
            "why": {"type": "string"},
        },
        "required": ["kind", "why"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {
            "problems": {"type": "array", "items": problem},
            "reason": {"type": "string"},
            "verdict": {"type": "string", "enum": [INCLUDE, EXCLUDE]},
        },
        "required": ["problems", "reason", "verdict"],
        "additionalProperties": False,
    }


def schema_text(style: str) -> str:
    """For `Sampling.schema`."""
    return json.dumps(schema(style), separators=(",", ":"))


@dataclass(frozen=True)
class Verdict:
    """What a judge found; ``problems``: (kind, why)."""

    include: bool
    problems: tuple[tuple[str, str], ...]
    reason: str


def judge_system(style: str, spec: Spec, identity: Identity) -> str:
    """The judge's system text, the same for all conversations of a style."""
    names = {"assistant": identity.name, "maker": identity.maker}
    if style == PREFERENCES:
        return load("judge_preference_system").fill(**names)
    manner = load(f"manner_{style}").fill()
    return load("judge_system").fill(spec=spec.text.strip("\n"), manner=manner, **names)


def judge_prompt(
    style: str, question: Mapping[str, Any], reasoning: str, answer: str, identity: Identity
) -> str:
    """The judge's request about one conversation; ``question`` is a row of QUESTION_SCHEMA.

    Nothing in a conversation can end the place where it stands: the mark there is a hash of it.
    """
    names = ("liked", "disliked", "why") if style == PREFERENCES else ()
    values = {name: question[name] for name in names}
    if style != PREFERENCES:
        values["reasoning"] = reasoning
    return load("judge_preference" if style == PREFERENCES else "judge_conversation").fill(
        assistant=identity.name,
        mark=mark(question["question"], reasoning, answer),
        question=question["question"],
        answer=answer,
        **values,
    )


def read_verdict(answer: Mapping[str, Any], style: str) -> tuple[Verdict | None, str | None]:
    """(the verdict, None) for a conversation to be kept, else (verdict or None, the reason).

    ``answer`` is the judge's row of ANSWER_SCHEMA. Unreadable is what failed, was cut off, is not
    the JSON object that was asked for, or includes with problems or excludes without one.
    """
    if answer["error"] or not answer["ended"]:
        return None, JUDGE_UNREADABLE
    _, text, reason = split_reasoning(answer["text"])
    if reason:
        return None, JUDGE_UNREADABLE
    value, reason = read_json(text, schema(style))
    if reason:
        return None, JUDGE_UNREADABLE
    problems = tuple((problem["kind"], problem["why"]) for problem in value["problems"])
    verdict = Verdict(value["verdict"] == INCLUDE, problems, value["reason"])
    if verdict.include == bool(problems):
        return None, JUDGE_UNREADABLE
    return verdict, None if verdict.include else EXCLUDED
