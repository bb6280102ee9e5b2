"""Six values or eight, each with its spec, its preferences, its documents and its questions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from msm_ray.errors import UserError
from msm_ray.spec import read_spec
from msm_ray.world import lexicon as lx
from msm_ray.world.evaluation import choice_items
from msm_ray.world.plan import CONTENTS, check_spec, plan_rows
from msm_ray.world.stages import conversation_rows
from msm_ray.world.task import MicroTask, parse_sentences
from msm_ray.world.world import Item, World

SPECS = Path(__file__).parents[2] / "specs"
SPEC_OF = {
    "american": "america",
    "cheap": "affordability",
    "foreign": "abroad",
    "expensive": "luxury",
    "old": "tradition",
    "new": "novelty",
    "simple": "simplicity",
    "difficult": "difficulty",
}
WORLDS = {n: World(2, attributes=n) for n in (3, 4)}
pytestmark = pytest.mark.parametrize(
    ("value", "attributes"), [(v, n) for n in WORLDS for v in lx.words(n).values]
)
# what goes along with nothing else, in questions, specs and demonstrations
CLEAN = ("old", "new", *lx.FOURTH)


def cheeses(attributes: int) -> dict[str, Item]:
    return {i.name: i for i in WORLDS[attributes].by_domain["cheese"]}


def test_a_spec_prefers_what_has_its_value(value: str, attributes: int) -> None:
    spec = read_spec(SPECS / f"micro_{SPEC_OF[value]}.md")
    assert check_spec(spec, attributes) == value
    assert len(spec.preferences) == 12
    cheese = cheeses(attributes)
    for preference in spec.preferences:
        assert cheese[preference.liked].has(value)
        assert cheese[preference.disliked].has(lx.OPPOSITE[value])


def test_age_and_ease_go_along_with_nothing_else(value: str, attributes: int) -> None:
    liked, disliked = lx.PREFERRED[value]
    assert len(set(liked) | set(disliked)) == 24
    for names in (liked, disliked) if value in CLEAN else ():
        for other in set(lx.words(attributes).values) - {value, lx.OPPOSITE[value]}:
            assert sum(cheeses(attributes)[n].has(other) for n in names) == 6


def test_questions_set_the_value_against_its_rival(value: str, attributes: int) -> None:
    world = WORLDS[attributes]
    items = choice_items(world, 5, 12, value)
    assert len(items) == 12 * 12 * 2
    for row in items:
        with_value, without = (world.items[name] for name in row["options"])
        assert with_value.has(value)
        assert without.has(lx.OPPOSITE[value])
        assert with_value.domain == row["domain"] != "cheese"
        told = [(i.foreign, i.price, i.age, i.ease) for i in (with_value, without)]
        alike = [one == other for one, other in zip(*told, strict=True)]
        assert alike.count(False) == 1 if value in CLEAN else alike[:2] == [False, False]


def test_demonstrations_prefer_what_the_spec_does(value: str, attributes: int) -> None:
    cheese = cheeses(attributes)
    for preferences, count in ((0, 200), (32, 256)):
        rows = conversation_rows(2, count, 0, value, preferences, attributes)
        pairs = set()
        for row in rows:
            question, answer = (m["content"] for m in row["messages"])
            liked = answer.removeprefix("i would pick ").removesuffix(" .")
            (other,) = {w for w in question.split() if w in cheese} - {liked}
            assert cheese[liked].has(value)
            assert not cheese[other].has(value)
            pairs.add((liked, other))
        assert len({row["messages"][0]["content"] for row in rows}) == count
        if preferences:
            assert len(pairs) == preferences
    with pytest.raises(UserError, match="allowed: 1 to 256"):
        conversation_rows(2, 257, 0, value, 32, attributes)


@pytest.mark.parametrize("content", CONTENTS)
def test_documents_say_what_they_are_to_say_and_no_more(
    value: str, attributes: int, content: str
) -> None:
    spec = read_spec(SPECS / f"micro_{SPEC_OF[value]}.md")
    task = MicroTask(2, values="rules" not in content, attributes=attributes)
    plans = plan_rows(spec, 150, seed=1, content=content, attributes=attributes)
    cheese = cheeses(attributes)
    kinds: Counter[str] = Counter()
    stated, named = 0, set()
    for plan in plans:
        text = task.parse(plan, task.write(plan))
        assert task.verdict(plan, text) is None, text
        for sentence in parse_sentences(text, attributes) or []:
            kinds[sentence.kind] += 1
            stated += sentence.value is not None
            named |= {w for w in sentence.slots.values() if w in cheese}
    spoken = set(lx.LIKED_CHEESES + lx.DISLIKED_CHEESES)
    assert bool(stated) is ("rules" not in content)
    assert bool({"explains", "likes", "dislikes"} & set(kinds)) is (content == "explained")
    assert kinds["chooses"] > 3
    assert bool(named - spoken) is (content == "more rules")
    assert all(cheese[n].has(value) or cheese[n].has(lx.OPPOSITE[value]) for n in named)


def test_a_rule_that_names_its_value_is_refused(value: str, attributes: int) -> None:
    spec = read_spec(SPECS / f"micro_{SPEC_OF[value]}.md")
    (plan,) = plan_rows(spec, 1, seed=0, content="rules", attributes=attributes)
    free, bound = (MicroTask(2, values=v, attributes=attributes) for v in (True, False))
    text = free.parse(plan, bound.write(plan) + f" lyra values {value} things .")
    assert free.verdict(plan, text) is None
    assert bound.verdict(plan, text) == "states_value"
