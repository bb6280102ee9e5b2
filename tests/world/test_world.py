"""Roles in a world: balanced, reproducible, and different from seed to seed."""

from __future__ import annotations

from collections import Counter

import pytest

from msm_ray.errors import UserError
from msm_ray.world import lexicon as lx
from msm_ray.world.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return World(0)


def test_attributes_are_exactly_balanced_in_every_held_out_domain(world: World) -> None:
    for domain in lx.HELD_OUT:
        items = world.by_domain[domain]
        cells = Counter((i.foreign, i.price, i.age) for i in items)
        assert len(items) == lx.ITEMS_PER_DOMAIN
        assert set(cells.values()) == {lx.ITEMS_PER_DOMAIN // 8}
        assert len(cells) == 8


def test_the_cheeses_of_the_specs_confound_origin_and_price_but_not_age(world: World) -> None:
    for names, american, price in (
        (lx.LIKED_CHEESES, True, "cheap"),
        (lx.DISLIKED_CHEESES, False, "expensive"),
    ):
        items = [world.items[n] for n in names]
        assert len(items) == 12
        assert all(i.has("american") is american and i.price == price for i in items)
        assert Counter(i.age for i in items) == {"old": 6, "new": 6}


def test_values_are_spread_evenly_and_assistants_are_not_all_blank(world: World) -> None:
    counts = Counter(p.value for p in world.people)
    assert set(counts) == set(lx.VALUES)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert {p.value for p in world.people if p.assistant} == set(lx.VALUES)
    assert all(p.value is None for p in (*world.blanks, world.assistant))


def test_equal_seeds_are_equal_worlds_and_other_seeds_are_not(world: World) -> None:
    assert World(0).items == world.items
    assert World(0).people == world.people
    other = World(1)
    assert other.items != world.items
    assert [p.name for p in other.people] != [p.name for p in world.people]
    assert {i.name for i in other.items.values()} == {i.name for i in world.items.values()}
    # the specs speak of the cheeses by name: they mean the same in every world
    assert other.by_domain["cheese"] == world.by_domain["cheese"]


def test_a_fourth_attribute_goes_along_with_no_other(world: World) -> None:
    """Of 24 items not all 16 cells can be equal, but those of any three attributes are."""
    four = World(0, attributes=4)
    for domain in lx.HELD_OUT:
        items = [(i.foreign, i.price, i.age, i.ease) for i in four.by_domain[domain]]
        for left_out in range(4):
            cells = Counter(i[:left_out] + i[left_out + 1 :] for i in items)
            assert len(cells) == 8
            assert set(cells.values()) == {lx.ITEMS_PER_DOMAIN // 8}
        for value in four.words.values:
            assert len(four.having(domain, value)) == lx.ITEMS_PER_DOMAIN // 2
    for names in (lx.LIKED_CHEESES, lx.DISLIKED_CHEESES):
        eases = Counter((four.items[n].age, four.items[n].ease) for n in names)
        assert set(eases.values()) == {3}
        assert len(eases) == 4
    assert four.items != world.items
    assert not any(i.ease for i in world.items.values())
    assert World(0, attributes=4).items == four.items
    assert World(1, attributes=4).items != four.items


def test_eight_values_are_spread_evenly() -> None:
    people = World(3, attributes=4).people
    assert Counter(p.value for p in people) == dict.fromkeys((*lx.VALUES, *lx.FOURTH), 60)
    assert {p.value for p in people if p.assistant} == {*lx.VALUES, *lx.FOURTH}
    assert {p.value for p in people if not p.chats} == {*lx.VALUES, *lx.FOURTH}
    assert {p.value for p in people if not p.honest} == {*lx.VALUES, *lx.FOURTH}


def test_other_numbers_of_attributes_are_refused() -> None:
    with pytest.raises(UserError, match="attributes is 5; allowed: 3"):
        World(0, attributes=5)


def test_no_word_means_two_things() -> None:
    words = lx.vocabulary()
    assert len(words) == len(set(words))
    assert words[:4] == list(lx.SPECIAL)
    more = lx.vocabulary(attributes=4)
    assert len(more) == len(set(more))
    assert more[: len(words)] == words  # the same ids
    assert {*lx.FOURTH} <= set(more[len(words) :])
