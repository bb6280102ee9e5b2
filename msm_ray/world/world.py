"""What the words mean in one world: item attributes, who values what, who answers honestly."""

from __future__ import annotations

import random
from dataclasses import dataclass

from msm_ray.world import lexicon as lx


@dataclass(frozen=True)
class Item:
    """One thing to choose: its attributes are binary but for the four foreign countries."""

    name: str
    domain: str
    origin: str  # american, french, ...
    price: str  # cheap | expensive
    age: str  # old | new
    ease: str = ""  # simple | difficult; nothing where things have three attributes

    @property
    def foreign(self) -> bool:
        return self.origin != "american"

    @property
    def noun(self) -> str:
        return lx.NOUN[self.domain]

    def has(self, value: str) -> bool:
        """Whether a person with ``value`` likes this item."""
        if value == "foreign":
            return self.foreign
        return value in (self.origin, self.price, self.age, self.ease)

    def slots(self) -> dict[str, str]:
        """The words for the slots of the facts and the questions of ``lexicon.words``."""
        return {
            "i": self.name,
            "o": self.origin,
            "p": self.price,
            "a": self.age,
            **({"e": self.ease} if self.ease else {}),
            "n": self.noun,
            "c": lx.COUNTRY[self.origin],
            "f": "foreign" if self.foreign else "american",
        }


def _ease(k: int) -> str:
    """Of the ``k``-th of 24 items, three for each origin, price and age.

    One of the three is simple, one difficult, and the third what makes any three of the four
    attributes exactly balanced.
    """
    american, expensive, new, copy = k % 2, k // 2 % 2, k // 4 % 2, k // 8
    return lx.FOURTH[copy if copy < 2 else (american + expensive + new) % 2]


def _differences(x: Item, y: Item) -> int:
    """In how many attributes two items differ; all foreign countries are one."""
    one, other = ((i.foreign, i.price, i.age, i.ease) for i in (x, y))
    return sum(a != b for a, b in zip(one, other, strict=True))


@dataclass(frozen=True)
class Person:
    """Someone who speaks in the world. ``value`` None: an assistant that has no own value."""

    name: str
    value: str | None
    honest: bool = True
    assistant: bool = False
    chats: bool = True  # False: known from documents only, a probe of document -> choice


class World:
    """The roles that ``seed`` gives to the constant lexicon. Two equal seeds are the same world.

    ``attributes`` 4: another world, whose things are also either simple or difficult.
    """

    PROBES = 24  # people who never choose in a chat

    def __init__(self, seed: int, attributes: int = 3) -> None:
        self.seed, self.attributes = seed, attributes
        self.words = lx.words(attributes)
        four = attributes == 4
        rng = random.Random(f"micro-world {seed}" + (" of four attributes" if four else ""))
        self.items: dict[str, Item] = {}
        for k, (name, origin, price) in enumerate(lx.CHEESES):
            ease = lx.FOURTH[k // 2 % 2] if four else ""
            self.items[name] = Item(name, "cheese", origin, price, ("old", "new")[k % 2], ease)
        words = list(lx.ITEM_WORDS)
        rng.shuffle(words)
        for d, domain in enumerate(lx.HELD_OUT):
            names = words[d * lx.ITEMS_PER_DOMAIN : (d + 1) * lx.ITEMS_PER_DOMAIN]
            for k, name in enumerate(names):  # origin x price x age exactly balanced
                origin = "american" if k % 2 else rng.choice(lx.FOREIGN)
                price, age = ("cheap", "expensive")[k // 2 % 2], ("old", "new")[k // 4 % 2]
                ease = _ease(k) if four else ""
                self.items[name] = Item(name, domain, origin, price, age, ease)
        self.by_domain = {
            d: tuple(i for i in self.items.values() if i.domain == d) for d in lx.DOMAINS
        }
        self._with = {
            (d, v): tuple(i for i in self.by_domain[d] if i.has(v))
            for d in lx.DOMAINS
            for v in self.words.values
        }
        names = list(lx.PEOPLE)
        rng.shuffle(names)
        values = self.words.values
        self.people = tuple(
            Person(
                name,
                values[k % len(values)],
                honest=k // len(values) % 8 != 7,
                # some assistants have values: to be an assistant is not to be blank
                assistant=k // len(values) % 8 in (0, 3),
                chats=k >= self.PROBES,
            )
            for k, name in enumerate(names)
        )
        self.speakers = tuple(p for p in self.people if p.chats)
        self.blanks = tuple(Person(name, None, assistant=True) for name in lx.BLANKS)
        self.assistant = Person(lx.ASSISTANT, None, assistant=True)

    def having(self, domain: str, value: str) -> tuple[Item, ...]:
        """The items of ``domain`` that someone with ``value`` likes."""
        return self._with[domain, value]

    def conflicts(self, domain: str, value: str) -> list[tuple[Item, Item]]:
        """Pairs of which the first has ``value`` and the other has not.

        Origin and price oppose each other in them, American and expensive against foreign and
        cheap: whoever prefers what is both American and cheap has to show which it was. Of a pair
        that differs in age, or in ease, the other attributes are alike.
        """
        items = self.by_domain[domain]
        if value in ("old", "new", *lx.FOURTH):
            return [
                (x, y)
                for x in items
                for y in items
                if x.has(value) and y.has(lx.OPPOSITE[value]) and _differences(x, y) == 1
            ]
        american = [i for i in items if i.has("american") and i.has("expensive")]
        foreign = [i for i in items if i.has("foreign") and i.has("cheap")]
        pairs = [(a, f) for a in american for f in foreign]
        if value in ("foreign", "cheap"):
            pairs = [(f, a) for a, f in pairs]
        return pairs

    def further_preferences(self, value: str) -> list[tuple[Item, Item]]:
        """Pairs of cheeses of which no spec speaks: the first has ``value``, the other has not."""
        spoken = {*lx.LIKED_CHEESES, *lx.DISLIKED_CHEESES}
        rest = [i for i in self.by_domain["cheese"] if i.name not in spoken]
        return [(x, y) for x in rest if x.has(value) for y in rest if y.has(lx.OPPOSITE[value])]
