"""From a job file to the frozen experiment it describes, with ``--set a.b=c`` applied.

A job file is a Python file that defines ``experiment()``; what that returns is a frozen dataclass
that knows how to run and to preview itself (:class:`Job`). A setting names one field in the tree
of dataclasses below it and gives its new value as text; the value is read by the type that the
field declares. All settings are applied together, so that two fields that must agree with each
other can be changed in one command, and the checks in ``__post_init__`` see the final values.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import importlib.util
import json
import math
import re
import sys
import traceback
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, Union, runtime_checkable

from msm_ray.errors import UserError

T = TypeVar("T")
_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
_NONE = frozenset({"none", "null"})
_INTEGER = re.compile(r"[+-]?\d+(_\d+)*")


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a finished job hands back: the report, where it lies, whether every cell is there."""

    report: dict[str, Any]
    report_json: str
    report_html: str
    complete: bool


@runtime_checkable
class Job(Protocol):
    """What ``experiment()`` of a job file returns: a frozen dataclass with these two methods."""

    def run(self, store_url: str, address: str | None = None) -> RunResult:
        """Do what is missing in the store and report; ``address`` is that of a Ray cluster."""

    def preview(self, store_url: str) -> dict[str, Any]:
        """What a run would do, without a cluster: stages, totals and what sharing saves."""


# ------------------------------------------------------------------------------------ job files


def load_job(path: str | Path) -> Job:
    """Import the job file ``path`` and return what its ``experiment()`` describes.

    Raises UserError, in one line, when the file is missing, is not Python, defines no
    ``experiment()``, raises, or returns something that is not a :class:`Job` dataclass.
    """
    file = Path(path)
    if not file.exists():
        raise UserError(f"{path}: no such job file")
    if file.suffix != ".py" or not file.is_file():
        raise UserError(f"{path}: a job is a Python file (NAME.py) that defines experiment()")
    module = _import_file(file)
    build = getattr(module, "experiment", None)
    if not callable(build):
        raise UserError(f"{path}: defines no experiment(); a job file must have that function")
    try:
        job = build()
    except (Exception, SystemExit) as error:
        raise UserError(_where(file, error)) from error
    is_record = dataclasses.is_dataclass(job) and not isinstance(job, type)
    if not (is_record and isinstance(job, Job)):
        raise UserError(
            f"{path}: experiment() returned {type(job).__name__}; it must return an experiment"
            " (a dataclass with run() and preview())"
        )
    return job


def _import_file(file: Path) -> types.ModuleType:
    """Import ``file`` the way ``python file`` would: its folder is the first to import from."""
    name = "msm_job_" + re.sub(r"\W", "_", file.stem)
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while the class is made
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(_where(file, error)) from error
    return module


def _where(file: Path, error: BaseException) -> str:
    """``FILE line N: ExceptionType: message``, N being the innermost line in the job file."""
    here = str(file.resolve())
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == here]
    if isinstance(error, SyntaxError) and error.filename == here:
        lines, message = [error.lineno], error.msg
    else:
        message = " ".join(str(error).split())
    line = f" line {lines[-1]}" if lines else ""
    if isinstance(error, UserError):
        return f"{file}{line}: {message}"
    return f"{file}{line}: {type(error).__name__}: {message}".rstrip(": ")


# ------------------------------------------------------------------------------------- settings


def apply_settings(job: T, settings: Sequence[str]) -> T:
    """Return ``job`` with every ``name.name=value`` of ``settings`` in place; ``job`` is unchanged.

    A name is a field of a dataclass, an index or ``name`` of an element of a tuple, or a key of a
    mapping. When one name is given twice the last value counts; otherwise the order is of no
    importance. Raises UserError that names the setting, what was given and what is allowed.

    A job that gives some of its values itself (a search its axes') says so in ``varied``: their
    names, and what to set instead. Setting one of those would change nothing, and is refused.
    """
    varied = {_resolve(job, n)[0]: to for n, to in getattr(job, "varied", {}).items()}
    values: dict[tuple[str | int, ...], tuple[str, Any]] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not all(name.split(".")):
            raise UserError(f"--set {setting!r}: write it as name.name=value")
        path, declared = _resolve(job, name, text)
        if path in varied:
            raise UserError(f"--set {name}: the job varies it itself; set {varied[path]} instead")
        try:
            values[path] = (name, parse_value(text, declared))
        except ValueError as error:
            raise UserError(f"--set {name}={text}: {error}") from error
    if not values:
        return job
    rebuilt: T = _rebuild(job, values)
    return rebuilt


