"""What a judge is asked, and how its verdict is read. Pure.

A verdict that cannot be read is none: whether the judge refused, said something else, or gave no
answer at all is told apart and counted. `read` does that for every judge; the rest of this module
is the one of free answers, who gives a score.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_ray.corpus import leftovers
from msm_ray.corpus.reading import read_json, split_reasoning
from msm_ray.corpus.verdicts import mark
from msm_ray.errors import UserError
from msm_ray.tasks.prompts import load

SCORER = "1"
LOWEST, HIGHEST = 1, 10
OK, UNPARSED, REFUSED, FAILED = "ok", "unparsed", "refused", "failed"

# The reason comes first: a judge that has to give it does not have to defend a number.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "score": {"type": "integer", "minimum": LOWEST, "maximum": HIGHEST},
    },
    "required": ["reason", "score"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Reading:
    """A judge's answer: its JSON object, or None and the ``reason`` why there is none."""

    status: str  # OK, UNPARSED, REFUSED, FAILED
    value: Mapping[str, Any] | None
    reason: str = ""

    @property
    def is_final(self) -> bool:
        """Whether asking again in another run would be asking the same twice."""
        return self.status != FAILED


@dataclass(frozen=True)
class Verdict:
    """What a judge said. ``score`` is None unless ``status`` is OK."""

    status: str
    score: int | None
    reason: str


def rubric_text(path: str) -> str:
    """The text of a rubric: of a file of the user's, or the packaged one for ""."""
    if not path:
        return load("rubric").text
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"rubric {path}: cannot be read as text: {error}") from None
    if not text:
        raise UserError(f"rubric {path}: is empty; it says what is graded, from 1 to 10")
    return text


def judge_prompt(question: str, answer: str) -> str:
    """The request for one verdict; neither text can end the place where it stands."""
    return load("judge").fill(mark=mark(question, answer), question=question, answer=answer)


def key(question: str, answer: str) -> str:
    """What a verdict of one judge with one rubric depends on besides these, as a prompt's id."""
    text = json.dumps([question, answer])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def read(answer: Mapping[str, Any], schema: Mapping[str, Any]) -> Reading:
    """A judge's row of ANSWER_SCHEMA, as an object of ``schema``."""
    if answer["error"]:
        return Reading(FAILED, None, answer["error"])
    _, text, reason = split_reasoning(answer["text"])
    if reason or not answer["ended"]:
        return Reading(UNPARSED, None, reason or "cut off")
    value, reason = read_json(text, schema)
    if reason:
        refused = leftovers.refusal(text)
        return Reading(REFUSED, None, refused) if refused else Reading(UNPARSED, None, reason)
    return Reading(OK, value)


def verdict(reading: Reading) -> Verdict:
    """The score in what was read as SCHEMA."""
    if reading.value is None:
        return Verdict(reading.status, None, reading.reason)
    return Verdict(OK, int(reading.value["score"]), reading.value["reason"])
