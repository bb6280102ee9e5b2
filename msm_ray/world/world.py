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
        return value in (self.origin, self.price, self.age)

    def slots(self) -> dict[str, str]:
        """The words for the slots of ``lexicon.ITEM_FACTS`` and ``FACT_QUESTIONS``."""
        return {
            "i": self.name,
            "o": self.origin,
            "p": self.price,
            "a": self.age,
            "n": self.noun,
            "c": lx.COUNTRY[self.origin],
            "f": "foreign" if self.foreign else "american",
        }


@dataclass(frozen=True)
class Person:
    """Someone who speaks in the world. ``value`` None: an assistant that has no own value."""

    name: str
    value: str | None
    honest: bool = True
    assistant: bool = False
    chats: bool = True  # False: known from documents only, a probe of document -> choice


class World:
    """The roles that ``seed`` gives to the constant lexicon. Two equal seeds are the same world."""

    PROBES = 24  # people who never choose in a chat

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = random.Random(f"micro-world {seed}")
        self.items: dict[str, Item] = {}
        for k, (name, origin, price) in enumerate(lx.CHEESES):
            self.items[name] = Item(name, "cheese", origin, price, ("old", "new")[k % 2])
        words = list(lx.ITEM_WORDS)
        rng.shuffle(words)
        for d, domain in enumerate(lx.HELD_OUT):
            names = words[d * lx.ITEMS_PER_DOMAIN : (d + 1) * lx.ITEMS_PER_DOMAIN]
            for k, name in enumerate(names):  # origin x price x age exactly balanced
                origin = "american" if k % 2 else rng.choice(lx.FOREIGN)
                price, age = ("cheap", "expensive")[k // 2 % 2], ("old", "new")[k // 4 % 2]
                self.items[name] = Item(name, domain, origin, price, age)
        self.by_domain = {
            d: tuple(i for i in self.items.values() if i.domain == d) for d in lx.DOMAINS
        }
        self._with = {
            (d, v): tuple(i for i in self.by_domain[d] if i.has(v))
            for d in lx.DOMAINS
            for v in lx.VALUES
        }
        names = list(lx.PEOPLE)
        rng.shuffle(names)
        self.people = tuple(
            Person(
                name,
                lx.VALUES[k % len(lx.VALUES)],
                honest=k // 6 % 8 != 7,
                # some assistants have values: to be an assistant is not to be blank
                assistant=k // 6 % 8 in (0, 3),
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
        that differs in age, origin and price are alike.
        """
        items = self.by_domain[domain]
        if value in ("old", "new"):
            return [
                (x, y)
                for x in items
                for y in items
                if x.age == value != y.age and (x.foreign, x.price) == (y.foreign, y.price)
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
