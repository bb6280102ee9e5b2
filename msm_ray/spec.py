"""Specs: Markdown in, sections and preferences with stable ids out.

A section is a heading (``#`` to ``######``) with the text below it, verbatim, up to the next
heading. A preference is a bullet of the form ``- prefers X to Y, because REASON`` (or ``X over
Y``). Nothing else is markup here: braces and tables are text, and so is all of a fenced code block.

Ids are hashes of what they name. A section's id is that of its heading and text, a preference's
that of its words, so editing, adding or moving other parts leaves them alone; only where the same
is said twice does the second one's id also count that it is the second.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from msm_ray.errors import UserError
from msm_ray.records import Preference, Spec, SpecSection

MAX_BYTES = 4 * 2**20  # a spec is prose: more than this is some other file
ID_DIGITS = 16

_HEADING = re.compile(r"^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$")
_BULLET = re.compile(r"^\s*[-*+][ \t]+(.*)$")
_PREFERS = re.compile(
    r"^(?:.*?\b)?prefers?\s+(?P<liked>.+?)\s+(?:to|over)\s+(?P<disliked>.+?)\s*"
    r"[,;:.]?\s+because\s+(?P<reason>.+?)$",
    re.IGNORECASE | re.DOTALL,
)


def read_spec(source: str | Path) -> Spec:
    """Read a spec from a file (``Path``) or from its text (``str``).

    Raises:
        UserError: the file cannot be read, is empty, binary or too large, or states no preference.
    """
    name = str(source) if isinstance(source, Path) else "spec text"
    data = _read(source, name) if isinstance(source, Path) else source.encode("utf-8")
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
        raise UserError(f"{name}: is empty; a spec is Markdown that states preferences")
    spec = _parse(text, Path(name).stem if isinstance(source, Path) else "spec")
    if not spec.preferences:
        raise UserError(
            f"{name}: states no preference; write at least one bullet of the form "
            "'- prefers X to Y, because REASON'"
        )
    return spec


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


def _parse(text: str, default_title: str) -> Spec:
    sections: list[SpecSection] = []
    seen: dict[str, int] = {}
    preferred: dict[str, int] = {}
    for level, heading, body in _split(text):
        if not heading and not body.strip():
            continue  # nothing before the first heading
        # A length keeps "a" + "bc" apart from "ab" + "c".
        key = f"{level}\n{len(heading)}\n{heading}\n{body.strip()}"
        preferences = _preferences(body, preferred)
        sections.append(SpecSection(_id(key, seen), heading, level, body, preferences))
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


def _split(text: str) -> list[tuple[int, str, str]]:
    """``(level, heading, text below)``; what comes before the first heading has level 0, ``""``."""
    parts: list[tuple[int, str, list[str]]] = [(0, "", [])]
    for line, fenced in _lines(text):
        heading = None if fenced else _HEADING.match(line.rstrip("\n"))
        if heading is not None:
            parts.append((len(heading[1]), (heading[2] or "").strip(), []))
        else:
            parts[-1][2].append(line)
    return [(level, heading, "".join(lines)) for level, heading, lines in parts]


def _preferences(text: str, seen: dict[str, int]) -> tuple[Preference, ...]:
    found: list[Preference] = []
    for bullet in _bullets(text):
        match = _PREFERS.match(bullet)
        if match is None:
            continue
        liked, disliked, reason = (_words(match[name]) for name in ("liked", "disliked", "reason"))
        reason = reason.rstrip(".")
        if not (liked and disliked and reason):
            continue
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
