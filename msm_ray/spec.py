"""Specs: Markdown in, sections, preferences and rules with stable ids out.

A section is a heading (``#`` to ``######``) with the text below it, verbatim, up to the next
heading. A preference is a bullet of the form ``- prefers X to Y, because REASON`` (or ``X over
Y``). A rule is a numbered paragraph, list item or heading (see `rules`). Nothing else is markup
here: braces and tables are text, and so is all of a fenced code block.

Ids are hashes of what they name. A section's id is that of its heading and text, a preference's and
a rule's that of its words, so editing, adding or moving other parts leaves them alone; only where
the same is said twice does the second one's id also count that it is the second.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from msm_ray.errors import UserError
from msm_ray.records import Preference, Rule, Spec, SpecSection

MAX_BYTES = 4 * 2**20  # a spec is prose: more than this is some other file
ID_DIGITS = 16

_PLACEHOLDER = re.compile(r"\{(model_name|provider_name)\}")
_BREAK = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_HEADING = re.compile(r"^ {0,3}(#{1,6})(?:[ \t]+(.*))?$")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$")
_BULLET = re.compile(r"^\s*[-*+][ \t]+(.*)$")
# Three searches, each from where the last one ended: one expression for all would try every split.
_PREFERS = re.compile(r"\bprefers? ", re.IGNORECASE)
_OVER = re.compile(r" (?:to|over) ", re.IGNORECASE)
_BECAUSE = re.compile(r" ?[,;:.]? because ", re.IGNORECASE)

# A rule's label and the marks around it: a name ("R3", "Rule 4", "S-12"), which a mark must close
# unless it stands in a heading, or a number ("1.", "1.2", "(7)").
_OPEN = r"^(?P<indent>[ \t]*)(?P<bullet>[-*+][ \t]+)?(?P<open>(?:\*\*|__|\[|\()*)"
_DIGITS = r"(?P<number>\d{1,4}(?:\.\d{1,4})*)"
_NOUN = r"(?i:rule|principle|policy|article|guideline)[ \t]+"
_NAME = rf"(?P<label>(?:{_NOUN}|[A-Z]{{1,2}}-?){_DIGITS}[a-z]?)"
_BOLD_END = r"[.:)\]]*(?:\*\*|__)[.:)]?"
_NAMED = re.compile(
    rf"{_OPEN}{_NAME}(?P<close>{_BOLD_END}|[.:)\]]+|[ \t]*[–—]|[ \t]+-(?=[ \t]))(?=\s|[^\W\d]|$)"
)
_NAMED_HEADING = re.compile(rf"{_OPEN}{_NAME}(?P<close>)(?=\W|$)")
_NUMBER = re.compile(rf"{_OPEN}(?P<label>{_DIGITS})(?P<close>{_BOLD_END}|[.:)\]]*)(?=\s|$)")


def read_spec(source: str | Path, *, title: str = "") -> Spec:
    """Read a spec from a file (``Path``) or from its text (``str``).

    ``title`` is that of a spec without any heading; by default the file's name, or "spec". A spec
    need not state preferences or rules: who needs them asks for them.

    Raises:
        UserError: the file cannot be read, is empty, binary or too large.
    """
    name = str(source) if isinstance(source, Path) else "spec text"
    data = _read(source, name) if isinstance(source, Path) else _encode(source, name)
    if len(data) > MAX_BYTES:
        size = len(data) / 2**20
        raise UserError(f"{name}: {size:.1f} MiB; a spec is at most {MAX_BYTES // 2**20} MiB")
    if b"\0" in data:
        raise UserError(f"{name}: is binary; a spec is Markdown text in UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}: is not UTF-8 text (byte {error.start}); a spec is Markdown text in UTF-8"
        ) from None
    # One form of line end, so that a checkout on another system is the same spec.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise UserError(f"{name}: is empty; a spec is Markdown that says how an assistant behaves")
    return _parse(text, title or (Path(name).stem if isinstance(source, Path) else "spec"))


def fill(spec: Spec, name: str, maker: str) -> Spec:
    """The spec with the assistant's name and its maker in the place of the placeholders.

    ``{model_name}`` and ``{provider_name}`` are the only ones, and are replaced in one pass: what
    stands in ``name`` or ``maker`` is text, and so are all other braces. A spec without them comes
    back as it is, with the same ids.

    Raises:
        UserError: the spec has a placeholder and nothing, or more than a line, to put there.
    """
    values = {"model_name": name, "provider_name": maker}
    for placeholder in sorted(set(_PLACEHOLDER.findall(spec.text))):
        value = values[placeholder]
        if not is_line(value):
            what = "the assistant's name" if placeholder == "model_name" else "its maker"
            raise UserError(
                f"spec {spec.title!r} has {{{placeholder}}} and {what} is {value!r}; "
                "needed is text on one line"
            )
    text = _PLACEHOLDER.sub(lambda match: values[match[1]], spec.text)
    return spec if text == spec.text else _parse(text, spec.title)


def is_line(text: str) -> bool:
    """Whether ``text`` can be a name: on one line, and not blank. Marks of direction are fine."""
    return bool(text.strip()) and _BREAK.search(text) is None


def rough_tokens(text: str) -> int:
    """About how many tokens a tokenizer for many languages makes of ``text``.

    Four characters of ASCII a token, and a token for each other letter: near enough for English,
    too many for most other languages, so that what is said to fit does.
    """
    ascii_characters = len(text.encode("ascii", "ignore"))
    return math.ceil(ascii_characters / 4) + len(text) - ascii_characters


def check_size(spec: Spec, tokens: int) -> None:
    """UserError if the spec has more than about ``tokens`` tokens: it is read whole or not."""
    found = rough_tokens(spec.text)
    if found > tokens:
        raise UserError(
            f"spec {spec.title!r} has about {found:,} tokens; allowed are {tokens:,}, since every "
            "prompt holds the whole spec: shorten it, or raise the limit if the model's context "
            "is longer"
        )


def _read(path: Path, name: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{name}: is a directory; a spec is one Markdown file") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None


def _encode(text: str, name: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{name}: is not valid Unicode text") from None


@lru_cache(maxsize=64)  # the stages of a search's trials read one spec a thousand times
def _parse(text: str, default_title: str) -> Spec:
    sections: list[SpecSection] = []
    seen: dict[str, int] = {}
    preferred: dict[str, int] = {}
    parts = _split(text)
    for part in parts:
        # A length keeps "a" + "bc" apart from "ab" + "c".
        key = f"{part.level}\n{len(part.heading)}\n{part.heading}\n{part.text.strip()}"
        # The only section of a spec without headings is called by the file's name; its id is not
        # made from that, so that the same text in another file is the same section.
        heading = part.heading if part.level or len(parts) > 1 else default_title
        preferences = _preferences(part.text, preferred)
        sections.append(SpecSection(_id(key, seen), heading, part.level, part.text, preferences))
    titles = [s.heading for s in sections if s.heading]
    sha256 = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return Spec(
        id=sha256[:ID_DIGITS],
        title=titles[0] if titles else default_title,
        text=text,
        sha256=sha256,
        sections=tuple(sections),
    )


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Each line with its end, and whether it belongs to a fenced code block."""
    fence = ""
    for line in re.split(r"(?<=\n)", text):
        mark = _FENCE.match(line.rstrip("\n"))
        yield line, bool(fence or mark)
        if fence:
            if mark is not None and mark[1].startswith(fence) and not mark[2].strip():
                fence = ""
        elif mark is not None:
            fence = mark[1]


