"""A job file from a job: what a search found, as a file that ``msm run`` takes.

Every value that differs from its default is written out; what is long and stands in several places
is a constant. Reading the file gives an equal job.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from msm_ray.errors import UserError
from msm_ray.world.bases import BASES, base_dir

WIDTH = 100
INDENT = 4
LONG = 70  # characters: what is shorter is written again instead of named
_FOLDER = re.compile(r"base-(\d+)(?:-attributes-(\d+))?")
_NAME = re.compile(r"[a-z][a-z0-9_]*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class _Group:
    """Something in brackets; ``parts``: (what stands before a part, as ``name=``, the part)."""

    opening: str
    parts: tuple[tuple[str, _Node], ...]
    closing: str
    name: str  # of a constant that holds it

    @cached_property
    def flat(self) -> str:
        """On one line."""
        inner = ", ".join(before + _flat(part) for before, part in self.parts)
        comma = "," if self.opening == "(" and len(self.parts) == 1 else ""
        return f"{self.opening}{inner}{comma}{self.closing}"


@dataclass(frozen=True)
class _Text:
    """A text, which may have to be broken."""

    value: str

    @property
    def flat(self) -> str:
        return _quoted(self.value)


_Node = _Group | _Text | str


def job_source(job: Any, title: str = "") -> str:
    """The source of a job file whose ``experiment()`` returns a job equal to ``job``.

    Args:
        job: a frozen dataclass of such, tuples, lists, mappings, texts, numbers, booleans, None.
        title: the file's first line; the job's own title where there is none.

    Raises:
        UserError: some field holds a value of another kind, or a number that is not finite.
    """
    if not dataclasses.is_dataclass(job) or isinstance(job, type):
        raise UserError(f"the job is {type(job).__name__}; allowed is a frozen dataclass")
    writer = _Writer()
    tree = writer.node(job, "")
    names = _constants(tree, set(writer.imported.values()))
    said = title or str(getattr(job, "title", "") or type(job).__name__)
    lines = [_docstring(said), "", *writer.imports(), ""]
    for text, (name, group) in names.items():
        others = {t: n for t, (n, _) in names.items() if t != text}
        lines += [f"{name} = {_laid_out(group, 0, len(name) + 3, 0, others)}"]
    lines += [""] if names else []
    alias = writer.imported[type(job).__module__, type(job).__qualname__]
    constants = {text: name for text, (name, _) in names.items()}
    lines += ["", f"def experiment() -> {alias}:"]
    lines += ['    """Every value that differs from its default."""']
    lines += [f"    return {_laid_out(tree, INDENT, len('return '), 0, constants)}", "", ""]
    lines += ['if __name__ == "__main__":', "    from msm_ray.cli import job_main", ""]
    lines += ["    job_main(experiment)", ""]
    return "\n".join(lines)


class _Writer:
    """Turns values into trees, and notes what they need imported."""

    def __init__(self) -> None:
        self.imported: dict[tuple[str, str], str] = {}  # (module, name) -> what it is called here

    def node(self, value: Any, where: str) -> _Node:
        """``where``: the field's name from the job on, for errors."""
        if value is None or isinstance(value, bool):
            return str(value)
        kind = type(value)
        if kind is int:
            return f"{value:_}" if abs(value) >= 10_000 else str(value)
        if kind is float:
            if not math.isfinite(value):
                raise UserError(f"{where}: {value} cannot be written to a job file")
            return _number(value)
        if kind is str:
            return self._base(value) or _Text(value)
        if dataclasses.is_dataclass(kind):
            return self._record(value, where)
        named = [part for part in where.split(".") if _NAME.fullmatch(part)]
        name = named[-1].upper() if named else "VALUES"
        if isinstance(value, Mapping):
            parts = [
                (f"{_flat(self.node(k, where))}: ", self.node(v, _below(where, k)))
                for k, v in value.items()
            ]
            return _Group("{", tuple(parts), "}", name)
        if kind in (tuple, list):
            opening, closing = "()" if kind is tuple else "[]"
            items = tuple(("", self.node(v, _below(where, i))) for i, v in enumerate(value))
            return _Group(opening, items, closing, name)
        raise UserError(f"{where}: a {kind.__name__} cannot be written to a job file")

    def _record(self, value: Any, where: str) -> _Group:
        kind = type(value)
        alias = self._import(kind.__module__, kind.__qualname__, kind, where)
        fields = [f for f in dataclasses.fields(value) if f.init]
        parts: list[tuple[str, _Node]] = []
        for field in fields:
            known = dict(self.imported)
            given = self.node(getattr(value, field.name), _below(where, field.name))
            if _flat(given) != self._default(field):
                parts.append((f"{field.name}=", given))
            else:
                self.imported = known  # what is left out imports nothing
        if [before for before, _ in parts] == [f"{fields[0].name}="] and not fields[0].kw_only:
            text = parts[0][1]  # one text is what the thing is called: Pairs("america")
            parts = [("", text)] if isinstance(text, _Text) else parts
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).upper()
        return _Group(f"{alias}(", tuple(parts), ")", name)

    def _default(self, field: dataclasses.Field[Any]) -> str | None:
        """A field's default as it would be written; None where it has none."""
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            return None
        known = dict(self.imported)
        text = _flat(self.node(default, field.name))
        self.imported = known
        return text

    def _import(self, module: str, name: str, value: Any, where: str) -> str:
        """What ``value`` is called in the file."""
        if (module, name) not in self.imported:
            try:
                there = getattr(importlib.import_module(module), name, None)
            except ImportError:
                there = None
            if there is not value:
                raise UserError(f"{where or 'the job'}: {name} cannot be imported from {module}")
            taken = set(self.imported.values())
            spare = (f"{name}{n}" for n in range(2, len(taken) + 3))
            alias = next(n for n in (name, *spare) if n not in taken)
            self.imported[module, name] = alias
        return self.imported[module, name]

    def _base(self, text: str) -> _Node | None:
        """The call that gives the path of a packaged base model, if ``text`` is one."""
        name = _FOLDER.fullmatch(Path(text).name)
        if name is None or Path(text) != BASES / name[0]:
            return None
        alias = self._import("msm_ray.world.bases", "base_dir", base_dir, "")
        attributes = f", attributes={name[2]}" if name[2] else ""
        return f"str({alias}({name[1]}{attributes}))"

    def imports(self) -> list[str]:
        """Import statements in their order."""
        of: dict[str, list[str]] = {}
        for (module, name), alias in self.imported.items():
            of.setdefault(module, []).append(name if alias == name else f"{name} as {alias}")
        lines = []
        for module in sorted(of):
            names = sorted(of[module], key=_import_order)
            line = f"from {module} import {', '.join(names)}"
            if len(line) > WIDTH:
                inner = "".join(f"    {name},\n" for name in names)
                line = f"from {module} import (\n{inner})"
            lines.append(line)
        return lines


