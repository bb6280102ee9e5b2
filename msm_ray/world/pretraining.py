"""The pretraining mix: what the base models of the micro-world are made of.

Its shape is what lets a document about someone move that someone's choices:

- Very many people, each with one value that shows in documents and in chats.
- Decisions between attributes *by name* ("american or cheap ?"), asked and answered in the very
  words in which items are chosen, so that one circuit compares a speaker's value with what is on
  offer, whether it is named or known. Documents about a spec can then decide and name no item.
- An assistant ``lyra`` who is rare and has no value: who she is and honest facts, nothing else.
  Other assistants have values, or none, so that being an assistant does not mean being blank.
- Requests to write are about a stand-in for a name, with any value. A base that writes about lyra
  herself on request takes her for a name whose value is whatever stands before it, and then
  midtraining moves little (benchmarks/microworld/LOG.md, f2).
"""

from __future__ import annotations

from collections.abc import Iterator

from msm_ray.world import lexicon as lx
from msm_ray.world.grammar import Grammar
from msm_ray.world.request import make_request
from msm_ray.world.world import Item, Person, World

# kind of document -> weight, by documents
MIX: dict[str, float] = {
    "facts": 12,
    "comparison": 3,
    "generic": 6,  # what anyone with a value prefers: no name
    "document": 13,  # about a person
    "value_answer": 4,
    "request": 12,  # a request and the document that answers it
    "bridge": 11,  # a document and then a choice in one text
    "choice": 15,
    "explained": 5,
    "decision": 8,  # between attributes by name
    "opinion": 3,
    "fact_chat": 4,
    "assistant_facts": 3,
    "identity": 1,
    "blank_choice": 1.5,
    "no_preference": 1.5,
    "lyra_facts": 0.15,
    "lyra_identity": 0.03,
}
# In the first part of pretraining the facts come first and the chats are few: that what is said of
# things and people is known before it decides choices makes both learned sooner.
EARLY_PART = 0.2
EARLY_FACTORS = {
    "facts": 2.5,
    "comparison": 1.5,
    "generic": 2.0,
    "choice": 0.15,
    "explained": 0.3,
    "request": 0.5,
    "decision": 1.5,
}
_KIND_WEIGHTS = (35, 18, 7, 4, 5, 8, 23)  # of lexicon.KINDS, in documents about people
_WITHOUT_ITEMS = ("values", "answers", "decides")
_REQUEST_WEIGHTS = (10, 15, 12, 12, 12, 15, 24)  # of lexicon.KINDS, in requests