@dataclass(frozen=True)
class _Part:
    """A heading and the text below it: ``Spec.text[start:end]``, heading line and all."""

    level: int  # 0: the text before the first heading
    heading: str
    text: str
    start: int
    end: int


def _split(text: str) -> list[_Part]:
    """The parts of a spec; empty ones without a heading are left out."""
    heads: list[tuple[int, str, int, int]] = [(0, "", 0, 0)]  # level, heading, start, text's start
    position = 0
    for line, fenced in _lines(text):
        mark = None if fenced else _HEADING.match(line.rstrip("\n"))
        if mark is not None:
            heads.append((len(mark[1]), _title(mark[2] or ""), position, position + len(line)))
        position += len(line)
    ends = [start for _, _, start, _ in heads[1:]] + [len(text)]
    return [
        _Part(level, heading, text[body:end], start, end)
        for (level, heading, start, body), end in zip(heads, ends, strict=True)
        if heading or text[body:end].strip()
    ]


def _title(text: str) -> str:
    """A heading's words; the hashes that may close it are no part of them."""
    text = text.strip(" \t")
    words = text.rstrip("#")
    return (words if not words or words[-1] in " \t" else text).strip()


def _preferences(text: str, seen: dict[str, int]) -> tuple[Preference, ...]:
    found: list[Preference] = []
    for bullet in _bullets(text):
        line = " ".join(bullet.split())
        if not (prefers := _PREFERS.search(line)):
            continue
        if not (over := _OVER.search(line, prefers.end())):
            continue
        if not (because := _BECAUSE.search(line, over.end())):
            continue
        liked = _words(line[prefers.end() : over.start()])
        disliked = _words(line[over.end() : because.start()])
        reason = _words(line[because.end() :]).rstrip(".")
        if liked and disliked and reason:
            id = _id(f"{liked}\n{disliked}\n{reason}", seen)
            found.append(Preference(id, liked, disliked, reason))
    return tuple(found)


def _bullets(text: str) -> list[str]:
    """The bullets of ``text``, each with the lines that continue it, without the mark."""
    bullets: list[list[str]] = []
    open_bullet = False
    for line, fenced in _lines(text):
        mark = None if fenced else _BULLET.match(line.rstrip("\n"))
        if mark is not None:
            bullets.append([mark[1]])
            open_bullet = True
        elif fenced or not line.strip():
            open_bullet = False
        elif open_bullet:
            bullets[-1].append(line.strip())
    return [" ".join(lines) for lines in bullets]


