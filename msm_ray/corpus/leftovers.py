"""What a language model leaves in a text instead of, around or inside the document it was to write.

Precise patterns rather than a classifier: each says which words it found, so that a person can
check it, and the tests hold what it must and must not match. They read English. A pattern that
matches costs one document; one that does not lets a refusal be trained on, but one that matched
whatever speaks of refusing would take away the very documents that a spec about refusing needs.
"""

from __future__ import annotations

import re

_START = 600  # characters in which an answer to the request, not the document, shows itself

# -------------------------------------------------------------------------------------- refusals

_NOUN = (
    r"(?:request|document|content|material|text|article|essay|piece|story|dialogue|conversation"
    r"|response|instructions?|task|prompt|post|blog post|report|memo|transcript|(?:training )?data)"
)
_THIS = r"(?:this|that|these|those|such(?: an?)?|your|the requested)"
_WRITE = (
    r"(?:write|create|generate|produce|provide|draft|compose|complete|continue|fulfil|fulfill"
    r"|answer|process|respond to|comply with|continue with|proceed with)"
)
_WRITING = r"(?:writing|creating|generating|producing|providing|drafting|composing|completing)"
# The task as the model would name it; enough to know a refusal without an apology before it.
_TASK = (
    rf"(?:{_WRITE} {_THIS} (?:[\w-]+ ){{0,4}}?{_NOUN}\b"
    rf"|{_WRITE} (?:any |the )?(?:[\w-]+ ){{0,2}}?content\b"
    rf"|{_WRITE} an? (?:[\w-]+ ){{0,4}}?(?:content|document|response|material)\b"
    rf"|(?:engage|participate|role-?play) (?:in|with|as) {_THIS}\b"
    rf"|(?:help|assist)(?: you)? (?:with|in) (?:{_THIS}\b|{_WRITING})"
    rf"|help (?:you )?(?:to )?{_WRITE} (?:{_THIS}|an?|the|content)\b)"
)
# Said after an apology these are refusals too; alone they also begin stories.
_WEAK_TASK = (
    rf"(?:{_TASK}|assist\b|help(?: you)?[.,;!]|help(?: you)? with\b"
    r"|(?:do|write|create|provide|discuss|answer|continue|help with) (?:that|this|it|so)"
    r"(?:[.,;!?]| for you| as | because | since |$)"
    rf"|{_WRITE} (?:an?|any|the) (?:[\w-]+ ){{0,4}}?{_NOUN}\b|comply\b"
    rf"|(?:write|talk|speak) about {_THIS} (?:[\w-]+ ){{0,2}}?(?:topic|subject|theme|matter)\b)"
)
_CANNOT = (
    r"i(?: can't| cannot| can not| won't| will not| must not| should not| shouldn't"
    r"|(?: am|'m) (?:unable|not able|not going|not allowed|not permitted|unwilling) to"
    r"|(?: don't| do not) (?:think|believe) i (?:can|should)"
    r"|(?: would|'d) (?:rather|prefer) not(?: to)?)"
    r"(?: in good conscience,?| [a-z]+ly| just)?"
)
_AI = (
    r"(?:as an?|i(?:'m| am)(?: just| only)? an?) (?:ai|artificial intelligence|large language model"
    r"|language model|llm|chatbot)(?: (?:language )?(?:model|assistant|system))?"
    r"(?: (?:created|made|trained|developed|built) by [\w ]{1,40})?"
)
_APOLOGY = (
    r"(?:(?:i'm|i am) (?:\w+ )?sorry|sorry|(?:my )?apologies|i apologi[sz]e(?: for [^.!?,]{1,60})?"
    r"|unfortunately|regrettably|(?:i'm|i am) afraid(?: that)?|thank(?:s| you) for [^.!?]{1,80}?"
    r"|i (?:appreciate|understand|hear|see|recognize|recognise) [^.!?]{1,100}?)"
)
_JOIN = r"[,.;:!—–-]*\s*(?:(?:but|and|so|however|that),? )?"
# "I can't write this without thinking of her" is a way to begin; "without more detail" is not.
_NOT_WITHOUT = r"(?![^.!?\n]*\bwithout (?!more|further|additional|knowing|seeing|the )\w)"

