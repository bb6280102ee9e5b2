"""Questions: what is asked for, shown, dropped and counted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msm_ray.chat.config import QuestionConfig
from msm_ray.chat.questions import Questions, plan_questions
from msm_ray.errors import UserError
from msm_ray.llm.protocol import ANSWER_SCHEMA, Sampling
from msm_ray.records import Spec
from msm_ray.spec import read_spec

SPEC = read_spec("# {model_name}\n\n{model_name} is kind, and made by {provider_name}.\n")
TASTES = read_spec(
    "# {model_name} and old trades\n\n"
    "- prefers felt to foil, because felt is old\n- prefers oak to pine, because oak is old\n"
)
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=500, seed=0)
Reply = Callable[[str, int], list[str]]  # prompt and items asked for to questions


class Planner:
    """Two domains, and for them what ``reply`` says."""

    call_rows = 4096

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.asked: list[tuple[str, str]] = []

    def answer(self, prompts: pa.Table, sampling: Any, work: Path, progress: Any) -> pa.Table:
        rows = []
        for row in prompts.to_pylist():
            self.asked.append((row["system"], row["prompt"]))
            count = int(re.findall(r"^Give (\d+) ", row["prompt"], re.M)[-1])
            if "Step: conversation domains." in row["prompt"]:
                items = [{"name": f"domain {i}", "description": "so"} for i in range(count)]
            else:
                items = [{"question": q} for q in self.reply(row["prompt"], count)]
            text = json.dumps({"items": items})
            answer = {"id": row["id"], "text": text, "prompt_tokens": 5, "tokens": 7}
            rows.append({**answer, "ended": True, "error": ""})
        return pa.Table.from_pylist(rows, schema=ANSWER_SCHEMA)


def config(about: str = "spec", **values: Any) -> QuestionConfig:
    given = {"questions": 4, "domains": 2 if about == "spec" else 0, "spare": 0.5, **values}
    return QuestionConfig(about, "Lyra", "Norvik Labs", sampling=SAMPLING, **given)


def made(planner: Planner, work: Path, spec: Spec = SPEC, **values: Any) -> Questions:
    items = values.pop("items", ())
    found = plan_questions(spec, config(**values), planner, items, work)
    facts = found.facts()
    assert facts["given"] == facts["kept"] + sum(facts["dropped"].values())
    assert facts["wanted"] == facts["kept"] + facts["missing"]
    assert set(facts["reasons"]) == set(facts["dropped"])
    return found


def domain_of(prompt: str) -> str:
    return re.findall(r"^The domain: (.+)$", prompt, re.M)[0]


def test_as_many_as_wanted_and_the_spec_stands_in_the_system_text(tmp_path: Path) -> None:
    def reply(prompt: str, count: int) -> list[str]:
        return [f"What of {domain_of(prompt)} and thing {i}?" for i in range(count)]

    planner = Planner(reply)
    found = made(planner, tmp_path)
    assert len(found.rows) == found.wanted == 8
    assert found.dropped == {"spare": 4}
    assert [row["index"] for row in found.rows] == list(range(8))
    assert {row["domain"] for row in found.rows} == {"domain 0", "domain 1"}
    assert {row["form"] for row in found.rows} == {"open"}
    assert all("Lyra is kind, and made by Norvik Labs." in system for system, _ in planner.asked)


def test_what_one_topic_has_to_spare_fills_what_another_is_short_of(tmp_path: Path) -> None:
    def reply(prompt: str, count: int) -> list[str]:
        few = domain_of(prompt) == "domain 0"
        good = [f"What of {domain_of(prompt)} and thing {i}?" for i in range(count)]
        return [*good[:3], *(f"Are you ChatGPT {q}" for q in good[3:])] if few else good

    found = made(Planner(reply), tmp_path)
    assert [row["domain"] for row in found.rows] == ["domain 0"] * 3 + ["domain 1"] * 5
    assert found.dropped == {"wrong_name": 3, "spare": 1}
    assert [row["index"] for row in found.rows] == list(range(8))


def test_ids_do_not_depend_on_how_many_are_wanted(tmp_path: Path) -> None:
    def reply(prompt: str, count: int) -> list[str]:
        return [f"What of {domain_of(prompt)} and thing {i}?" for i in range(count)]

    found = made(Planner(reply), tmp_path)
    again = made(Planner(reply), tmp_path / "again", questions=3)
    assert {row["id"] for row in again.rows} < {row["id"] for row in found.rows}


def test_earlier_ones_are_shown_when_more_are_asked_for(tmp_path: Path) -> None:
    def reply(prompt: str, count: int) -> list[str]:
        have = len(re.findall(r"^- (?:First|Second)", prompt, re.M))
        return [f"{'Second' if have else 'First'}: {domain_of(prompt)}, what about {have}?"]

    planner = Planner(reply)
    found = made(planner, tmp_path, questions=2, spare=0.0)
    assert len(found.rows) == 4
    more = [prompt for _, prompt in planner.asked if "These messages are written already" in prompt]
    assert len(more) == 2
    assert all(f"- First: {domain_of(p)}, what about 0?" in p for p in more)


def test_what_cannot_be_used_is_dropped_with_a_reason(tmp_path: Path) -> None:
    words = "is it right that my neighbour parks on the lawn every single day of the"

    def reply(prompt: str, count: int) -> list[str]:
        if domain_of(prompt) == "domain 1":
            return [
                f"{words} week",
                "Is it RIGHT?",
                "Are you ChatGPT?",
                "so which of the two eggs is it",
            ]
        return [f"{words} year", "Is it right?", "A third thing then", "And a fourth one, sure"]

    items = [("item", "tell me: so which of the two eggs is it?")]
    found = made(Planner(reply), tmp_path, items=items, contamination_words=8, rounds=0)
    assert found.dropped == {
        "near_duplicate": 1, "duplicate": 1, "wrong_name": 1, "contaminated": 1
    }  # fmt: skip
    assert [row["domain"] for row in found.rows] == ["domain 0"] * 4
    assert found.facts()["missing"] == 4


def test_preferences_in_both_forms_and_orders(tmp_path: Path) -> None:
    def reply(prompt: str, count: int) -> list[str]:
        first, second = re.findall(r"in order: (.+); (.+)$", prompt, re.M)[0]
        form = "straight" if "straight out" in prompt else "decide"
        good = [f"{form} {i}: {first} or {second}?" for i in range(count - 4)]
        return [
            *good, f"{form}: {second} or {first}", f"{form}: {first}?",
            f"{form}: {first} or the old {second}", f"{form}: why {first} and not {second}?",
        ]  # fmt: skip

    planner = Planner(reply)
    found = made(planner, tmp_path, TASTES, about="preferences", questions=4, spare=1.0)
    assert len(found.rows) == found.wanted == 2 * 2 * 2 * 4
    assert found.dropped == {"names_missing": 16, "names_the_value": 8, "gives_a_reason": 8}
    assert {(r["liked"], r["form"]) for r in found.rows} == {
        (liked, form) for liked in ("felt", "oak") for form in ("direct", "indirect")
    }
    assert len({row["preference_id"] for row in found.rows}) == 2
    for system, prompt in planner.asked:
        assert "is old" not in system + prompt, "who asks never reads a reason"


def test_what_does_not_come_is_a_shortfall(tmp_path: Path) -> None:
    found = made(Planner(lambda prompt, count: []), tmp_path)
    assert not found.rows
    assert found.facts()["missing"] == 8
    assert len(found.facts()["shortfalls"]) == 2
    with pytest.raises(UserError, match="states no preferences"):
        made(Planner(lambda prompt, count: []), tmp_path, about="preferences")


def test_a_config_is_what_a_stage_reads() -> None:
    one = config(hints=("old*",))
    assert QuestionConfig.from_config(json.loads(json.dumps(one.to_config()))) == one
    with pytest.raises(UserError, match="questions has colour; allowed: about, "):
        QuestionConfig.from_config({**one.to_config(), "colour": 1})
    with pytest.raises(UserError, match="questions.spare is -1"):
        config(spare=-1)