def _words(text: str) -> str:
    """The words alone: Markdown emphasis and doubled spaces are not part of a name."""
    return " ".join(text.replace("*", " ").replace("`", " ").split()).strip(" ,;:_")


def _id(key: str, seen: dict[str, int]) -> str:
    """The id of what says ``key``; ``seen`` counts the times it was said so far."""
    seen[key] = seen.get(key, 0) + 1
    text = key if seen[key] == 1 else f"{key}\n#{seen[key]}"
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:ID_DIGITS]


@dataclass(frozen=True)
class _Start:
    """Where a rule may begin."""

    offset: int  # in Spec.text
    end: int  # of the part, or of the parts below a heading
    section: int
    label: str
    is_named: bool


def rules(spec: Spec) -> tuple[Rule, ...]:
    """The numbered rules of a spec, in its order; none if it has none.

    A rule begins with its label at the beginning of a paragraph, a list item or a heading: ``1.``,
    ``2)``, ``1.2``, ``R3:``, ``Rule 4 -``, ``- **R5**``. It goes on to the next rule or heading, so
    that the reasons below it belong to it. Where rules have names (``R3``), the numbers after them
    are steps within a rule; and headings with bare numbers are rules only if nothing else is.
    """
    parts = _split(spec.text)
    lines = [start for i, part in enumerate(parts) for start in _line_starts(part, i)]
    heads = [start for i in range(len(parts)) for start in _heading_start(parts, i)]
    named = [s for s in (*lines, *heads) if s.is_named]
    starts = [s for s in lines if not s.is_named]
    if named:
        first = {s.section: s.offset for s in reversed(named)}
        # One name alone may be a turn of phrase in a spec of numbers.
        starts = [s for s in starts if s.offset < first.get(s.section, -1 if named[1:] else s.end)]
    starts = sorted([*named, *starts] or heads, key=lambda start: start.offset)
    found: list[Rule] = []
    seen: dict[str, int] = {}
    for i, start in enumerate(starts):
        end = min([start.end, *(following.offset for following in starts[i + 1 : i + 2])])
        text = spec.text[start.offset : end].strip("\n").rstrip()
        id = _id(f"{start.label}\n{text}", seen)
        found.append(Rule(id, start.label, text, spec.sections[start.section].id))
    return tuple(found)


def _heading_start(parts: list[_Part], index: int) -> Iterator[_Start]:
    """The heading of a part if it has a label; what it heads, deeper headings included, is its."""
    part = parts[index]
    named = _NAMED_HEADING.match(part.heading)
    match = named or _NUMBER.match(part.heading)
    if part.level and match is not None and (named or match["close"] or "." in match["number"]):
        below = (i for i in range(index + 1, len(parts)) if parts[i].level <= part.level)
        end = parts[next(below, len(parts)) - 1].end
        yield _Start(part.start, end, index, match["label"], bool(named))


def _line_starts(part: _Part, section: int) -> Iterator[_Start]:
    """The lines of a part on which a rule begins, where names and numbers are both rules."""
    offset = part.end - len(part.text)
    last: dict[bool, tuple[int, ...]] = {True: (), False: ()}  # the name and the number before
    indent = -1  # of the part's first bare number: what is further in is a list within a rule
    fresh = True  # at the beginning of a paragraph
    for line, fenced in _lines(part.text):
        match = None if fenced else (_NAMED.match(line) or _NUMBER.match(line))
        if match is not None:
            is_named = match.re is _NAMED
            number = tuple(int(n) for n in match["number"].split("."))
            before = last[is_named]
            first = fresh or bool(match["bullet"] or match["open"])
            if is_named:
                begins = first or _follows(before, number)
                begins = begins or (any(last.values()) and "." not in match["close"])
            elif len(number) > 1:
                begins = _follows(before, number) or (first and bool(match["close"] or not before))
            else:
                depth = len(match["indent"].expandtabs(4))
                begins = bool(match["close"]) and (first or bool(before) or number == (1,))
                begins = begins and (indent < 0 or depth <= indent + 1)
                indent = depth if begins and indent < 0 else indent
            if begins:
                last[is_named] = number
                yield _Start(offset, part.end, section, match["label"], is_named)
        fresh = fenced or not line.strip()
        offset += len(line)


def _follows(last: tuple[int, ...], number: tuple[int, ...]) -> bool:
    """Whether ``number`` may come next after ``last``: 1.2 -> 1.2.1, 1.3, 2 or 2.1, not 2.5."""
    if not last:
        return False
    for i, (before, now) in enumerate(zip(last, number, strict=False)):
        if before != now:
            return 0 < now - before <= 3 and all(n <= 1 for n in number[i + 1 :])
    return len(number) > len(last) and number[-1] <= 2
