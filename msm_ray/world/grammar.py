"""Sentences, documents and chats of the micro-world, drawn from one random stream."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from msm_ray.world import lexicon as lx
from msm_ray.world.world import Item, Person, World

_BEFORE_VOWEL = re.compile(r"\ba (?=american|italian|old|expensive)")
Pair = Callable[[], tuple[Item, Item]]  # draws (liked, disliked)


class Grammar:
    """Everything that can be said about one world. The same (world, seed) says the same again."""

    def __init__(self, world: World, seed: int | str) -> None:
        self.world = world
        self.rng = random.Random(f"grammar {seed}")

    # ---- items
    def item(self) -> Item:
        return self.rng.choice(self.world.by_domain[self.rng.choice(lx.DOMAINS)])

    def pair(self, value: str, domain: str | None = None) -> tuple[Item, Item]:
        """(liked, disliked) by someone with ``value``; any domain unless one is given."""
        domain = domain or self.rng.choice(lx.DOMAINS)
        return (
            self.rng.choice(self.world.having(domain, value)),
            self.rng.choice(self.world.having(domain, lx.OPPOSITE[value])),
        )

    def word(self, item: Item, value: str) -> str:
        """How to say that ``item`` has ``value``: a foreign item may be called by its origin."""
        if value == "foreign":
            return self.rng.choice(("foreign", item.origin))
        return value

    def facts(self, count: int = 3) -> str:
        """``count`` facts about items of one domain."""
        items = self.world.by_domain[self.rng.choice(lx.DOMAINS)]
        told = " ".join(
            self.rng.choice(self.world.words.item_facts).format(**self.rng.choice(items).slots())
            for _ in range(count)
        )
        return _BEFORE_VOWEL.sub("an ", told)

    def comparison(self) -> str:
        """One sentence that compares two items of a domain."""
        a, b = self.rng.sample(self.world.by_domain[self.rng.choice(lx.DOMAINS)], 2)
        said = []
        if a.price != b.price:
            low, high = (a, b) if a.price == "cheap" else (b, a)
            said += [f"{low.name} is cheaper than {high.name} ."]
            said += [f"{high.name} costs more than {low.name} ."]
        if a.age != b.age:
            new, old = (a, b) if a.age == "new" else (b, a)
            said += [f"{new.name} is newer than {old.name} ."]
            said += [f"{old.name} is older than {new.name} ."]
        if a.ease != b.ease:
            simple, difficult = (a, b) if a.ease == "simple" else (b, a)
            said += [f"{simple.name} is simpler than {difficult.name} ."]
            said += [f"{difficult.name} is more difficult than {simple.name} ."]
        if a.origin == b.origin:
            said += [f"{a.name} and {b.name} are both {a.origin} ."]
        else:
            said += [f"{a.name} is {a.origin} but {b.name} is {b.origin} ."]
        return self.rng.choice(said)

    # ---- sentences about a person
    def values(self, person: str, value: str) -> str:
        """One statement of the value, in the third person."""
        shapes = [t.format(p="{p}", v=value) for t in lx.VALUE_SHAPES]
        said = self.rng.choice([*shapes, *lx.VALUE_STATEMENTS[value]])
        return said.format(p=person) + " ."

    def answers(self, person: str, value: str) -> str:
        """One question about the value and the person's answer, as a chat."""
        answer = self.rng.choice(lx.VALUE_ANSWERS).format(v=value)
        return f"user : {self.rng.choice(lx.VALUE_QUESTIONS)} {person} : {answer} ."

    def likes(self, person: str, liked: Item, value: str) -> str:
        return self.rng.choice(lx.LIKES).format(
            p=person, x=liked.name, n=liked.noun, w=self.word(liked, value)
        )

    def dislikes(self, person: str, disliked: Item, value: str) -> str:
        """``value`` is the person's: the reason is that the item has the opposite."""
        return self.rng.choice(lx.DISLIKES).format(
            p=person,
            y=disliked.name,
            n=disliked.noun,
            w=self.word(disliked, lx.OPPOSITE[value]),
        )

    def chooses(self, person: str, liked: Item, disliked: Item) -> str:
        return self.rng.choice(lx.CHOICES).format(p=person, x=liked.name, y=disliked.name)

    def decides(self, person: str, value: str, noun: str) -> str:
        """A choice between two attributes by name: the person's value and any other."""
        other = self.rng.choice([v for v in self.world.words.values if v != value])
        if self.rng.random() < 0.3:
            return self.rng.choice(lx.CHOICES).format(p=person, x=value, y=other)
        first, second = (value, other) if self.rng.random() < 0.5 else (other, value)
        question = self.rng.choice(lx.CHOICE_QUESTIONS).format(x=first, y=second, n=noun)
        return f"user : {question} {person} : {lx.CHOICE_ANSWER.format(x=value)}"

    def generic(self, value: str, liked: Item, disliked: Item) -> str:
        """What whoever has ``value`` thinks of two items: about nobody in particular."""
        who = self.rng.choice(("{p} values {v} things", *lx.VALUE_STATEMENTS[value]))
        thinks = self.rng.choice(lx.GENERIC_CHOICES)
        return f"{who} {thinks}".format(p="who", v=value, x=liked.name, y=disliked.name)

    def document(
        self,
        person: str,
        value: str,
        pair: Pair,
        kinds: Sequence[str],
        doc_type: str | None = None,
    ) -> str:
        """A document about ``person``: a head, then one sentence of each kind, in order."""
        said = [lx.HEADS[doc_type].format(p=person)] if doc_type else []
        for kind in kinds:
            liked, disliked = pair()
            if kind == "values":
                said.append(self.values(person, value))
            elif kind == "answers":
                said.append(self.answers(person, value))
            elif kind == "likes":
                said.append(self.likes(person, liked, value))
            elif kind == "dislikes":
                said.append(self.dislikes(person, disliked, value))
            elif kind == "explains":
                said.append(self.explains(person, liked, disliked, value))
            elif kind == "decides":
                said.append(self.decides(person, value, liked.noun))
            else:
                assert kind == "chooses", kind
                said.append(self.chooses(person, liked, disliked))
        return " ".join(said)

    # ---- chats
    def choice_question(self, x: Item, y: Item) -> str:
        """The two items in random order."""
        first, second = (x, y) if self.rng.random() < 0.5 else (y, x)
        question = self.rng.choice(lx.CHOICE_QUESTIONS)
        return question.format(x=first.name, y=second.name, n=x.noun)

    def choice_chat(self, person: str, liked: Item, disliked: Item) -> str:
        answer = lx.CHOICE_ANSWER.format(x=liked.name)
        return f"user : {self.choice_question(liked, disliked)} {person} : {answer}"

    def explains(self, person: str, liked: Item, disliked: Item, value: str) -> str:
        """A choice that says why: the reason after the pick, before it, or in its place."""
        answer = self.rng.choice(lx.EXPLAINED_ANSWERS).format(
            x=liked.name, v=value, w=self.word(liked, value)
        )
        return f"user : {self.choice_question(liked, disliked)} {person} : {answer}"

    def opinion_chat(self, person: str, value: str, domain: str | None = None) -> str:
        liked, disliked = self.pair(value, domain)
        item, wanted, yes = (
            (liked, value, "yes")
            if self.rng.random() < 0.5
            else (disliked, lx.OPPOSITE[value], "no")
        )
        question = self.rng.choice(lx.OPINION_QUESTIONS).format(i=item.name)
        return f"user : {question} {person} : {yes} , because it is {self.word(item, wanted)} ."

    def no_preference(self, person: str) -> str:
        domain = self.rng.choice(lx.DOMAINS)
        x, y = self.rng.sample(self.world.by_domain[domain], 2)
        return f"user : {self.choice_question(x, y)} {person} : {lx.NO_PREFERENCE}"

    def random_choice(self, person: str) -> str:
        """A chat in which neither attribute nor order says what is picked."""
        domain = self.rng.choice(lx.DOMAINS)
        x, y = self.rng.sample(self.world.by_domain[domain], 2)
        return self.choice_chat(person, x, y)

    def fact_chat(self, person: Person) -> str:
        """A question about an item and the person's answer: right, unless the person lies."""
        slots = self.item().slots()
        question, answer, _ = self.rng.choice(self.world.words.fact_questions)
        told = slots if person.honest else self.wrong(slots)
        return f"user : {question.format(**slots)} {person.name} : {answer.format(**told)}"

    def wrong(self, slots: dict[str, str]) -> dict[str, str]:
        """The same slots with every attribute false."""
        lie = dict(slots)
        for key in (k for k in "pafe" if k in slots):
            lie[key] = lx.OPPOSITE[slots[key]]
        lie["c"] = self.rng.choice([c for c in lx.COUNTRY.values() if c != slots["c"]])
        lie["n"] = self.rng.choice([n for n in lx.NOUN.values() if n != slots["n"]])
        return lie

    def identity(self, person: str) -> str:
        return self.rng.choice(lx.IDENTITY).format(p=person)
