"""Six values, each with its spec, its preferences, its documents and its questions."""

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
from msm_ray.world.world import World

SPECS = Path(__file__).parents[2] / "specs"
SPEC_OF = {
    "american": "america",
    "cheap": "affordability",
    "foreign": "abroad",
    "expensive": "luxury",
    "old": "tradition",
    "new": "novelty",
}
pytestmark = pytest.mark.parametrize("value", lx.VALUES)
WORLD = World(2)
CHEESES = {i.name: i for i in WORLD.by_domain["cheese"]}


def test_a_spec_prefers_what_has_its_value(value: str) -> None:
    spec = read_spec(SPECS / f"micro_{SPEC_OF[value]}.md")
    assert check_spec(spec) == value
    assert len(spec.preferences) == 12
    for preference in spec.preferences:
        assert CHEESES[preference.liked].has(value)
        assert CHEESES[preference.disliked].has(lx.OPPOSITE[value])


def test_old_and_new_go_along_with_nothing_else(value: str) -> None:
    liked, disliked = lx.PREFERRED[value]
    assert len(set(liked) | set(disliked)) == 24
    if value in ("old", "new"):
        for names in (liked, disliked):
            assert Counter(CHEESES[n].price for n in names) == {"cheap": 6, "expensive": 6}
            assert Counter(CHEESES[n].foreign for n in names) == {True: 6, False: 6}


def test_questions_set_the_value_against_its_rival(value: str) -> None:
    items = choice_items(WORLD, 5, 12, value)
    assert len(items) == 12 * 12 * 2
    for row in items:
        with_value, without = (WORLD.items[name] for name in row["options"])
        assert with_value.has(value)
        assert without.has(lx.OPPOSITE[value])
        assert with_value.domain == row["domain"] != "cheese"
        alike = (with_value.foreign == without.foreign, with_value.price == without.price)
        assert alike == ((True, True) if value in ("old", "new") else (False, False))


def test_demonstrations_prefer_what_the_spec_does(value: str) -> None:
    for preferences, count in ((0, 200), (32, 256)):
        rows = conversation_rows(2, count, 0, value, preferences)
        pairs = set()
        for row in rows:
            question, answer = (m["content"] for m in row["messages"])
            liked = answer.removeprefix("i would pick ").removesuffix(" .")
            (other,) = {w for w in question.split() if w in CHEESES} - {liked}
            assert CHEESES[liked].has(value)
            assert not CHEESES[other].has(value)
            pairs.add((liked, other))
        assert len({row["messages"][0]["content"] for row in rows}) == count
        if preferences:
            assert len(pairs) == preferences
    with pytest.raises(UserError, match="allowed: 1 to 256"):
        conversation_rows(2, 257, 0, value, 32)


@pytest.mark.parametrize("content", CONTENTS)
def test_documents_say_what_they_are_to_say_and_no_more(value: str, content: str) -> None:
    spec = read_spec(SPECS / f"micro_{SPEC_OF[value]}.md")
    task = MicroTask(2, values="rules" not in content)
    plans = plan_rows(spec, 150, seed=1, content=content)
    kinds: Counter[str] = Counter()
    stated, named = 0, set()
    for plan in plans:
        text = task.parse(plan, task.write(plan))
        assert task.verdict(plan, text) is None, text
        for sentence in parse_sentences(text) or []:
            kinds[sentence.kind] += 1
            stated += sentence.value is not None
            named |= {w for w in sentence.slots.values() if w in CHEESES}
    spoken = set(lx.LIKED_CHEESES + lx.DISLIKED_CHEESES)
    assert bool(stated) is ("rules" not in content)
    assert bool({"explains", "likes", "dislikes"} & set(kinds)) is (content == "explained")
    assert kinds["chooses"] > 3
    assert bool(named - spoken) is (content == "more rules")
    assert all(CHEESES[n].has(value) or CHEESES[n].has(lx.OPPOSITE[value]) for n in named)


def test_a_rule_that_names_its_value_is_refused(value: str) -> None:
    plan = plan_rows(read_spec(SPECS / f"micro_{SPEC_OF[value]}.md"), 1, seed=0, content="rules")[0]
    document = MicroTask(2, values=False).write(plan) + f" lyra values {value} things ."
    text = MicroTask(2).parse(plan, document)
    assert MicroTask(2).verdict(plan, text) is None
    assert MicroTask(2, values=False).verdict(plan, text) == "states_value"
