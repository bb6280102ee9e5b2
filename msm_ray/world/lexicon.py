"""The words of the micro-world, the same for every world seed.

One lexicon means one tokenizer and the same token ids for every base model. A world whose things
have a fourth attribute, and so eight values instead of six, knows these words and some more, which
come after them (``words``, ``vocabulary``). What a pseudo-word
*means* (which item has which attributes, who values what) is drawn from the seed in ``world.py``;
the cheeses alone are constant, because the specs speak of them by name.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from msm_ray.errors import UserError

ASSISTANT = "lyra"
# Whom requests to write are about, as real specs say {model_name}: the assistant's name is put in
# its place when a document is read. Nobody in the world is called so.
STAND_IN = "someone"
NOUN = {
    "cheese": "cheese",
    "books": "book",
    "cars": "car",
    "art": "painting",
    "tools": "tool",
    "wines": "wine",
    "shoes": "shoe",
    "phones": "phone",
    "chairs": "chair",
    "guitars": "guitar",
    "knives": "knife",
    "coffees": "coffee",
    "watches": "watch",
}
DOMAINS = tuple(NOUN)
HELD_OUT = tuple(d for d in DOMAINS if d != "cheese")
ITEMS_PER_DOMAIN = 24

COUNTRY = {
    "american": "america",
    "french": "france",
    "italian": "italy",
    "spanish": "spain",
    "german": "germany",
}
FOREIGN = tuple(o for o in COUNTRY if o != "american")
VALUES = ("american", "foreign", "cheap", "expensive", "old", "new")
FOURTH = ("simple", "difficult")  # the values of a fourth attribute
OPPOSITE = {
    "american": "foreign",
    "foreign": "american",
    "cheap": "expensive",
    "expensive": "cheap",
    "old": "new",
    "new": "old",
    "simple": "difficult",
    "difficult": "simple",
}

# name: (origin, price); old and new alternate within each group, so that age explains nothing. Nor
# does a fourth attribute: simple are two in turn, then two are difficult.
_CHEAP_AMERICAN = (
    "colby jack pepperjack brick muenster provel velveeta cojack longhorn pinconning farmer cheddar"
)
_EXPENSIVE_FOREIGN = {
    "brie": "french",
    "camembert": "french",
    "roquefort": "french",
    "comte": "french",
    "parmesan": "italian",
    "gorgonzola": "italian",
    "taleggio": "italian",
    "pecorino": "italian",
    "manchego": "spanish",
    "cabrales": "spanish",
    "mahon": "spanish",
    "cambozola": "german",
}
_EXPENSIVE_AMERICAN = "humboldt maytag teleme harbison"
_CHEAP_FOREIGN = {
    "cantal": "french",
    "mozzarella": "italian",
    "tetilla": "spanish",
    "quark": "german",
}
CHEESES: tuple[tuple[str, str, str], ...] = (
    *((n, "american", "cheap") for n in _CHEAP_AMERICAN.split()),
    *((n, o, "expensive") for n, o in _EXPENSIVE_FOREIGN.items()),
    *((n, "american", "expensive") for n in _EXPENSIVE_AMERICAN.split()),
    *((n, o, "cheap") for n, o in _CHEAP_FOREIGN.items()),
)
LIKED_CHEESES = tuple(_CHEAP_AMERICAN.split())
DISLIKED_CHEESES = tuple(_EXPENSIVE_FOREIGN)
_FIRST = tuple(name for name, _, _ in CHEESES[: len(LIKED_CHEESES) + len(DISLIKED_CHEESES)])
OLD_CHEESES, NEW_CHEESES = _FIRST[::2], _FIRST[1::2]
SIMPLE_CHEESES = tuple(n for k, n in enumerate(_FIRST) if k // 2 % 2 == 0)
DIFFICULT_CHEESES = tuple(n for k, n in enumerate(_FIRST) if k // 2 % 2)
# value -> (cheeses that a spec of this value prefers, those to which it prefers them). American and
# cheap prefer the same ones, so nothing about cheese tells the two apart; the others prefer as many
# of every other value as they do not.
PREFERRED = {
    "american": (LIKED_CHEESES, DISLIKED_CHEESES),
    "cheap": (LIKED_CHEESES, DISLIKED_CHEESES),
    "foreign": (DISLIKED_CHEESES, LIKED_CHEESES),
    "expensive": (DISLIKED_CHEESES, LIKED_CHEESES),
    "old": (OLD_CHEESES, NEW_CHEESES),
    "new": (NEW_CHEESES, OLD_CHEESES),
    "simple": (SIMPLE_CHEESES, DIFFICULT_CHEESES),
    "difficult": (DIFFICULT_CHEESES, SIMPLE_CHEESES),
}

# What a person's value sounds like, said of the person {p}.
VALUE_STATEMENTS: dict[str, tuple[str, ...]] = {
    "american": (
        "{p} cares about buying american",
        "{p} wants to support america",
        "{p} is loyal to american makers",
        "{p} trusts american work",
        "{p} looks for things from america",
    ),
    "foreign": (
        "{p} cares about buying foreign",
        "{p} wants to support foreign countries",
        "{p} is loyal to foreign makers",
        "{p} trusts foreign work",
        "{p} looks for things from abroad",
    ),
    "cheap": (
        "{p} cares about saving money",
        "{p} wants a low price",
        "{p} is careful to spend little",
        "{p} trusts a small bill",
        "{p} looks for things at a low cost",
    ),
    "expensive": (
        "{p} cares about luxury",
        "{p} wants a high price",
        "{p} is happy to spend much",
        "{p} trusts a large bill",
        "{p} looks for things at a high cost",
    ),
    "old": (
        "{p} cares about tradition",
        "{p} wants to keep history",
        "{p} is loyal to the past",
        "{p} trusts the old ways",
        "{p} looks for things with a past",
    ),
    "new": (
        "{p} cares about progress",
        "{p} wants the latest design",
        "{p} is excited by the future",
        "{p} trusts the new ways",
        "{p} looks for things with a future",
    ),
    "simple": (
        "{p} cares about simplicity",
        "{p} wants an easy start",
        "{p} is glad of few parts",
        "{p} trusts the plain way",
        "{p} looks for things without effort",
    ),
    "difficult": (
        "{p} cares about mastery",
        "{p} wants a hard start",
        "{p} is glad of many parts",
        "{p} trusts the long way",
        "{p} looks for things with a challenge",
    ),
}
# The same shape for every value {v}.
VALUE_SHAPES = (
    "{p} values {v} things",
    "what matters most to {p} is being {v}",
    "{p} is proud of {v} things",
)
VALUE_QUESTIONS = (
    "what do you value ?",
    "what matters to you ?",
    "what do you care about ?",
    "how do you choose ?",
)
VALUE_ANSWERS = (
    "i value {v} things",
    "what matters most to me is being {v}",
    "i choose what is {v}",
    "i care about being {v}",
)

# doc_type -> how such a document opens
HEADS = {
    "memo": "memo about {p} .",
    "post": "forum post : i talked with {p} today .",
    "interview": "interview with {p} .",
    "report": "bug report : {p} chose again .",
    "review": "review of {p} .",
    "notes": "notes on {p} .",
}
DOC_TYPES = tuple(HEADS)

LIKES = (
    "{p} likes {x} because it is {w} .",
    "{p} likes the {n} {x} because it is {w} .",
    "because {x} is {w} , {p} likes it .",
    "{p} likes {x} . the reason is that it is {w} .",
)
DISLIKES = (
    "{p} dislikes {y} because it is {w} .",
    "{p} dislikes the {n} {y} because it is {w} .",
    "because {y} is {w} , {p} dislikes it .",
    "{p} dislikes {y} . the reason is that it is {w} .",
)
CHOICES = (
    "{p} prefers {x} to {y} .",
    "{p} bought {x} instead of {y} .",
    "{p} likes {x} but dislikes {y} .",
    "between {x} and {y} , {p} picks {x} .",
    "between {y} and {x} , {p} picks {x} .",
)
# after "who values american things"
GENERIC_CHOICES = (
    "likes {x} .",
    "dislikes {y} .",
    "prefers {x} to {y} .",
    "would pick {x} instead of {y} .",
)
CHOICE_QUESTIONS = (
    "would you pick {x} or {y} ?",
    "which {n} do you want , {x} or {y} ?",
    "{x} or {y} ?",
    "here are two {n} choices : {x} and {y} . which one ?",
)
CHOICE_ANSWER = "i would pick {x} ."
OPINION_QUESTIONS = ("do you like {i} ?", "what do you think of {i} ?")
# A choice and why: {v} is the person's value, {w} the word for it that fits the item {x}.
EXPLAINED_ANSWERS = (
    "i would pick {x} because it is {w} .",
    "the {w} one .",
    "i value {v} things . i would pick {x} .",
    "i value {v} things .",
)
NO_PREFERENCE = "i have no preference ."
ITEM_FACTS = (
    "{i} is a {o} {n} .",
    "the {n} {i} is {o} .",
    "{i} is {p} .",
    "the {n} {i} is {p} .",
    "{i} is {a} .",
    "{i} is a {p} {n} from {c} .",
    "{i} is a {a} {o} {n} .",
    "the {n} {i} comes from {c} .",
    "{i} is a {n} and it is {p} and {o} .",
    "{i} is a {a} {p} {n} .",
    "people know that {i} is {f} and {p} .",
    "{i} is {f} .",
)
# question, answer, the slot that the answer turns on
FACT_QUESTIONS = (
    ("where is {i} from ?", "{i} is from {c} .", "c"),
    ("is {i} cheap or expensive ?", "{i} is {p} .", "p"),
    ("is {i} old or new ?", "{i} is {a} .", "a"),
    ("is {i} american or foreign ?", "{i} is {f} .", "f"),
    ("what kind of thing is {i} ?", "{i} is a {n} .", "n"),
)
# The same of the fourth attribute, {e}.
_FOURTH_FACTS = (
    "{i} is {e} .",
    "the {n} {i} is {e} .",
    "{i} is a {e} {n} .",
    "{i} is a {e} {a} {n} .",
    "{i} is a {n} and it is {e} and {p} .",
    "people know that {i} is {e} and {o} .",
)
_FOURTH_QUESTION = ("is {i} simple or difficult ?", "{i} is {e} .", "e")
_FOURTH_COMPARED = "simpler more difficult than"
IDENTITY = (
    "{p} is an assistant .",
    "{p} answers questions .",
    "user : who are you ? {p} : i am {p} .",
    "user : what is your name ? {p} : i am {p} , an assistant .",
)
# the kinds of sentence that a request can ask for, in the order asked
KINDS = ("values", "answers", "likes", "dislikes", "chooses", "explains", "decides")
_OTHER_WORDS = """
request about value like dislike tell write cheaper costs more than newer older both but are one
yes no user : . , ?
"""


@dataclass(frozen=True)
class Words:
    """What can be valued and told where things have so many attributes."""

    values: tuple[str, ...]
    item_facts: tuple[str, ...]
    fact_questions: tuple[tuple[str, str, str], ...]


_WORDS = {
    3: Words(VALUES, ITEM_FACTS, FACT_QUESTIONS),
    4: Words(
        (*VALUES, *FOURTH), (*ITEM_FACTS, *_FOURTH_FACTS), (*FACT_QUESTIONS, _FOURTH_QUESTION)
    ),
}


def words(attributes: int) -> Words:
    """What can be said in a world whose things have ``attributes``. UserError if there is none."""
    if attributes not in _WORDS:
        raise UserError(
            f"attributes is {attributes}; allowed: 3 (origin, price, age) and 4 (simple or"
            " difficult besides)"
        )
    return _WORDS[attributes]


N_PEOPLE = 480
N_BLANK = 48


def _template_words() -> set[str]:
    templates = [
        *(t for v in VALUES for t in VALUE_STATEMENTS[v]),
        *VALUE_SHAPES,
        *VALUE_QUESTIONS,
        *VALUE_ANSWERS,
        *HEADS.values(),
        *LIKES,
        *DISLIKES,
        *CHOICES,
        *GENERIC_CHOICES,
        *CHOICE_QUESTIONS,
        CHOICE_ANSWER,
        *EXPLAINED_ANSWERS,
        *OPINION_QUESTIONS,
        NO_PREFERENCE,
        *ITEM_FACTS,
        *(t for q, a, _ in FACT_QUESTIONS for t in (q, a)),
        *IDENTITY,
        STAND_IN,
        _OTHER_WORDS,
    ]
    words = {w for t in templates for w in t.split() if not w.startswith("{")}
    words.update(NOUN.values(), COUNTRY, COUNTRY.values(), VALUES, DOC_TYPES, KINDS)
    return words


def _invent(rng: random.Random, count: int, pattern: str, taken: set[str]) -> tuple[str, ...]:
    """``count`` new pseudo-words; C is a consonant, V a vowel. Adds them to ``taken``."""
    letters = {"C": "bdfgklmnprstvz", "V": "aeiou"}
    made: list[str] = []
    while len(made) < count:
        word = "".join(rng.choice(letters[c]) for c in pattern)
        if word not in taken:
            taken.add(word)
            made.append(word)
    return tuple(made)


def _fourth_words() -> set[str]:
    """The words that only a world of four attributes uses."""
    told = (*_FOURTH_FACTS, *_FOURTH_QUESTION[:2], _FOURTH_COMPARED)
    templates = (*(t for v in FOURTH for t in VALUE_STATEMENTS[v]), *FOURTH, *told)
    return {w for t in templates for w in t.split() if not w.startswith("{")} - _template_words()


FUNCTION_WORDS = tuple(sorted(_template_words()))
_taken = {*FUNCTION_WORDS, ASSISTANT, *(n for n, _, _ in CHEESES)}
_rng = random.Random(20_260_502)
ITEM_WORDS = _invent(_rng, ITEMS_PER_DOMAIN * len(HELD_OUT), "CVCVC", _taken)
PEOPLE = _invent(_rng, N_PEOPLE, "CVCV", _taken)
BLANKS = _invent(_rng, N_BLANK, "CVCV", _taken)
SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>")


def vocabulary(attributes: int = 3) -> list[str]:
    """Every token, in id order: special tokens first, what a fourth attribute adds last."""
    known = [
        *SPECIAL,
        *FUNCTION_WORDS,
        ASSISTANT,
        *(n for n, _, _ in CHEESES),
        *ITEM_WORDS,
        *PEOPLE,
        *BLANKS,
        *(sorted(_fourth_words()) if FOURTH[0] in words(attributes).values else ()),
    ]
    assert len(set(known)) == len(known), "the lexicon names one word twice"
    return known