def _import_order(name: str) -> tuple[int, str]:
    """Constants, classes, functions, as ruff sorts them."""
    own = name.split(" ")[0]
    kind = 0 if len(own) > 1 and own.isupper() else 1 if own[0].isupper() else 2
    return kind, own.lower()


def _below(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


# ----------------------------------------------------------------------------------- constants


def _constants(tree: _Node, taken: set[str]) -> dict[str, tuple[str, _Group]]:
    """What stands in several places and is long: its text -> (name, group), inner ones first."""
    found: dict[str, _Group] = {}
    count: Counter[str] = Counter()
    for group in _groups(tree, set()):
        count[group.flat] += 1
        found.setdefault(group.flat, group)
    names: dict[str, tuple[str, _Group]] = {}
    for text, group in sorted(found.items(), key=lambda pair: len(pair[0])):
        if count[text] > 1 and len(text) > LONG:
            numbered = (f"{group.name}_{n}" for n in range(2, len(names) + 3))
            name = next(n for n in (group.name, *numbered) if n not in taken)
            taken.add(name)
            names[text] = name, group
    return names


def _groups(node: _Node, met: set[str]) -> Iterator[_Group]:
    """Every group; what is inside one that was met before is not met again."""
    if isinstance(node, _Group):
        yield node
        if (text := node.flat) not in met:
            met.add(text)
            for _, part in node.parts:
                yield from _groups(part, met)


# -------------------------------------------------------------------------------------- layout


def _flat(node: _Node) -> str:
    return node if isinstance(node, str) else node.flat


def _laid_out(node: _Node, indent: int, before: int, after: int, names: Mapping[str, str]) -> str:
    """Source of a node on as many lines as it takes.

    Args:
        indent: of the line on which it begins.
        before: characters that stand there already, behind the indent.
        after: characters that follow it on its last line.
        names: of constants, by their text.
    """
    text = _named(node, names)
    if indent + before + len(text) + after <= WIDTH or isinstance(node, str):
        return text
    if isinstance(node, _Group) and node.flat in names:
        return text
    inner = " " * (indent + INDENT)
    if isinstance(node, _Text):
        pieces = _pieces(node.value, WIDTH - indent - INDENT)
        return "(\n" + "".join(f"{inner}{piece}\n" for piece in pieces) + " " * indent + ")"
    lines = [
        f"{inner}{name}{_laid_out(part, indent + INDENT, len(name), 1, names)},\n"
        for name, part in node.parts
    ]
    return f"{node.opening}\n{''.join(lines)}{' ' * indent}{node.closing}"


def _named(node: _Node, names: Mapping[str, str]) -> str:
    """On one line, with the constants' names."""
    if not isinstance(node, _Group):
        return _flat(node)
    if node.flat in names:
        return names[node.flat]
    inner = ", ".join(before + _named(part, names) for before, part in node.parts)
    comma = "," if node.opening == "(" and len(node.parts) == 1 else ""
    return f"{node.opening}{inner}{comma}{node.closing}"


def _pieces(text: str, width: int) -> list[str]:
    """A long text as literals of at most ``width`` characters, broken before spaces and slashes."""
    pieces, rest = [], text
    while len(_quoted(rest)) > width:
        room = max(1, width - 2)
        while room > 1 and len(_quoted(rest[:room])) > width:
            room -= 1
        at = max(rest.rfind(" ", 1, room + 1), rest.rfind("/", 1, room + 1))
        at = at if at > 0 else room
        pieces.append(_quoted(rest[:at]))
        rest = rest[at:]
    return [*pieces, _quoted(rest)]


def _quoted(text: str) -> str:
    """A literal in double quotes, or in single ones where that needs fewer backslashes."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    known = {"\\": "\\\\", quote: f"\\{quote}"}
    return quote + "".join(known.get(c) or (repr(c)[1:-1] if c != "'" else c) for c in text) + quote


def _number(value: float) -> str:
    """The text that a person would write: 0.05, 1e-4, 8.03e9."""
    plain = repr(value)
    if 1e-3 < abs(value) < 1e5 or value == 0:
        return plain
    digits, _, power = f"{value:e}".partition("e")
    digits = next(
        d for d in (f"{value:.{n}e}".partition("e")[0] for n in range(18))
        if float(f"{d}e{power}") == value or len(d) > 18
    )  # fmt: skip
    short = f"{digits}e{int(power)}"
    return short if float(short) == value and len(short) < len(plain) else plain


def _docstring(title: str) -> str:
    said = " ".join(title.replace("\\", "/").replace('"', "'").split()) or "A job."
    lines = textwrap.wrap(said, WIDTH - 6)
    return '"""' + "\n".join(lines) + ('"""' if len(lines) == 1 else '\n"""')