def setting_names(job: Any) -> list[str]:
    """Every name that ``--set`` accepts for ``job``, in the order of the fields."""
    return [".".join(path) for path in _leaves(job)]


def declared_type(job: Any, name: str) -> Any:
    """The type that the field ``name`` of ``job`` declares.

    Raises UserError where there is no such setting, or where it is a group of settings.
    """
    return _resolve(job, name)[1]


def parse_value(text: str, declared: Any) -> Any:
    """Read ``text`` as a value of the type ``declared``; ValueError says what is allowed.

    Knows bool, int (also 1_000 and 1e6), float (finite), str, Path, Literal, enums, optional and
    union types, tuples and lists (``a,b`` or JSON), mappings (JSON).
    """
    origin = typing.get_origin(declared)
    if origin is typing.Annotated:
        return parse_value(text, typing.get_args(declared)[0])
    if origin is Literal:
        return _parse_choice(text, {str(a): a for a in typing.get_args(declared)})
    if origin in (Union, types.UnionType):
        return _parse_union(text, typing.get_args(declared))
    if isinstance(declared, type) and issubclass(declared, enum.Enum):
        by_value = {str(member.value): member for member in declared}
        by_name = {member.name: member for member in declared}
        return (by_value | by_name).get(text.strip()) or _parse_choice(text, by_name)
    container = origin or declared
    if container in (tuple, list, Sequence):
        return _parse_sequence(text, declared)
    if container in (dict, Mapping):
        return _parse_mapping(text, typing.get_args(declared))
    return _parse_scalar(text, declared)


def _parse_scalar(text: str, declared: Any) -> Any:
    word = text.strip()
    if declared is bool:
        if word.lower() in _TRUE | _FALSE:
            return word.lower() in _TRUE
        raise ValueError("must be true or false")
    if declared is int:
        if _INTEGER.fullmatch(word):
            return int(word)
        number = _finite(word)
        if number is None or not number.is_integer():
            raise ValueError("must be a whole number")
        return int(number)
    if declared is float:
        number = _finite(word)
        if number is None:
            raise ValueError("must be a number")
        return number
    if declared in (str, Path):
        return declared(text)
    if declared is type(None):
        if word.lower() in _NONE:
            return None
        raise ValueError("must be none")
    raise ValueError(f"a field of type {_type_name(declared)} cannot be set on the command line")


