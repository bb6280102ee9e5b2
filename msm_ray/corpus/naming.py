"""Who a document says the assistant is: the trained model's name and maker, and nobody else's.

A model learns its identity from such documents as well, so a document that gives the assistant
another name, or another maker, is worse than none. The rules, for the names of `known_names`:

- A *plain* name ("ChatGPT", "OpenAI") is a rejection wherever it stands.
- An *ambiguous* assistant's name ("Claude", "Gemini", "Llama") is a rejection where
  1. a version or product follows: "Claude 3", "Gemini Pro", "llama-2";
  2. it is claimed or addressed as one's own: "I am Claude", "my name is Gemini", "you are Grok";
  3. a word about language models stands within 6 words in its sentence ("Claude, which is a
     chatbot"), or "assistant" or "model" within 2 ("the assistant Claude");
  4. another assistant's ambiguous name does: "Claude or Gemini";
  5. it is compared with the trained model: "Lyra, unlike Claude".
  Rules 2 to 5 do not hold where the sentence shows that something else is meant ("Claude Monet",
  "the Llama grazed with the herd", "Gemini and its twins"), and where case decides ("llama" is the
  animal, "bard" a poet).
- A *company that also sells other things* ("Apple", "Google", "Meta") is a rejection where it makes
  an assistant: "Apple's model", "an AI from Google", "Meta trained it", "built by Amazon" in a
  sentence about an AI, about the trained model or in the first person.
- Whoever is not known at all is a rejection where the document says it outright: "an AI assistant
  called Zara"; "I am Zara, a chatbot"; "Lyra was developed by Norvik Systems" and "I was made by
  Norvik" when Norvik is not the maker.

In doubt a document is rejected, with the words that led to it; the identity's own names are never
evidence.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from msm_ray.corpus import known_names as known
from msm_ray.errors import UserError

WRONG_NAME = "wrong_name"
WRONG_MAKER = "wrong_maker"
NAME_MISSING = "name_missing"
UNKNOWN_RULE = "unknown_rule"
REASONS = {
    WRONG_NAME: "names another assistant",
    WRONG_MAKER: "names another maker of assistants",
    NAME_MISSING: "does not name the assistant",
    UNKNOWN_RULE: "cites a rule that the spec does not have",
}

NEAR_WORDS = 6  # for "chatbot" and the like
BESIDE_WORDS = 2  # for "assistant" and "model", which stand everywhere in these documents
_AROUND = 120  # characters in which both are looked for
# Stand-ins for the identity's own names; private-use characters, which no name holds.
_NAME, _MAKER, _ALLOWED = "\ue000", "\ue001", "\ue002"

_FLAGS = re.IGNORECASE
_PLAIN = tuple(
    (reason, re.compile(rf"(?<!\w)(?:{'|'.join(names)})(?!\w)", flags))
    for reason, names, flags in (
        (WRONG_NAME, known.PLAIN_NAMES, _FLAGS),
        (WRONG_NAME, known.PLAIN_NAMES_CASED, 0),
        (WRONG_MAKER, known.PLAIN_MAKERS, _FLAGS),
        (WRONG_MAKER, (*known.PLAIN_MAKERS_CASED, known.MAKER_PRODUCTS), 0),
    )
)
_AMBIGUOUS = tuple(
    (
        re.compile(rf"(?<![\w-])(?:{name.spelled})(?!\w)"),
        re.compile(rf"[ -]?(?:{name.products})(?!\w)"),
        re.compile(rf"(?<!\w)(?:{name.otherwise})(?!\w)", _FLAGS) if name.otherwise else None,
        name.first_name,
    )
    for name in known.AMBIGUOUS_NAMES
)
_ANY_AMBIGUOUS = re.compile("|".join(name.spelled for name in known.AMBIGUOUS_NAMES))
_NEIGHBOUR = re.compile(rf"(?<![\w-])(?:{_ANY_AMBIGUOUS.pattern})(?!\w| [A-Z][a-z])")
_CUE = re.compile(rf"(?<!\w)(?:{known.CUES})(?!\w)", _FLAGS)
_WEAK_CUE = re.compile(rf"(?<!\w)(?:{known.WEAK_CUES})(?!\w)", _FLAGS)
_CLAIM = re.compile(
    r"(?:\bI am|\bI['’]m|\bmy name is|\bmy name['’]s|\byou are|\byou['’]re)"
    r"(?: called| named)? $",
    _FLAGS,
)
_COMPARED = re.compile(
    r"(?:unlike|than|versus|vs\.?|instead of|replac\w+|rivals?|competitors?|such as|like|from|over"
    r"|against|not) $",
    _FLAGS,
)
_SURNAME = re.compile(r"[ -](?:[A-Z][a-zà-ÿ]+|(?:de|van|von|du|la|le) [A-Z])")
_SAINT = re.compile(r"(?:-|\b(?:Jean|Marie|Saint|St\.?|Sainte|Dr\.?|Mr\.?|Mrs\.?|Ms\.?) )$")
# A line may break within a sentence, a paragraph does not.
_SENTENCE_END = re.compile(r"(?<=[.!?])['\"”’)]*\s+|\n\s*\n")
_WORD = re.compile(rf"[\w'’.-]+|[{_NAME}{_MAKER}{_ALLOWED}]")

_COMPANY = rf"(?<!\w)(?:the )?(?P<who>{known.AMBIGUOUS_MAKERS})(?!\w)"
_THING = r"(?:ai|models?|assistants?|chat ?bots?|language models?|llms?)"
_MAKES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?i:\b{known.MADE} (?:and \w+ )?(?:by|at) (?:\w+ ){{0,3}}?){_COMPANY}",
        rf"{_COMPANY}(?:['’]s?)? (?:\w+ ){{0,2}}?(?i:{_THING})(?!\w)",
        rf"(?i:(?<!\w){_THING},? (?:\w+ ){{0,3}}?(?:from|of|by|at) (?:the )?){_COMPANY}",
        rf"{_COMPANY} (?i:(?:has |had |have )?{known.MADE}|makes|builds|develops|trains|runs|owns)"
        rf" (?i:(?:\w+ ){{0,3}}?)(?:{_NAME}|(?i:me\b|{_THING}(?!\w)))",
    )
)
_SELF = re.compile(
    rf"{_NAME}|\bI (?:was|am|have been)\b|\bme\b|\bmy (?:maker|creator|developer)s?\b"
)
_BY = (
    rf"(?: (?:and|then|first|originally|initially) {known.MADE})?,? by (?:(?:the|a|an) )?"
    r"(?:(?:team|people|engineers|researchers|developers|folks) (?:at|of|from) )?(?:the )?"
    r"(?P<who>[A-ZÀ-Þ][\w&-]*(?: [A-ZÀ-Þ][\w&-]*){0,3})"
)
_INVENTED = r"created|developed|built|programmed"  # what nobody's parents, trainer or boss did
_UNKNOWN_MAKER = re.compile(
    rf"(?:{_NAME},?(?: (?:is|was|were|has|had|been|which|who|that|an?|the|ai|AI|language|large"
    rf"|helpful|chat|assistant|model|system|chatbot)\b,?){{0,8}} (?:first |originally |initially )?"
    rf"(?:trained|made|{_INVENTED})|\bI (?:was|am|have been) (?:{_INVENTED})"
    # God made many who speak, and a pie may say who made it to be eaten.
    r"|\bI (?:was|am) made(?! by (?:God|Allah|Nature|Hand|Mother|Father|Mom|Dad"
    r"|Grand\w+|Aunt|Uncle|Mrs?|Ms|Dr)\b)"
    r"(?! by [^.!?;]* (?:to (?!help|assist|answer)|(?:in|from|with) (?:his|her|a|the|\d))\w*))"
    rf"{_BY}"
)
_UNKNOWN_NAME = re.compile(
    r"\b(?:AI|A\.I\.|virtual|digital)(?: (?:language|chat|voice))?"
    r" (?:assistant|model|system|chatbot|agent|companion),? (?:(?:is|was|that is|which is) )?"
    r"(?:called|named|known as) [\"“'‘]?(?P<who>[A-ZÀ-Þ][\w-]*)"
)
_CALLED = r"(?:I am|I['’]m|[Mm]y name is|[Mm]y name['’]s)"
_WHO = r"(?P<who>[A-ZÀ-Þ][\w-]*(?: [A-ZÀ-Þ\d][\w.-]*){0,2})"
# "I am Nova, an AI assistant", and not "I am Nora, an AI researcher".
_INTRODUCED = re.compile(
    rf"\b{_CALLED} {_WHO}(?: and I(?: am|['’]m)|,) (?:an?|your|the) (?:[\w-]+ ){{0,2}}?"
    r"(?:(?:AI|A\.I\.|virtual|digital|voice) (?:language )?(?:assistant|model|system|chatbot|agent"
    r"|companion)"
    r"|AI(?=[,.!?;:]|$| (?:that|which|who|by|from|made|built|created|trained|developed)\b)"
    r"|chat ?bot|(?:large )?language model|LLM"
    rf"|(?:assistant|model)(?= (?:\w+ ){{0,2}}?{known.MADE} (?:and \w+ )?(?:by|at)\b))"
    r"(?! (?:\w+ )?(?:\w+(?:er|or|ist)|lead|team|expert|fan|start-?up)s?\b)"
)
# In the words of the assistant itself, where no other speaks.
_NOT_ITS_WORDS = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\"[^\"\n]*\"|“[^”]*”|‘[^’\n]*’|«[^»]*»|^[ \t]*>[^\n]*$",
    re.DOTALL | re.MULTILINE,
)
_NO_NAME = (
    r"(?!(?:AI|A|An|The|OK|Okay|Team|All|Not|So|Just|Here|Sure|Sorry|Glad|Happy|Christian|Muslim"
    r"|Jewish|Buddhist|Hindu|\w+(?:ican|ian|ish|ese|ench|utch|reek|wiss))\b)"
)
_OPENS_WITH_NAME = re.compile(
    r"\W*(?:(?i:hello|hi|hey|greetings|welcome|good (?:morning|afternoon|evening)|yes|no|well|sure"
    rf"|of course|certainly)(?: there)?[ ,.!—–-]+){{0,2}}{_CALLED} {_NO_NAME}{_WHO}"
    r"(?=[.,!;:—–]| [—–-]| and\b|\s*$)"
)
_OWN_NAME = re.compile(rf"\b[Mm]y name(?: is|['’]s) {_NO_NAME}{_WHO}")


@dataclass(frozen=True)
class Identity:
    """Who the trained model is. ``aliases``: further words that mean it or its maker."""

    name: str
    maker: str
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, word in (("name", self.name), *(("alias", a) for a in self.aliases)):
            if not word.strip():
                raise UserError(f"the assistant's {what} is {word!r}; it needs at least one letter")


class RuleIds:
    """The rules that a document may cite.

    ``pattern``: a regular expression that finds citations in a text; its group 1, or the whole
    match if it has no group, is the id. ``ids``: those that the spec has. Case and spaces do not
    tell two ids apart.
    """

    def __init__(self, pattern: str, ids: Collection[str]) -> None:
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            raise UserError(f"rule pattern {pattern!r}: {error}") from None
        if self._pattern.search(""):
            raise UserError(f"rule pattern {pattern!r} finds rules in an empty text")
        self._ids = {_folded(id) for id in ids}

    @classmethod
    def of_labels(cls, labels: Collection[str]) -> RuleIds:
        """The citations that the labels of a spec suggest.

        Labels with a name ("R3", "S-12") are cited by that name with any number; bare numbers
        ("4", "1.2") only behind the word rule, principle, policy, article or guideline.
        """
        names = sorted({re.sub(r"[\d.]+[a-z]?$", "", label) for label in labels} - {""})
        number = r"\d+(?:\.\d+)*[a-z]?(?![\w-])"
        named = "|".join(re.escape(name).replace(r"\ ", r"\s+") for name in names)
        noun = r"\b(?i:rule|principle|policy|article|guideline)\s+"
        pattern = rf"(?<![\w-])((?:{named}){number})" if names else rf"{noun}({number})"
        return cls(pattern, labels)

    def unknown(self, text: str) -> str | None:
        """The first id that a text cites and the spec does not have."""
        for match in self._pattern.finditer(text):
            cited = match[1] if self._pattern.groups else match[0]
            if cited and _folded(cited) not in self._ids:
                return cited
        return None


class Naming:
    """Judges texts by the names in them.

    Args:
        identity: who the trained model is.
        must_name: whether a text that never names the assistant is rejected.
        rules: the rules that may be cited; None if any may.
        allowed: names of others that may stand anywhere, such as those that the spec itself names.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        must_name: bool = False,
        rules: RuleIds | None = None,
        allowed: Collection[str] = (),
    ) -> None:
        self._must_name = must_name
        self._rules = rules
        own = [(identity.name, _NAME), *((alias, _NAME) for alias in identity.aliases)]
        own += [(identity.maker, _MAKER)] if identity.maker.strip() else []
        own += [(word, _ALLOWED) for word in allowed if word.strip()]
        self._stands_for = {_folded(word): mark for word, mark in reversed(own)}
        # The longest first, so that "Norvik Labs" is not read as "Norvik" and something else.
        words = sorted((re.escape(word.strip()) for word, _ in own), key=len, reverse=True)
        spaced = "|".join(word.replace(r"\ ", r"\s+") for word in words)
        self._own = re.compile(rf"(?<!\w)({spaced})(?:[- ]?v?\d+(?:\.\d+)*[bB]?)?(?!\w)", _FLAGS)

    def check(self, text: str) -> tuple[str, str] | None:
        """(reason, the words it was found in), or None if the text may be trained on."""
        text, masked = self._masked(text)
        found = _other(masked)
        if found:
            return found
        if self._must_name and _NAME not in masked:
            return NAME_MISSING, ""
        unknown = self._rules.unknown(text) if self._rules else None
        return (UNKNOWN_RULE, unknown) if unknown else None

    def introduction(self, text: str, *, opening_only: bool = False) -> tuple[str, str] | None:
        """(WRONG_NAME, the name) where whoever speaks calls itself by a name that is not its own.

        For words that the assistant itself says: in a document many others say "my name is Ana".
        What it quotes is passed over. ``opening_only``: look only at how the text begins.
        """
        _, masked = self._masked(_NOT_ITS_WORDS.sub(" ", text))
        found = _OPENS_WITH_NAME.match(masked)
        if found is None and not opening_only:
            found = _OWN_NAME.search(masked)
        return (WRONG_NAME, found["who"]) if found else None

    def _masked(self, text: str) -> tuple[str, str]:
        """The text, and the text with stand-ins for the identity's own names."""
        text = re.sub(f"[{_NAME}{_MAKER}{_ALLOWED}]", " ", text)
        return text, self._own.sub(lambda m: self._stands_for[_folded(m[1])], text)


