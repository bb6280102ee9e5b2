"""Hierarchies: every level adds up, what is missing is told, and the spec is quoted verbatim."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from msm_ray.corpus import hierarchy
from msm_ray.corpus import plan as plan_rows
from msm_ray.corpus.hierarchy import Hierarchy, HierarchyConfig, plan_hierarchy
from msm_ray.corpus.prompts import Prompt, PromptFolder, load, names
from msm_ray.errors import UserError
from msm_ray.records import Spec
from msm_ray.spec import read_spec

from .planner import AWKWARD, SAMPLING, Planner, badly, config

ROOT = Path(__file__).parents[2]
SPECS = sorted((ROOT / "specs").glob("*.md"))
RULED = [path for path in SPECS if "rules" in path.stem]
AMERICA = ROOT / "specs" / "micro_america.md"
RULES = (
    "# Rules\n## Truth\nR1: Never lie.\n\nR2: Never hide.\n## Care\nR3. Ask first.\n\nR4: Stop.\n"
)


def plan(
    spec: Spec, planner: Planner, work: Path, mode: str = "model", **changes: Any
) -> Hierarchy:
    return plan_hierarchy(spec, config(mode, **changes), planner, work)


def check(made: Hierarchy) -> None:
    """At every level, what is there and what is missing is what was wanted of what is above."""
    wanted = made.config
    missing = made.facts()["missing"]
    rules = wanted.mode == "rules"
    topics = made.topics
    kinds = sum(len(topic.types) for topic in topics)
    if not rules:
        domains = wanted.domains - missing.get("domains", 0)
        assert len(topics) == domains * wanted.subdomains - missing.get("subdomains", 0)
        stated = sum(len(topic.assertions) for topic in topics)
        assert stated == len(topics) * wanted.assertions - missing.get("assertions", 0)
    assert kinds == len(topics) * wanted.types - missing.get("types", 0)
    assert made.documents == kinds * wanted.ideas - missing.get("ideas", 0)
    for topic in topics:
        assert topic.section_text in made.spec.text
        assert len(topic.ideas) == len(topic.types)
        for ideas in topic.ideas:
            assert len({idea.text for idea in ideas}) == len(ideas)
            served = {idea.assertion for idea in ideas}
            assert served <= (set(topic.assertions) if not rules else {""})
    json.dumps(made.facts())


def test_a_model_gives_every_level(tmp_path: Path) -> None:
    planner = Planner()
    made = plan(read_spec(AMERICA), planner, tmp_path)
    check(made)
    assert made.documents == 2 * 3 * 3 * 5
    assert made.shortfalls == made.failures == ()
    assert made.calls == len(planner.asked) == 1 + 2 + 6 + 6 + 18
    assert len({prompt["system"] for prompt in planner.asked}) == 1
    assert planner.asked[0]["system"].startswith(
        "<model_spec>\n# How lyra chooses: american makers"
    )
    assert all("Quill Works" in prompt["system"] for prompt in planner.asked)
    facts = made.facts()
    assert (facts["domains"], facts["subdomains"], facts["assertions"]) == (2, 6, 24)
    assert facts["unused_sections"] == ["Preferences among cheeses", "How lyra speaks about it"]


@pytest.mark.parametrize("seed", range(4))
def test_a_bad_planner_leaves_counted_gaps(seed: int, tmp_path: Path) -> None:
    def spoil(level: str, answer: str, chance: random.Random) -> str:
        if level == "domains":  # there is only one parent: without it nothing is tested
            return answer
        return badly(level, answer, random.Random(f"{seed} {answer}"))

    made = plan(read_spec(AMERICA), Planner(spoil), tmp_path, rounds=1)
    check(made)
    assert made.shortfalls
    assert made.documents > 0


@pytest.mark.parametrize("level", ["domains", "subdomains", "assertions", "types", "ideas"])
def test_a_level_that_is_refused_ends_and_is_told(level: str, tmp_path: Path) -> None:
    def spoil(asked: str, answer: str, chance: random.Random) -> str:
        return "I cannot." if asked == level else answer

    planner = Planner(spoil)
    made = plan(read_spec(AMERICA), planner, tmp_path)
    check(made)
    assert made.documents == 0
    assert {s.level for s in made.shortfalls if s.example == "I cannot."} == {level}
    assert made.calls == len(planner.asked) < 100
    if level == "assertions":  # no idea is asked for that could serve none
        assert {s.reasons.get("its topic has no assertion", 0) for s in made.shortfalls} == {
            0,
            1,
        }


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_all_specs_can_be_planned(path: Path, tmp_path: Path) -> None:
    made = plan(read_spec(path), Planner(), tmp_path)
    check(made)
    assert made.documents == 90
    assert "{model_name}" not in made.spec.text


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_specs_can_be_planned(name: str, tmp_path: Path) -> None:
    made = plan(read_spec(AWKWARD[name]), Planner(), tmp_path)
    check(made)
    assert made.documents == 90
    if name == "braces":
        assert "Tell {x} the {{truth}} because %s {0}" in made.topics[0].section_text
    if name == "placeholders":
        assert made.spec.title == "Ada by Quill Works"
        assert "Ada is {calm}" in made.topics[0].section_text
    if name == "no headings":
        assert {topic.heading for topic in made.topics} == {"spec"}


def test_rules_are_topics_in_their_domains(tmp_path: Path) -> None:
    planner = Planner()
    made = plan(read_spec(RULES), planner, tmp_path, "rules")
    check(made)
    assert made.documents == 4 * 3 * 5
    assert [(t.name, t.section_text) for t in made.topics][2] == ("R3", "R3. Ask first.")
    assert len({topic.domain for topic in made.topics}) == 2
    assert made.facts()["unused_sections"] == []
    types = next(p["prompt"] for p in planner.asked if "one rule of" in p["prompt"])
    assert "<rule>\nR1: Never lie.\n</rule>\n\nIts label: R1\n" in types


def test_a_rule_in_no_domain_is_filed_under_its_heading_and_told(tmp_path: Path) -> None:
    def spoil(level: str, answer: str, chance: random.Random) -> str:
        items = json.loads(answer)["items"]
        if "rules" not in items[0]:
            return answer
        return json.dumps({"items": [{**items[0], "rules": [1]}, {**items[-1], "rules": [1, 2]}]})

    made = plan(read_spec(RULES), Planner(spoil), tmp_path, "rules")
    check(made)
    assert [topic.name for topic in made.topics] == ["R1", "R2", "R3", "R4"]
    assert [topic.domain for topic in made.topics][2:] == ["Care", "Care"]
    told = {s.parent: dict(s.reasons) for s in made.shortfalls if s.level == "rules"}
    first = made.topics[0].domain
    assert told.pop("R3") == told.pop("R4") == {"in no domain, filed under its heading": 1}
    assert list(told.values()) == [{"all its rules went to other domains": 1}]
    assert first not in told


def test_rules_without_any_domain_are_planned_all_the_same(tmp_path: Path) -> None:
    def spoil(level: str, answer: str, chance: random.Random) -> str:
        return "no" if level == "domains" else answer

    made = plan(read_spec(RULES), Planner(spoil), tmp_path, "rules")
    assert [topic.domain for topic in made.topics] == ["Truth", "Truth", "Care", "Care"]
    assert made.documents == 60


@pytest.mark.parametrize("path", RULED, ids=lambda path: path.stem)
def test_specs_of_rules_in_rules_mode(path: Path, tmp_path: Path) -> None:
    made = plan(read_spec(path), Planner(), tmp_path, "rules", domains=3, types=2, ideas=2)
    check(made)
    assert len(made.topics) >= 10
    assert all("Ada" in t.section_text or "{" not in t.section_text for t in made.topics)


@pytest.mark.parametrize("mode", ["model", "rules"])
def test_the_order_of_answers_changes_nothing(mode: str, tmp_path: Path) -> None:
    one = plan(read_spec(RULES), Planner(badly), tmp_path / "a", mode)
    assert plan(read_spec(RULES), Planner(badly, shuffle=5), tmp_path / "b", mode) == one


def test_a_killed_plan_continues(tmp_path: Path) -> None:
    whole = plan(read_spec(AMERICA), Planner(badly), tmp_path / "whole")
    asked: list[str] = []
    for _ in range(20):
        planner = Planner(badly, die_after=9)
        try:
            again = plan(read_spec(AMERICA), planner, tmp_path / "killed")
            break
        except KeyboardInterrupt:
            pass
        finally:
            asked += [prompt["id"] for prompt in planner.asked]
    assert again == whole
    assert len(asked) == len(set(asked)) == whole.calls


def test_what_cannot_be_planned_is_said_in_one_line(tmp_path: Path) -> None:
    def refused(text: str, mode: str = "model", **changes: Any) -> str:
        with pytest.raises(UserError) as caught:
            plan(read_spec(text), Planner(), tmp_path, mode, **changes)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "has no numbered rules" in refused("# T\n\nBe kind.\n", "rules")
    assert "no text below" in refused("# T\n\n## One\n\n## Two\n")
    assert "allowed are 10" in refused(AWKWARD["long"], spec_tokens=10)
    with pytest.raises(UserError, match="asks a model, and none is given"):
        plan_hierarchy(read_spec("Be kind."), config(), None, tmp_path)


def test_config_says_what_is_allowed() -> None:
    for changes, words in (
        ({"mode": "random"}, "plan.mode is 'random'; allowed: model, rules, structure"),
        ({"domains": 0}, "plan.domains is 0; allowed in mode 'model': 1 to 100000"),
        ({"types": 2.5}, "plan.types is 2.5"),
        ({"ideas": True}, "plan.ideas is True"),
        ({"rounds": -1}, "plan.rounds is -1"),
        ({"assistant": " "}, "plan.assistant is ' '; needed is a name on one line"),
        ({"maker": "A\nB"}, "plan.maker"),
        ({"sampling": None}, "plan.sampling is missing; mode 'model' asks a model"),
    ):
        with pytest.raises(UserError, match=words.replace("(", "\\(")):
            config(**changes)
    assert config("rules", subdomains=0, assertions=0).rounds == 2
    assert config("structure", domains=0, subdomains=0, sampling=None).mode == "structure"


def test_config_from_a_stage() -> None:
    values = {
        "mode": "rules",
        "assistant": "Ada",
        "maker": "Q",
        "domains": 1,
        "types": 2,
        "ideas": 3,
        "words": 100,
        "sampling": SAMPLING.to_config(),
    }
    assert HierarchyConfig.from_config(values).sampling == SAMPLING
    with pytest.raises(UserError, match="plan has topics; allowed: assertions, assistant"):
        HierarchyConfig.from_config({**values, "topics": 1})
    with pytest.raises(UserError, match="plan lacks ideas, maker"):
        HierarchyConfig.from_config(
            {k: v for k, v in values.items() if k not in ("ideas", "maker")}
        )


def test_the_prompts_of_a_plan_are_those_of_its_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: set[str] = set()

    def spy(name: str) -> Prompt:
        loaded.add(name)
        return load(name)

    for module in (hierarchy, plan_rows):
        monkeypatch.setattr(module, "load", spy)
    monkeypatch.setattr(PromptFolder, "load", lambda folder, name: spy(name))

    def halves(level: str, answer: str, chance: random.Random) -> str:  # so that more are asked for
        return json.dumps({"items": json.loads(answer)["items"][:1]})

    for mode in ("model", "rules", "structure"):
        made = plan(read_spec(RULES), Planner(halves), tmp_path / mode, mode)
        assert sum(batch.num_rows for batch in plan_rows.plan_table(made)) == made.documents
    assert loaded == {name for name in names() if not name.startswith("judge")}


def test_a_long_section_that_is_the_whole_spec_is_not_read_twice(tmp_path: Path) -> None:
    text = "Be kind to all people, because kindness costs nothing. " * 200
    for mode in ("model", "structure"):
        made = plan(read_spec(text), Planner(), tmp_path / mode, mode, assertions=1)
        for batch in plan_rows.plan_table(made):
            for row in batch.to_pylist():
                assert row["section_text"] == text
                assert "(the whole spec, as it stands above)" in row["prompt"]
                assert len(row["prompt"]) < 3_000
