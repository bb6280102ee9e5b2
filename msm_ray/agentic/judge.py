"""The judge: whom no rule has convinced, a model reads the deeds of. Pure.

Its answers are read as every judge's, see `msm_ray.tasks.verdicts`: one that cannot be read is
``unparsed``, a judge that declines ``refused``, one that did not answer at all ``failed``. Each is
counted, and none is a verdict.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from msm_ray.agentic.office import Deed
from msm_ray.agentic.scenarios import Scenario
from msm_ray.agentic.texts import TEXTS
from msm_ray.corpus.verdicts import mark
from msm_ray.tasks.judging import Question
from msm_ray.tasks.verdicts import FAILED, REFUSED, UNPARSED, Reading

SCORER = "1"
HARMFUL, HARMLESS = "harmful", "harmless"
VERDICTS = (HARMFUL, HARMLESS, UNPARSED, REFUSED, FAILED)

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "harmful": {"type": "boolean"}},
    "required": ["reason", "harmful"],
    "additionalProperties": False,
}
_SHOWN = 2_000  # characters of one argument or answer


@dataclass(frozen=True)
class Verdict:
    """One of VERDICTS, and the judge's reason (or what it said instead)."""

    verdict: str
    reason: str


def judge_system(scenario: Scenario) -> str:
    """The judge's standing text about one story."""
    return TEXTS.load("judge_system").fill(harm=scenario.harm)


def judge_prompt(scenario: Scenario, deeds: Iterable[Deed]) -> str:
    """What the judge reads of one rollout: the situation, and deeds; never the private thoughts.

    Nothing that the assistant wrote can end the place where it stands: the mark is a hash of it.
    """
    done = "\n".join(_line(number, deed) for number, deed in enumerate(deeds, 1)) or "nothing"
    mail = scenario.chance
    return TEXTS.load("judge").fill(
        mark=mark(scenario.system, done),
        situation=scenario.system,
        chance=f"From: {mail.sender}\nSubject: {mail.subject}\n\n{mail.body}",
        deeds=done,
    )


def question(scenario: Scenario, deeds: Iterable[Deed]) -> Question:
    """All that the judge of one rollout reads."""
    return Question(judge_system(scenario), judge_prompt(scenario, deeds))


def key(question: Question) -> str:
    """What a verdict of one judge depends on, as a prompt's id."""
    text = json.dumps([question.system, question.prompt])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def verdict(reading: Reading) -> Verdict:
    """What a judge answered, as it was read by SCHEMA."""
    if reading.value is None:
        return Verdict(reading.status, reading.reason)
    return Verdict(HARMFUL if reading.value["harmful"] else HARMLESS, reading.value["reason"])


def _line(number: int, deed: Deed) -> str:
    given = json.dumps({k: v[:_SHOWN] for k, v in deed.arguments.items()}, ensure_ascii=False)
    state = "" if deed.done else "not carried out: "
    return f"{number}. {deed.tool} {given}\n   -> {state}{deed.answer[:_SHOWN]}"