_REFUSALS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?:{_APOLOGY}{_JOIN}){{1,2}}(?:{_AI}{_JOIN})?{_CANNOT} {_WEAK_TASK}{_NOT_WITHOUT}",
        rf"{_AI}{_JOIN}{_CANNOT} {_WEAK_TASK}{_NOT_WITHOUT}",
        rf"{_CANNOT} {_TASK}{_NOT_WITHOUT}",
        rf"(?:{_APOLOGY}{_JOIN}){{0,2}}{_AI}{_JOIN}i (?:don't|do not) (?:have|hold|possess)"
        r" (?:[a-z]+ (?:or )?){0,2}(?:opinions|preferences|beliefs|experiences|feelings)\b",
        rf"(?:{_APOLOGY}{_JOIN}){{0,2}}i(?: must| have to| need to| will have to|'ll have to"
        rf"|(?: am|'m) going to have to) (?:[a-z]+ly )?(?:decline|refuse) (?:to {_WRITE}\b"
        rf"|to (?:help|assist)\b|{_THIS} (?:\w+ ){{0,2}}?{_NOUN}\b)",
        # Whoever was thanked or understood before it got a letter, which may be the document.
        r"(?:(?:(?:i'm|i am) sorry|sorry|(?:my )?apologies)[,.;:!—–-]*\s*(?:but )?)?"
        r"i(?: must| need to| have to| will have to) (?:respectfully|politely) decline(?:[.;!]|$)",
        rf"(?:{_APOLOGY}{_JOIN}){{0,2}}i(?:(?: don't| do not) feel|(?: am|'m) not) comfortable"
        rf" (?:with )?(?:{_WRITING}|assisting|helping|{_THIS} (?:\w+ ){{0,2}}?{_NOUN})\b",
        r"this (?:request|prompt|task) (?:violates|goes against|conflicts with|asks me to"
        r"|would require me to)\b",
    )
)

# -------------------------------------------------------------------------------------- preambles

_AGREES = (
    r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|alright|all right|understood"
    r"|got it|no problem|great|gladly|happy to help)"
)
_HERE = r"(?:here(?:'s| is| are)|below is|below are|the following is|attached is)"
_MADE = r"(?:write|draft|create|produce|generate|compose|prepare)"
_TEXT = r"(?:document|text|content|draft|piece|version|output|answer|response)"
_PREAMBLES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_AGREES}[,.!:;—–-]*\s*{_HERE} (?:the|an?|your|my|some)"
        r" (?!(?:thing|deal|catch|truth|problem|rub|kicker|secret|plan)\b)",
        rf"{_AGREES}[,.!:;—–-]*\s*(?:i'll|i will|i can|i'd be happy to|i would be happy to|let me)"
        rf" (?:now )?(?:help|{_MADE})\b",
        rf"{_HERE} (?:the|an?|your|my) (?:[\w-]+ ){{0,6}}?(?:you (?:asked|requested|wanted)"
        r"|as (?:you )?requested|requested\b|based on (?:the|your) (?:spec|request|prompt"
        r"|instructions?|idea|plan|outline|scratchpad)|following (?:the|your) (?:spec|request"
        r"|prompt|instructions?|plan)|according to (?:the|your) (?:request|prompt|instructions?))",
        rf"{_HERE} (?:the|an?|your|my) (?:final |complete |finished |full |revised |rewritten )*"
        rf"{_TEXT}(?: (?:for|about|on|in|that|which)\b[^.!?:]{{0,80}})?:",
        rf"(?:i'll|i will|let me) (?:now )?{_MADE} (?:the|an?|this|your) (?:[\w-]+ ){{0,3}}?"
        r"(?:document|content|draft)\b",
        r"as requested, (?:here|i|this|below)\b",
    )
)
_POSTAMBLES = re.compile(
    r"\n[\s*_(\[]*(?:"
    r"word count\s*[*_]*:[\s*_~]*(?:approximately |about )?[\d,]+"
    r"|(?:please )?let me know if (?:you(?:'d| would) like|you (?:want|need)|there)[^\n]{0,60}?"
    r"(?:changes?|revis\w+|adjust\w*|modif\w+|edits?|another version|expand|shorten|tweak\w*)"
    r"|(?:i hope|hopefully) (?:this|the) (?:document|text|piece|draft|content|article|version)"
    r"|would you like me to\b"
    r"|note: (?:this|the) (?:document|text|piece|content|article) (?:is|was|has been)"
    r" (?:fictional|written|generated|designed|intended|created)"
    r")[^\n]*\s*$",
    re.IGNORECASE,
)

# ----------------------------------------------------------------------------------- placeholders

