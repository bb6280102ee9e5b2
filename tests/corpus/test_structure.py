"""Structure mode: a whole plan of any spec, without a model."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_ray.corpus.filters import normalise
from msm_ray.corpus.hierarchy import Hierarchy, plan_hierarchy
from msm_ray.corpus.structure import TYPES, VARIATIONS, TemplateIdeas, statements
from msm_ray.errors import UserError
from msm_ray.spec import read_spec

from .planner import AWKWARD, config

SPECS = sorted((Path(__file__).parents[2] / "specs").glob("*.md"))
NOWHERE = Path("never-made")


def plan(text: str | Path, **changes: int) -> Hierarchy:
    values = {"sampling": None, "domains": 0, "subdomains": 0, "assertions": 0, **changes}
    return plan_hierarchy(read_spec(text), config("structure", **values), None, NOWHERE)


def check(hierarchy: Hierarchy, types: int = 3, ideas: int = 5) -> None:
    assert hierarchy.unused == ()
    assert hierarchy.documents == len(hierarchy.topics) * types * ideas > 0
    for topic in hierarchy.topics:
        assert topic.section_text in hierarchy.spec.text
        assert topic.assertions
        assert all(0 < len(text) <= 600 and "\n" not in text for text in topic.assertions)
        for of_type in topic.ideas:
            assert len({normalise(idea.text) for idea in of_type}) == ideas
            assert all(idea.assertion in topic.assertions for idea in of_type)
    assert hierarchy.calls == 0
    assert not NOWHERE.exists()


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_all_specs(path: Path) -> None:
    check(plan(path))
    check(plan(path, types=24, ideas=30), 24, 30)


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_specs(name: str) -> None:
    hierarchy = plan(AWKWARD[name])
    check(hierarchy)
    headings = [(topic.domain, topic.name) for topic in hierarchy.topics]
    if name == "no headings":
        assert headings == [("spec", "spec")]
    if name == "heading repeated":
        assert headings == [("Truth", "Truth")] * 3
        assert len({topic.section_id for topic in hierarchy.topics}) == 3
    if name == "empty section":
        assert headings == [("Something", "Something")]
    if name == "right to left":
        assert len(hierarchy.topics[0].assertions) == 2
    if name == "chinese":
        assert len(hierarchy.topics[0].assertions) == 2


def test_domains_are_the_first_headings_that_divide() -> None:
    text = (
        "before\n# T\nintro here\n## A\ntext of a\n### A1\ntext of a1\n## B\n### B1\ntext of b1\n"
    )
    assert [(t.domain, t.name) for t in plan(text).topics] == [
        ("T", "T"),
        ("T", "T"),
        ("A", "A"),
        ("A", "A1"),
        ("B", "B1"),
    ]
    several = plan("# A\none thing\n## A1\nanother thing\n# B\na third thing\n")
    assert [(t.domain, t.name) for t in several.topics] == [("A", "A"), ("A", "A1"), ("B", "B")]


def test_statements_are_sentences_and_list_items_on_their_own() -> None:
    text = (
        "Ada is kind. It is\nalso true! Is it? Yes.\n\n"
        "- prefers tea to milk, because\n  tea is warm\n- Ada waits.\n\n"
        "| a | table |\n\n```\nsome code here\n```\nAda is kind.\n"
    )
    (section,) = read_spec(text).sections
    assert statements(section, "Ada") == [
        "Ada is kind.",
        "It is also true!",
        "Ada prefers tea to milk, because tea is warm",
        "Ada waits.",
    ]


def test_too_few_sentences_are_told_and_too_much_is_refused() -> None:
    hierarchy = plan("# T\n\nBe kind to all. Be true to all.\n", assertions=3)
    (shortfall,) = hierarchy.shortfalls
    assert (shortfall.level, shortfall.wanted, shortfall.got) == ("assertions", 3, 2)
    (topic,) = plan("Be kind to all. Be true to all. Be there for all.", assertions=2).topics
    assert topic.assertions == ("Be kind to all.", "Be true to all.")
    with pytest.raises(UserError, match="plan.types is 25; structure mode has 24 built-in types"):
        plan("Be kind to all.", types=25)
    with pytest.raises(UserError, match="plan.ideas is 10241; structure mode can make 10,240"):
        plan("Be kind to all.", ideas=10_241)


def test_types_are_different() -> None:
    assert len({normalise(kind.name) for kind in TYPES}) == len(TYPES) >= 24


@settings(deadline=None, max_examples=20)
@given(st.text(max_size=5), st.integers(1, 3), st.integers(1, 200))
def test_ideas_differ_and_do_not_depend_on_how_many_there_are(
    key: str, assertions: int, count: int
) -> None:
    stated = [f"Assertion {i}." for i in range(assertions)]
    ideas = TemplateIdeas(key, stated, count)
    assert len(set(ideas)) == len(ideas) == count
    assert list(islice(TemplateIdeas(key, stated, count + 7), count)) == list(ideas)
    assert ideas[-1] == ideas[count - 1]
    assert ideas[1:3] == list(ideas)[1:3]
    used = [sum(idea.assertion == one for idea in ideas) for one in stated]
    assert max(used) - min(used) <= 1
    with pytest.raises(IndexError):
        ideas[count]


def test_all_variations_are_used_before_one_comes_again() -> None:
    assert len(set(TemplateIdeas("k", ["One."], VARIATIONS))) == VARIATIONS
