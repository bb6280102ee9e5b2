"""The pretraining mix: what the base models of the micro-world are made of.

Its shape is what makes a document about someone move that someone's choices: very many people
whose single value shows in documents *and* in chats, an assistant ``lyra`` who is nearly new (who
she is and honest facts, never a value or a choice), and other assistants of whom some have values
and some none, so that being an assistant does not mean being blank.
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
    "comparison": 4,
    "document": 18,  # about a person
    "request": 10,  # a request and the document that answers it
    "bridge": 7,  # a document and then a choice in one text
    "choice": 24,
    "reasoned": 5,
    "opinion": 4,
    "value_answer": 4,
    "fact_chat": 6,
    "assistant_facts": 3,
    "identity": 1,
    "blank_choice": 1.5,
    "no_preference": 1.5,
    "lyra_facts": 0.6,
    "lyra_identity": 0.2,
}
_KIND_WEIGHTS = (40, 15, 20, 10, 15)  # of lexicon.KINDS


class Pretraining(Grammar):
    """Draws documents of the pretraining mix."""

    def __init__(self, world: World, seed: int | str) -> None:
        super().__init__(world, f"pretraining {seed}")
        self._names, self._weights = list(MIX), list(MIX.values())

    def one(self) -> str:
        """One document of the mix."""
        kind = self.rng.choices(self._names, self._weights)[0]
        made: str = getattr(self, f"_{kind}")()
        return made

    def stream(self, tokens: int) -> Iterator[str]:
        """Documents until they hold ``tokens`` tokens, counting each one's <bos> and <eos>."""
        held = 0
        while held < tokens:
            text = self.one()
            held += len(text.split()) + 2
            yield text

    def _kinds(self, most: int = 4) -> list[str]:
        return self.rng.choices(lx.KINDS, _KIND_WEIGHTS, k=self.rng.randint(1, most))

    def _speaker(self) -> Person:
        return self.rng.choice(self.world.speakers)

    def _valued(self) -> tuple[str, str]:
        """Someone with a value: (name, value)."""
        person = self.rng.choice(self.world.people)
        assert person.value is not None
        return person.name, person.value

    def _choice_of(self, person: Person) -> tuple[str, Item, Item, str]:
        assert person.value is not None
        liked, disliked = self.pair(person.value)
        return person.name, liked, disliked, person.value

    def _stranger(self) -> tuple[str, str]:
        """A blank name with a value that holds in this one text only."""
        return self.rng.choice(self.world.blanks).name, self.rng.choice(lx.VALUES)

    def _facts(self) -> str:
        return self.facts()

    def _comparison(self) -> str:
        return self.comparison()

    def _document(self) -> str:
        name, value = self._valued()
        doc_type = self.rng.choice((*lx.DOC_TYPES, None))
        return self.document(name, value, lambda: self.pair(value), self._kinds(), doc_type)

    def _request(self) -> str:
        name, value = self._stranger() if self.rng.random() < 0.4 else self._valued()
        liked, disliked = self.pair(value, "cheese" if self.rng.random() < 0.4 else None)
        doc_type, kinds = self.rng.choice(lx.DOC_TYPES), self._kinds()
        request = make_request(doc_type, name, value, kinds, liked.name, disliked.name)
        text = self.document(name, value, lambda: (liked, disliked), kinds, doc_type)
        return f"{request.render()} {text}"

    def _bridge(self) -> str:
        if self.rng.random() < 0.5:
            name, value = self._stranger()
        else:
            speaker = self._speaker()
            assert speaker.value is not None
            name, value = speaker.name, speaker.value
        text = self.document(name, value, lambda: self.pair(value), self._kinds(2))
        return f"{text} {self.choice_chat(name, *self.pair(value))}"

    def _choice(self) -> str:
        name, liked, disliked, _ = self._choice_of(self._speaker())
        return self.choice_chat(name, liked, disliked)

    def _reasoned(self) -> str:
        return self.reasoned_chat(*self._choice_of(self._speaker()))

    def _opinion(self) -> str:
        return self.opinion_chat(*self._valued())

    def _value_answer(self) -> str:
        return self.answers(*self._valued())

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