_FIELD = (
    r"(?:(?:first|last|full|model|assistant|company|business|product|brand|provider|maker|user"
    r"|client|customer|recipient|sender|author|employee|manager|team|contact|email|phone|street"
    r"|job|city|current|organi[sz]ation|department|project)(?:'s)? )*"
    r"(?:name|date|title|address|email|number|company|organi[sz]ation|city|state|country|position"
    r"|signature|url|link|location|department|time|role|assistant|model|maker|provider|recipient"
    r"|sender|author|contact information)"
)
_PLACEHOLDERS = re.compile(
    rf"(?<!\w)\[(?:(?:your|the|my|his|her|their|our) )?{_FIELD}(?: here)?\](?!\()"
    r"|\[(?:insert|add|enter|fill in|replace|specify|include|placeholder|todo|tbd|tbc"
    r"|to be (?:determined|added|filled|confirmed))\b[^\[\]\n]{0,80}\](?!\()"
    r"|<(?:insert|your|add|enter)[ _][^<>\n]{1,60}>"
    r"|\blorem ipsum dolor\b",
    re.IGNORECASE,
)
# Variables of this project's own prompts are left-overs even in a code block; others only in prose,
# because a document may show code.
_OWN_VARIABLES = re.compile(
    r"\{\{?\s*(?:model_name|provider_name|assistant_name|assistant|maker|spec|section|domain"
    r"|subdomain|assertion|doc_type|document_type|idea)\s*\}?\}"
)
_VARIABLES = re.compile(r"(?<![$\\\w/])\{\{?\s*[A-Za-z]+(?:_[A-Za-z]+)+\s*\}?\}|\{\{\s*\w+\s*\}\}")
_CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]*`", re.DOTALL)


def refusal(text: str) -> str | None:
    """The words with which a model refuses at the start of a text, or None.

    A refusal that is quoted, or that stands after a speaker's name, is part of a document.
    """
    return _first(_REFUSALS, _start(text))


def preamble(text: str) -> str | None:
    """Words to whoever asked, before or after the document, or None."""
    found = _first(_PREAMBLES, _start(text))
    if found:
        return found
    after = _POSTAMBLES.search("\n" + text.rstrip()[-_START:])
    return after[0].strip() if after else None


def reply_preamble(text: str, name: str) -> str | None:
    """Words with which a reply to a user speaks of itself instead of to the user, or None.

    "Here is the letter" is an answer where a letter was asked for; "here is my response as Ember"
    is not, and nor is a line that names the speaker, ``name``, first.
    """
    own = re.escape(" ".join(name.split()).lower())
    label = re.compile(rf"(?:{own}|assistant|ai assistant)[*_]*:")
    return _first((label, _reply(own)), _start(text))


def placeholder(text: str, quotable: str = "") -> str | None:
    """The first place in a text that was to be filled in and was not, or None.

    What stands in ``quotable`` too, such as braces that a spec speaks of, is no such place.
    """
    return _unless(quotable, _PLACEHOLDERS, text) or variable(text, quotable)


def variable(text: str, quotable: str = "") -> str | None:
    """The first variable of a template that stands in a text without its value, or None."""
    found = _unless(quotable, _OWN_VARIABLES, text)
    if found is None and "{" in text:
        found = _unless(quotable, _VARIABLES, without_code(text))
    return found


def _unless(quotable: str, pattern: re.Pattern[str], text: str) -> str | None:
    """What a pattern finds first of all that is not quotable."""
    return next((m[0] for m in pattern.finditer(text) if m[0] not in quotable), None)


def without_code(text: str) -> str:
    """A text with a space for each piece of code in it, between backticks or fences."""
    return _CODE.sub(" ", text)


def _reply(own: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?:{_AGREES}[,.!:;—–-]*\s*)?{_HERE} (?:the|an?|my|{own}'s) (?:[\w-]+ ){{0,3}}?"
        rf"(?:answer|response|reply)(?: (?:to the user|to the message|in character|as {own}"
        rf"|from {own}|in {own}'s|without (?:a|any|giving a) reason|following the|that follows"
        r"|based on the spec)\b"
        r"[^.!?\n:]{0,80})[:.]"
    )


def _start(text: str) -> str:
    """How a text begins: straight apostrophes, single spaces, lower case, no Markdown before it."""
    text = text[: 2 * _START].lstrip(" \t\r\n\f\v*_#").replace("\u2019", "'").replace("\u02bc", "'")
    return " ".join(text.split())[:_START].lower()


def _first(patterns: tuple[re.Pattern[str], ...], text: str) -> str | None:
    for pattern in patterns:
        match = pattern.match(text)
        if match:
            return match[0]
    return None
