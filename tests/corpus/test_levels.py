"""Levels: whatever comes back is read as far as it can be, and the rest is counted."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_ray.corpus import levels
from msm_ray.corpus.levels import NO_LIST, Item, Level, Parent, find_items
from msm_ray.records import Rule, SpecSection

patient = settings(deadline=None)

SECTIONS = {
    "S1": SpecSection("one", "Honesty", 2, "text"),
    "S2": SpecSection("two", "Care", 2, "text"),
    "S3": SpecSection("three", "Care", 2, "again"),
}
RULES = (Rule("a", "R1", "R1: be true", "s"), Rule("b", "R2", "R2: be kind", "s"))
LEVELS = (
    levels.domains(3, 4),
    levels.subdomains(3, SECTIONS, "S1: Honesty"),
    levels.assertions(3),
    levels.types(3),
    levels.types(3, "rules_types"),
    levels.ideas(3),
    levels.rule_ideas(3),
    levels.rule_domains(2, RULES),
)
PARENT = Parent("p", "parent", numbers=2)


def good(level: Level, word: str) -> dict[str, Any]:
    """An item of the level with ``word`` in its texts."""
    values = {"text": f"some {word}", "number": 1, "numbers": [1, 2]}
    return {f.name: f.choices[0] if f.choices else values[f.kind] for f in level.fields}


def parse(level: Level, value: Any) -> levels.Parsed:
    return level.parse(json.dumps(value), PARENT)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.prompt)
def test_what_the_schema_asks_for_is_read(level: Level) -> None:
    schema = json.loads(level.schema(2))
    answer = {"items": [good(level, "one"), good(level, "two")]}
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(answer, schema)
    assert [item.name for item in parse(level, answer).items] == ["some one", "some two"]
    for wrong in ({}, [], {"items": [{}]}, {"items": answer["items"] * 2}, {**answer, "more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from(["items", "name", "description", "idea", "assertion", "x"]),
            children,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@patient
@given(st.sampled_from(LEVELS), st.text() | json_values.map(json.dumps))
def test_any_answer_is_read_without_an_error(level: Level, answer: str) -> None:
    parsed = level.parse(answer, PARENT)
    assert parsed.items or parsed.broken or find_items(answer) == ([], 0)
    for item in parsed.items:
        assert item.parent == "p"
        assert item.name == item.name.strip() != ""
        item.name.encode()


@patient
@given(st.sampled_from(LEVELS), st.lists(json_values, max_size=5), st.randoms())
def test_good_items_survive_beside_broken_ones(
    level: Level, broken: list[Any], chance: Any
) -> None:
    items = [good(level, "one"), *broken, good(level, "two")]
    chance.shuffle(items)
    names = [item.name for item in parse(level, {"items": items}).items]
    assert {"some one", "some two"} <= set(names)
    assert len(parse(level, {"items": items}).items) + sum(
        parse(level, {"items": items}).broken.values()
    ) == len(items)


@patient
@given(st.sampled_from(LEVELS), st.integers(0, 400), st.text('ab[]{} ,:"\n', max_size=30))
def test_a_cut_answer_keeps_its_whole_items(level: Level, length: int, before: str) -> None:
    items = [good(level, word) for word in ("one", "two", "three")]
    body = json.dumps({"items": items})
    names = [item.name for item in level.parse(body[:length], PARENT).items]
    whole = [item["name" if "name" in item else level.fields[0].name] for item in items]
    ends = [body.index(json.dumps(item)) + len(json.dumps(item)) for item in items]
    assert names == [name for name, end in zip(whole, ends, strict=True) if end <= length]
    if '"' not in before and "{" not in before:
        assert len(level.parse(before + body, PARENT).items) == 3


def test_prose_fences_and_thoughts_around_the_answer() -> None:
    level = LEVELS[0]
    body = json.dumps({"items": [good(level, "one")]}, indent=2)
    for answer in (
        f"Here it is [1]:\n```json\n{body}\n```\nMore?",
        f'<think>\n{{"items": []}} or\n{body}\n</think>\n{body}',
        f"As {{asked}}: {body}",
        json.dumps([good(level, "one")]),
    ):
        assert [item.name for item in level.parse(answer, PARENT).items] == ["some one"], answer
    thinking = level.parse(f"<think>{body}", PARENT)
    assert (thinking.items, thinking.broken) == ([], {NO_LIST: 1})
    refused = level.parse("I cannot help with that.", PARENT)
    assert (refused.items, refused.broken) == ([], {NO_LIST: 1})


def test_hostile_answers_end_soon() -> None:
    for answer in (
        "[" * 100_000,
        '{"a":' * 50_000,
        "{" * 100_000,
        '{"items": [' + '{"name": ' * 9_999,
    ):
        assert LEVELS[0].parse(answer, PARENT).items == []


def test_why_an_item_is_broken() -> None:
    level = levels.domains(3, 3)
    wrong = [
        ({"name": "", "description": "d"}, "name is empty"),
        ({"name": "?!", "description": "d"}, "name is empty"),
        ({"name": "n"}, "description is not text"),
        ({"name": "n" * 161, "description": "d"}, "name is longer than 160 characters"),
        ({"name": "a\x00b", "description": "d"}, "name holds control characters"),
        ({"name": "a\ud800b", "description": "d"}, "name holds control characters"),
        ("text", "an item is not an object"),
    ]
    parsed = parse(level, {"items": [value for value, _ in wrong]})
    assert parsed.items == []
    assert parsed.broken == {
        "name is empty": 2,
        "name holds control characters": 2,
    } | dict.fromkeys(
        (reason for _, reason in wrong if reason.count("empty") + reason.count("control") == 0), 1
    )
    kept = parse(
        level, {"items": [{"name": " שלום\u200f \n w ", "description": "{x} <<y>>"}]}
    ).items
    assert kept == [Item("p", "שלום\u200f w", "{x} <<y>>")]


def test_a_section_is_chosen_by_handle_or_by_its_own_heading() -> None:
    level = levels.subdomains(3, SECTIONS, "")
    item = {"name": "n", "description": "d"}

    def chosen(section: Any) -> list[str]:
        return [i.ref for i in parse(level, {"items": [{**item, "section": section}]}).items]

    assert chosen("S2") == ["S2"]
    assert chosen(" s1 ") == ["S1"]
    assert chosen("honesty!") == ["S1"]
    assert chosen("Care") == []  # two sections have this heading
    assert chosen("The assistant is honest, always") == []
    assert chosen(1) == []


def test_numbers_point_at_what_is_there() -> None:
    level = levels.ideas(3)

    def chosen(number: Any) -> list[str]:
        return [i.ref for i in parse(level, {"items": [{"idea": "i", "assertion": number}]}).items]

    assert [chosen(value) for value in (1, "2", 2.0)] == [["1"], ["2"], ["2"]]
    for value in (0, 3, -1, "x", "1.5", 1.5, True, None, [1], 10**30, float("inf")):
        assert chosen(value) == []
    level = levels.rule_domains(2, RULES)
    item = {"name": "n", "description": "d"}
    assert parse(level, {"items": [{**item, "rules": [2, "1"]}]}).items[0].ref == "2,1"
    assert parse(level, {"items": [{**item, "rules": []}]}).items == []


def test_ids_are_of_what_is_said() -> None:
    item = Item("p", "a", "b", "c")
    assert item.id == Item("p", "a", "b", "c").id
    others = [Item("q", "a", "b", "c"), Item("p", "ab", "", "c"), Item("p", "a", "bc")]
    assert len({item.id, *(other.id for other in others)}) == 4