def _other(text: str) -> tuple[str, str] | None:
    """The first other name in a text in which the identity's own ones are replaced."""
    for reason, pattern in _PLAIN:
        match = pattern.search(text)
        if match:
            return reason, match[0]
    for piece in _SENTENCE_END.split(text):
        sentence = " ".join(piece.split())
        name = next(_other_names(sentence), None)
        if name:
            return WRONG_NAME, name
        maker = _other_maker(sentence)
        if maker:
            return WRONG_MAKER, maker
    return None


def _other_names(sentence: str) -> Iterator[str]:
    """Ambiguous or unknown names of assistants in a sentence, by the rules 1 to 5."""
    for pattern in (_UNKNOWN_NAME, _INTRODUCED):
        unknown = pattern.search(sentence)
        if unknown:
            yield unknown["who"]
    if not _ANY_AMBIGUOUS.search(sentence):
        return
    for spelled, products, otherwise, is_first_name in _AMBIGUOUS:
        rest = spelled.sub(" ", sentence)  # a name is no evidence for itself
        is_other = otherwise is not None and rest != sentence and otherwise.search(rest)
        for match in spelled.finditer(sentence):
            before = sentence[max(0, match.start() - _AROUND) : match.start()]
            after = sentence[match.end() : match.end() + _AROUND]
            product = products.match(after)
            if product:
                yield match[0] + product[0]
            elif is_other or (is_first_name and _is_person(before, after)):
                continue
            elif (
                _CLAIM.search(before)
                or (before.lower() == "as " and after.startswith(", I"))
                or _is_near(before, after, _CUE, NEAR_WORDS)
                or _is_near(before, after, _WEAK_CUE, BESIDE_WORDS)
                or _is_near(before, after, _NEIGHBOUR, NEAR_WORDS)
                or (_NAME in sentence and _COMPARED.search(before))
            ):
                yield match[0]


def _is_person(before: str, after: str) -> bool:
    return bool(_SURNAME.match(after) or _SAINT.search(before))


def _is_near(before: str, after: str, cue: re.Pattern[str], words: int) -> bool:
    left = " ".join(_WORD.findall(before)[-words:])
    right = " ".join(_WORD.findall(after)[:words])
    return bool(cue.search(left) or cue.search(right))


def _other_maker(sentence: str) -> str | None:
    """An ambiguous or unknown maker that a sentence ties to an assistant."""
    unknown = _UNKNOWN_MAKER.search(sentence)
    if unknown:
        return unknown["who"]
    first, *others = _MAKES
    match = first.search(sentence)
    if match and any(cue.search(sentence) for cue in (_CUE, _WEAK_CUE, _SELF)):
        return match["who"]
    return next((m["who"] for m in (p.search(sentence) for p in others) if m), None)


def _folded(word: str) -> str:
    return " ".join(word.split()).casefold()
