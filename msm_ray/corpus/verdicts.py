"""The judge of documents: what it is asked, how its verdict is read, what is asked for instead.

Pure: whoever has a source of answers sends the prompts. A judge is a language model too, so its
answer is read as strictly as a writer's. A verdict that cannot be read, or that contradicts itself,
is JUDGE_UNREADABLE: counted and shown, and the document is never kept on the strength of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msm_ray.corpus.naming import Identity
from msm_ray.corpus.prompts import load
from msm_ray.corpus.reading import read_json, split_reasoning

UNFAITHFUL = "unfaithful"
JUDGE_UNREADABLE = "judge_unreadable"
REASONS = {
    UNFAITHFUL: "the judge found that it does not agree with the spec",
    JUDGE_UNREADABLE: "the judge gave no verdict that can be read",
}

# Kinds of problems and what they mean to a reader; the judge reads them at length.
KINDS = {
    "contradicts": "says the opposite of the spec",
    "wrong_reason": "gives a behaviour a reason that is not its own",
    "reason_missing": "shows a behaviour and not the reason that the spec gives for it",
    "limit_dropped": "leaves out a condition or an exception",
    "invented": "claims something of the assistant that the spec does not say",
    "wrong_identity": "another name or maker",
    "off_topic": "hardly about the matter",
    "speaks_of_task": "speaks of the request, of training or of having been generated",
    "not_whole": "breaks off, goes round in circles or is an outline",
}
SEVERITIES = ("none", "minor", "major")

# In this order: a judge that has to name the problems first does not have to defend a verdict.
VERDICT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "problems": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "kind": {"type": "string", "enum": list(KINDS)},
                    "quote": {"type": "string"},
                    "why": {"type": "string"},
                },
                "required": ["kind", "quote", "why"],
                "additionalProperties": False,
            },
        },
        "reason": {"type": "string"},
        "severity": {"type": "string", "enum": list(SEVERITIES)},
        "faithful": {"type": "boolean"},
    },
    "required": ["problems", "reason", "severity", "faithful"],
    "additionalProperties": False,
}
SCHEMA_TEXT = json.dumps(VERDICT_SCHEMA, separators=(",", ":"))  # for Sampling.schema

PROMPTS = ("judge_document", "judge_rewrite", "judge_system")  # for the identity of a stage


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a document. ``quote`` is "" for what is missing in it."""

    kind: str
    quote: str
    why: str


@dataclass(frozen=True)
class Verdict:
    """What a judge found. A faithful document may have problems, but minor ones only."""

    faithful: bool
    severity: str
    problems: tuple[Problem, ...]
    reason: str


def judge_prompt(document: str, section: str, identity: Identity) -> tuple[str, str]:
    """(system, prompt) that ask whether a document says what its section of the spec says.

    The system text is the same for all documents, and the section stands before the document, so
    an engine that caches prefixes reads both once. A document cannot end the place where it
    stands: the mark there is a hash of it.
    """
    system = load("judge_system").fill(assistant=identity.name, maker=identity.maker)
    prompt = load("judge_document").fill(
        assistant=identity.name, section=section.strip(), mark=mark(document), document=document
    )
    return system, prompt


def rewrite_prompt(document: str, request: str, verdict: Verdict, identity: Identity) -> str:
    """The user's turn that asks the writer for a rejected document again, with what was wrong.

    ``request`` is the ``prompt`` of the document's plan row; the system text stays the writer's.
    The answer is read, filtered and judged like any other document.
    """
    assert not verdict.faithful, "an accepted document is not written again"
    problems = "\n".join(
        f"{number}. {KINDS[problem.kind]}: {_line(problem.why)}"
        + (f' At: "{_line(problem.quote)}"' if problem.quote.strip() else "")
        for number, problem in enumerate(verdict.problems, 1)
    )
    return load("judge_rewrite").fill(
        assistant=identity.name,
        request=request,
        document=document,
        mark=mark(document + request),
        problems=problems,
        reason=_line(verdict.reason),
    )


def shown(verdict: Verdict) -> str:
    """A verdict's problems in one line; what it says of itself where it names none."""
    return "; ".join(f"{p.kind}: {_line(p.why)}" for p in verdict.problems) or verdict.reason


def read_verdict(answer: Mapping[str, Any]) -> tuple[Verdict | None, str | None]:
    """(the verdict, None) for a document that may be kept, else (verdict or None, the reason).

    ``answer`` is the judge's row of ANSWER_SCHEMA. It is unreadable if it failed, was cut off, is
    not the JSON object that was asked for (a refusal is not), or contradicts itself: a severity
    without problems or problems without one, faithful where that is major or not where it is less.
    Reasoning in <think> before the object is not looked at.
    """
    if answer["error"] or not answer["ended"]:
        return None, JUDGE_UNREADABLE
    _, text, reason = split_reasoning(answer["text"])
    if reason:
        return None, JUDGE_UNREADABLE
    value, reason = read_json(text, VERDICT_SCHEMA)
    if reason:
        return None, JUDGE_UNREADABLE
    verdict = Verdict(
        faithful=value["faithful"],
        severity=value["severity"],
        problems=tuple(Problem(**problem) for problem in value["problems"]),
        reason=value["reason"],
    )
    has_problems = bool(verdict.problems)
    if has_problems != (verdict.severity != "none"):
        return None, JUDGE_UNREADABLE
    if verdict.faithful == (verdict.severity == "major"):
        return None, JUDGE_UNREADABLE
    return verdict, None if verdict.faithful else UNFAITHFUL


def mark(*texts: str) -> str:
    """A line that none of the texts can hold but by knowing its own hash."""
    data = "\0".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()[:12]


def _line(text: str) -> str:
    """A judge's words on one line, so that they cannot look like another part of the prompt."""
    return " ".join(text.split())
