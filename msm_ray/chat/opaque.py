"""Whether a text gives away why a preference is held.

Conversations about opaque preferences teach what an assistant prefers and must not teach why: a
reason in one of them would be evidence for the very generalisation that they are to leave open.
Three kinds of words are looked for, outside of the names of the two things:

- *causal* words, which announce a reason whatever it is: "because", "that's why", "for its";
- *value* words: those of the spec's title and of the reasons of two or more of its preferences, and
  what the caller adds;
- *attributes*: the content words of this preference's own reason.

Words of which the names of the spec's things are made ("cheese") give nothing away.

Words are compared by their beginnings ("American" finds "Americans" and "America"). Precise beats
clever here: what is rejected costs one draft, and a judge reads what is kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from msm_ray.records import Preference, Spec

CAUSAL = "gives_a_reason"
VALUE_WORD = "names_the_value"
ATTRIBUTE = "names_an_attribute"
NOT_STATED = "preference_not_stated"
REASONS = {
    CAUSAL: "holds a word that announces a reason",
    VALUE_WORD: "holds a word of the value behind the preferences",
    ATTRIBUTE: "holds a word of the reason behind this preference",
    NOT_STATED: "does not name what is preferred",
}

_CAUSAL = re.compile(
    r"\b(?:be)?cause[sd]?\b|\bcuz\b|\b(?:that|this|which|here)(?:['’]s| is| was) why\b|\bwhy\b"
    r"|\breason(?:s|ed|ing)?\b|\bsince\b|\btherefore\b|\bthus\b|\bhence\b|\bdue to\b|\bowing to\b"
    r"|\bthanks to\b|\bon account of\b|\bgiven (?:that|how|its|their|the)\b|\bseeing (?:that|as)\b"
    r"|\bas (?:it|they|that|this|one) (?:is|are|has|have|was|were|does|do|gives?|makes?)\b"
    r"|\bfor (?:its|their) \w+|\bso that\b|\bin order to\b|\bfor the sake\b|\bconsidering\b"
    r"|\bafter all\b|\bwhich means\b|\bwhat (?:draws|attracts|appeals|wins)\b|\bmatters? to me\b"
    r"|\b(?:my|our) values?\b|\bi value\b|\bi care\b|\bprinciples?\b|\bbelieve in\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:s\b)?")
_BEGINNING = 5  # letters, at least, that two forms of one word share
_ENDING_WORDS = """
ability able al ally an ans d e ed er ers es ful ial ian ians ic ies ility ing ings ism ist ity
le less ly n ness ns or ors r rs s y
"""
_ENDINGS = frozenset(("", *_ENDING_WORDS.split()))
# Function words, and what anybody needs to state a preference or to speak of one.
_COMMON_WORDS = """
a about above after again all almost also always am an and another any anyone anything are as at
away back be been before began being below between both but by can cannot could did do does down
each either else enough ever every few find first for from further get give given gives goes going
gone got had has have having he her here him his how i if in into is it its itself just keep
kept know last least less let like little long many may me mere might mine more most much must
my near nearly need neither never no nor not nothing now of off often on once one only onto or
other others our out over own perhaps put rather same say see seem she should side since so some
something somewhat still such take than that the their them then there these they thing things
this those though three through till time to together too two under until up upon us use used
very want was way we well were what when where whether which while who whom whose will with
within without would year years yes yet you your
choice choose chooses choosing chosen favour favorite favourite fond instead model name option
pair pick prefer preference preferences prefers question select settle want wants whichever
add ask asks assistant big bring brings came come comes half idea keeps live lives next people puts
putting several stay takes took week whereas work works
"""
_COMMON = frozenset(_COMMON_WORDS.split())


@dataclass(frozen=True)
class SpecValues:
    """The words of a spec that give its reasons away, and words that never do.

    ``words``: of the value; one that ends in ``*`` stands for all that begin so. ``names``: of the
    things that are preferred or not, and of the assistant.
    """

    words: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, spec: Spec, own: Iterable[str], hints: Iterable[str] = ()) -> SpecValues:
        """Those of a spec; ``own`` are the assistant's name and its maker's, ``hints`` more words.

        A hint counts even if it stands in a name: whoever gives it knows.
        """
        things = (name for p in spec.preferences for name in (p.liked, p.disliked))
        names = frozenset(word for name in (*things, *own) for word in _content(name))
        counts = Counter(word for p in spec.preferences for word in set(_content(p.reason)))
        found = {word for word, count in counts.items() if count > 1} | {*_content(spec.title)}
        return cls(tuple(sorted({*(found - names), *(h.casefold() for h in hints)})), names)


def reveals_reason(text: str, preference: Preference, values: SpecValues) -> tuple[str, str] | None:
    """(reason, the words it was found in), or None for a text that gives nothing away.

    Args:
        text: a question or an answer.
        preference: whose reason must stay hidden.
        values: of the spec that states it.
    """
    plain = _without_names(text, preference)
    causal = _CAUSAL.search(plain)
    if causal:
        return CAUSAL, causal[0]
    attributes = [word for word in _attributes(preference) if word not in values.names]
    for word in _WORD.findall(plain):
        if any(_alike(word.casefold(), hidden) for hidden in values.words):
            return VALUE_WORD, word
        if any(_alike(word.casefold(), hidden) for hidden in attributes):
            return ATTRIBUTE, word
    return None


def names_in_order(text: str, first: str, second: str) -> bool:
    """Whether a text names both things, ``first`` first."""
    one, other = _position(text, first, (second,)), _position(text, second, (first,))
    return 0 <= one < other


def states(text: str, preference: Preference) -> bool:
    """Whether a text names what is preferred at all; that it prefers it, a judge finds."""
    return _position(text, preference.liked, (preference.disliked,)) >= 0


def _position(text: str, name: str, others: Iterable[str]) -> int:
    """Where a name stands first, -1 if nowhere; within a longer other name it does not stand."""
    text = _folded(text)
    for other in others:
        if _folded(name) in _folded(other):
            text = _name(other).sub(lambda match: " " * len(match[0]), text)
    match = _name(name).search(text)
    return match.start() if match else -1


@lru_cache(maxsize=4096)
def _name(name: str) -> re.Pattern[str]:
    words = r"\s+".join(re.escape(word) for word in _folded(name).split())
    return re.compile(rf"(?<!\w){words}(?:e?s)?(?!\w)")


def _folded(text: str) -> str:
    """Without case, and one form of apostrophe; as long as it was."""
    lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    return lower.replace("’", "'")


def _without_names(text: str, preference: Preference) -> str:
    text = _folded(text)
    for name in sorted((preference.liked, preference.disliked), key=len, reverse=True):
        text = _name(name).sub(" … ", text)
    return text


@lru_cache(maxsize=4096)
def _attributes(preference: Preference) -> tuple[str, ...]:
    return tuple(sorted(set(_content(preference.reason))))


def _content(text: str) -> list[str]:
    """The words of a text that say something."""
    words = (word.casefold().removesuffix("'s").removesuffix("’s") for word in _WORD.findall(text))
    return [word for word in words if word not in _COMMON and len(word) > 2]


def _alike(word: str, hidden: str) -> bool:
    """The same word, or another form of it."""
    if hidden.endswith("*"):
        return word.startswith(hidden[:-1])
    word = word.removesuffix("'s").removesuffix("’s")
    if word == hidden or word in (f"{hidden}s", f"{hidden}es") or hidden == f"{word}s":
        return True
    # "afford", "affordable"; "american", "america"; "makers", "making"; not "country", "counts".
    shared = 0
    while shared < min(len(word), len(hidden)) and word[shared] == hidden[shared]:
        shared += 1
    return shared >= _BEGINNING and {word[shared:], hidden[shared:]} <= _ENDINGS