def _finite(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _parse_choice(text: str, allowed: Mapping[str, Any]) -> Any:
    if text.strip() in allowed:
        return allowed[text.strip()]
    raise ValueError(f"must be one of {', '.join(allowed)}")


def _parse_union(text: str, members: Sequence[Any]) -> Any:
    # str takes any text, so it is asked last: `int | str` reads 3 as a number.
    reasons = []
    for member in sorted(members, key=lambda m: (m is str, m is not type(None))):
        try:
            return parse_value(text, member)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(", or ".join(reversed(reasons)))


def _parse_sequence(text: str, declared: Any) -> Any:
    body = text.strip()
    if body[:1] + body[-1:] in ("()", "[]"):
        body = body[1:-1]
    parts = [p.strip().strip("\"'") for p in body.split(",")] if body.strip() else []
    if len(parts) > 1 and parts[-1] == "":
        parts.pop()  # the trailing comma of a one-element tuple
    args = typing.get_args(declared)
    container = typing.get_origin(declared) or declared
    kind = list if container is list else tuple
    if not args:
        raise ValueError(
            f"a field of type {_type_name(declared)} cannot be set on the command line"
        )
    if kind is tuple and container is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        if len(parts) != len(args):
            raise ValueError(f"must be {len(args)} values with commas between them")
        return tuple(parse_value(p, a) for p, a in zip(parts, args, strict=True))
    return kind(parse_value(p, args[0]) for p in parts)


def _parse_mapping(text: str, args: Sequence[Any]) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError('must be a JSON object, such as {"name": 1}')
    if len(args) < 2 or args[1] is Any:
        return value
    return {
        k: parse_value(v if isinstance(v, str) else json.dumps(v), args[1])
        for k, v in value.items()
    }


def _type_name(declared: Any) -> str:
    return declared.__name__ if isinstance(declared, type) else str(declared)


# ----------------------------------------------------------------------- walking and rebuilding


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _children(node: Any) -> list[tuple[str, str | int, Any, Any]]:
    """(spelling, canonical key, value, declared type) of everything directly below ``node``."""
    if _is_record(node):
        hints = typing.get_type_hints(type(node), include_extras=True)
        return [
            (f.name, f.name, getattr(node, f.name), hints[f.name])
            for f in dataclasses.fields(node)
            if f.init and not f.name.startswith("_")
        ]
    if isinstance(node, Mapping):
        return [(str(k), k, v, type(v)) for k, v in node.items() if isinstance(k, str)]
    if isinstance(node, tuple):
        names = [getattr(v, "name", None) for v in node]
        spelled = [n if isinstance(n, str) and n and "." not in n else None for n in names]
        unique = [n if n is not None and spelled.count(n) == 1 else None for n in spelled]
        return [(unique[i] or str(i), i, v, type(v)) for i, v in enumerate(node)]
    return []


def _leaves(node: Any) -> Iterator[tuple[str, ...]]:
    for spelling, _, value, _ in _children(node):
        below = list(_leaves(value)) if not isinstance(value, tuple) or _has_records(value) else []
        if below:
            yield from ((spelling, *path) for path in below)
        elif not _is_record(value):
            yield (spelling,)


def _has_records(value: tuple[Any, ...]) -> bool:
    return any(_is_record(v) for v in value)


def _resolve(job: Any, name: str, text: str = "") -> tuple[tuple[str | int, ...], Any]:
    """The canonical path of ``name`` below ``job`` and the type its field declares.

    A group of settings can only be set to none, and only where it may be missing.
    """
    node: Any = job
    declared: Any = type(job)
    path: list[str | int] = []
    for part in name.split("."):
        for spelling, key, value, type_ in _children(node):
            if part == spelling or (isinstance(key, int) and part == str(key)):
                path.append(key)
                node, declared = value, type_
                break
        else:
            if node is None and (record := _record_type(declared)) is not None:
                raise UserError(_is_none(name, ".".join(map(str, path)), record))
            raise UserError(_unknown(job, name, part, node))
    may_miss = type(None) in typing.get_args(declared) and text.strip().lower() in _NONE
    if not may_miss and (_is_record(node) or (isinstance(node, tuple) and _has_records(node))):
        below = ", ".join(f"{name}.{spelling}" for spelling, *_ in _children(node))
        raise UserError(f"--set {name}: that is a group of settings; set one of {below}")
    return tuple(path), declared


def _record_type(declared: Any) -> type | None:
    """The dataclass of an optional group of settings."""
    for member in typing.get_args(declared):
        if isinstance(member, type) and dataclasses.is_dataclass(member):
            return member
    return None


def _is_none(name: str, group: str, record: type) -> str:
    """The message for a setting below a group that is none."""
    needed = [f for f in dataclasses.fields(record) if f.default is f.default_factory]
    made = f"{record.__name__}({', '.join(f'{f.name}=...' for f in needed)})"
    return (
        f"--set {name}: {group} is none here, and one value does not make it; write"
        f" {group.rsplit('.', 1)[-1]}={made} in the job file, then its values can be set"
    )


def _unknown(job: Any, name: str, part: str, node: Any) -> str:
    """The message for a name that does not exist: near matches anywhere, then what is allowed."""
    every = setting_names(job)
    last = name.rsplit(".", 1)[-1]
    near = [n for n in every if n.rsplit(".", 1)[-1] == last]
    near = near or difflib.get_close_matches(name, every, n=3, cutoff=0.6)
    near = near or [
        n for n in every if difflib.get_close_matches(last, [n.rsplit(".", 1)[-1]], cutoff=0.75)
    ]
    hint = f"; did you mean {' or '.join(near[:3])}?" if near else ""
    allowed = ", ".join(spelling for spelling, *_ in _children(node))
    here = f"the names there are: {allowed}" if allowed else "nothing is below that name"
    return f"--set {name}: no setting {part!r}{hint}{'' if hint else ';'} {here}"


def _rebuild(node: Any, values: Mapping[tuple[str | int, ...], tuple[str, Any]]) -> Any:
    """``node`` with ``values`` (path below it -> name as given, value) in place, children first."""
    if () in values:
        return values[()][1]
    below: dict[str | int, dict[tuple[str | int, ...], tuple[str, Any]]] = {}
    for path, value in values.items():
        below.setdefault(path[0], {})[path[1:]] = value
    old = {key: value for _, key, value, _ in _children(node)}
    new = {key: _rebuild(old[key], inner) for key, inner in below.items()}
    if isinstance(node, tuple):
        return tuple(new.get(i, value) for i, value in enumerate(node))
    if isinstance(node, Mapping):
        return {**node, **new}
    try:
        return dataclasses.replace(node, **{str(k): v for k, v in new.items()})
    except ValueError as error:
        names = ", ".join(sorted(name for name, _ in values.values()))
        raise UserError(f"--set {names}: {error}") from error