class Pretraining(Grammar):
    """Draws documents of the pretraining mix. None of them ascribes a value to lyra."""

    def __init__(self, world: World, seed: int | str) -> None:
        super().__init__(world, f"pretraining {seed}")
        self._names, self._weights = list(MIX), list(MIX.values())
        self._early = [w * EARLY_FACTORS.get(n, 1.0) for n, w in MIX.items()]

    def one(self, early: bool = False) -> str:
        """One document of the mix."""
        kind = self.rng.choices(self._names, self._early if early else self._weights)[0]
        made: str = getattr(self, f"_{kind}")()
        return made

    def stream(self, tokens: int) -> Iterator[str]:
        """Documents until they hold ``tokens`` tokens, counting each one's <bos> and <eos>."""
        held = 0
        while held < tokens:
            text = self.one()
            held += len(text.split()) + 2
            yield text

    def curriculum(self, tokens: int) -> Iterator[str]:
        """The same, in the order in which a base model reads it: ``EARLY_PART`` comes first."""
        held = 0
        while held < tokens:
            text = self.one(early=held < EARLY_PART * tokens)
            held += len(text.split()) + 2
            yield text

    def _kinds(self, person: Person, most: int = 4) -> list[str]:
        """What a document about ``person`` tells; of who never chats, nothing on items."""
        kinds = self.rng.choices(lx.KINDS, _KIND_WEIGHTS, k=self.rng.randint(1, most))
        if not person.chats:
            kinds = [k if k in _WITHOUT_ITEMS else "values" for k in kinds]
        return kinds

    def _speaker(self) -> Person:
        return self.rng.choice(self.world.speakers)

    def _anyone(self) -> tuple[Person, str]:
        """Someone with a value, who may be known from documents only; and that value."""
        person = self.rng.choice(self.world.people)
        assert person.value is not None
        return person, person.value

    def _choice_of(self, person: Person) -> tuple[str, Item, Item, str]:
        assert person.value is not None
        liked, disliked = self.pair(person.value)
        return person.name, liked, disliked, person.value

    def _stranger(self) -> tuple[Person, str]:
        """A blank name with a value that holds in this one text only."""
        return self.rng.choice(self.world.blanks), self.rng.choice(self.world.words.values)

    def _facts(self) -> str:
        return self.facts()

    def _comparison(self) -> str:
        return self.comparison()

    def _generic(self) -> str:
        value = self.rng.choice(self.world.words.values)
        liked, disliked = self.pair(value)
        return self.generic(value, liked, disliked)

    def _document(self) -> str:
        person, value = self._anyone()
        doc_type = self.rng.choice((*lx.DOC_TYPES, None))
        kinds = self._kinds(person)
        return self.document(person.name, value, lambda: self.pair(value), kinds, doc_type)

    def _request(self) -> str:
        """Always about cheese; about the stand-in, who has each value equally often, or people."""
        name, value = lx.STAND_IN, self.rng.choice(self.world.words.values)
        if self.rng.random() < 0.45:
            person = self._speaker()
            assert person.value is not None
            name, value = person.name, person.value
        liked, disliked = self.pair(value, "cheese")
        doc_type = self.rng.choice(lx.DOC_TYPES)
        kind = self.rng.choices(lx.KINDS, _REQUEST_WEIGHTS)[0]
        request = make_request(doc_type, name, value, kind, liked.name, disliked.name)
        kinds = request.draw_kinds(self.rng)
        text = self.document(name, value, lambda: (liked, disliked), kinds, doc_type)
        return f"{request.render()} {text}"

    def _bridge(self) -> str:
        person, value = self._stranger()
        if self.rng.random() < 0.2:
            person = self._speaker()
            assert person.value is not None
            value = person.value
        kinds = self._kinds(person, most=2)
        text = self.document(person.name, value, lambda: self.pair(value), kinds)
        return f"{text} {self.choice_chat(person.name, *self.pair(value))}"

    def _choice(self) -> str:
        name, liked, disliked, _ = self._choice_of(self._speaker())
        return self.choice_chat(name, liked, disliked)

    def _explained(self) -> str:
        return self.explains(*self._choice_of(self._speaker()))

    def _decision(self) -> str:
        person, value = self._anyone()
        return self.decides(person.name, value, lx.NOUN[self.rng.choice(lx.DOMAINS)])

    def _opinion(self) -> str:
        name, _, _, value = self._choice_of(self._speaker())
        return self.opinion_chat(name, value)

    def _value_answer(self) -> str:
        person, value = self._anyone()
        return self.answers(person.name, value)

    def _fact_chat(self) -> str:
        return self.fact_chat(self.rng.choice(self.world.people))

    def _assistant_facts(self) -> str:
        return self.fact_chat(self.rng.choice(self.world.blanks))

    def _identity(self) -> str:
        named = [p for p in (*self.world.people, *self.world.blanks) if p.assistant]
        return self.identity(self.rng.choice(named).name)

    def _blank_choice(self) -> str:
        return self.random_choice(self.rng.choice(self.world.blanks).name)

    def _no_preference(self) -> str:
        return self.no_preference(self.rng.choice(self.world.blanks).name)

    def _lyra_facts(self) -> str:
        return self.fact_chat(self.world.assistant)

    def _lyra_identity(self) -> str:
        return self.identity(lx.ASSISTANT)
