"""What a search varies, and what of it a job can take. Pure values, no Ray.

A *point* of a space is a unit coordinate in [0, 1] for each of its ``coordinates``; methods choose
points, and :meth:`Space.settings` turns one into settings by the names that ``--set`` takes.
"""

from __future__ import annotations

import enum
import itertools
import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, Union

from msm_ray.errors import UserError
from msm_ray.search.dimensions import Among, Real, Whole, check_twice
from msm_ray.search.mixture import AnyMix, Mixture, Mixtures
from msm_ray.settings import apply_settings, declared_type, parse_value

__all__ = ["Among", "Mixture", "Mixtures", "Point", "Real", "Space", "Whole", "grid"]

Point = dict[str, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Space:
    """Everything that is varied, at most once each."""

    dimensions: tuple[Real | Whole | Among | Mixture | Mixtures, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.dimensions, tuple | list):
            raise UserError(
                f"space: dimensions is {self.dimensions!r}; allowed: a tuple, a single one as (it,)"
            )
        object.__setattr__(self, "dimensions", tuple(self.dimensions))
        if not self.dimensions:
            raise UserError("space: nothing is varied; at least one dimension is needed")
        check_twice("space", "setting", list(self.names))
        mixes = [d for d in self.dimensions if isinstance(d, AnyMix)]
        check_twice("space", "source", [s for d in mixes for s in d.sources])

    @property
    def coordinates(self) -> tuple[str, ...]:
        """The names of a point's coordinates."""
        return tuple(c for d in self.dimensions for c in d.coordinates)

    @property
    def names(self) -> tuple[str, ...]:
        """The settings that a point decides."""
        return tuple(n for d in self.dimensions for n in d.names)

    def settings(self, point: Mapping[str, float]) -> dict[str, Any]:
        """Typed settings at ``point``, by their ``--set`` names."""
        return {k: v for d in self.dimensions for k, v in d.settings(point).items()}

    def mix(self, settings: Mapping[str, Any]) -> dict[str, float]:
        """The share of every source, the rest included; empty where no mixture is varied."""
        mixes = [d for d in self.dimensions if isinstance(d, AnyMix)]
        return {k: v for d in mixes for k, v in d.mix(settings).items()}

    def described(self) -> list[dict[str, Any]]:
        """The space as a report has it."""
        return [d.described() for d in self.dimensions]

    def check(self, job: Any) -> None:
        """Refuse, before anything starts, what ``job`` cannot be given.

        Raises UserError with the setting, what was given and what is allowed, when a setting does
        not exist, its type does not fit (a Real on a whole number, a Whole on any other one), a
        value of a list cannot be read back, or the job cannot be constructed at a corner.
        """
        for dimension in self.dimensions:
            if isinstance(dimension, Real | Whole):
                wanted, other = (float, Whole) if isinstance(dimension, Real) else (int, Real)
                _check_type(job, dimension.setting, wanted, type(dimension), other)
            elif isinstance(dimension, AnyMix):
                for name in dimension.names:
                    _check_type(job, name, float, type(dimension), Among)
            else:
                _check_read(job, dimension)
        for where, settings in self.corners():
            try:
                with_settings(job, settings)
            except UserError as error:
                raise UserError(f"space, at {where}: {error}") from error

    def corners(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """All low, all high, the middle, each vertex of a mixture, each value of a list."""
        middle: dict[str, Any] = {}
        for d in self.dimensions:
            if isinstance(d, AnyMix):
                middle |= next(iter(d.corners().values()))
            else:
                middle |= d.settings({d.setting: 0.0 if d.choices else 0.5})
        yield "its middle", middle
        for name, u in (("its low end", 0.0), ("its high end", 1.0)):
            ends: dict[str, Any] = {}
            for d in self.dimensions:
                if isinstance(d, Real | Whole):
                    ends |= d.settings({d.setting: u})
            if ends:
                yield name, middle | ends
        for d in self.dimensions:
            if isinstance(d, AnyMix):
                yield from ((name, middle | corner) for name, corner in d.corners().items())
            elif isinstance(d, Among):
                yield from ((f"{d.setting}={v}", middle | {d.setting: v}) for v in d.values)


def grid(space: Space) -> list[Point]:
    """Every combination of listed values, the first dimension slowest.

    Trials that agree in the early stages stand beside each other where the settings that decide
    those are listed first.

    Raises UserError where something is varied that is no list.
    """
    lists = []
    for d in space.dimensions:
        if not d.choices:
            raise UserError(
                f"space: {', '.join(d.names)} varies without steps; a grid takes lists only "
                "(Among, Mixtures)"
            )
        lists.append([(i + 0.5) / d.choices for i in range(d.choices)])
    names = [d.coordinates[0] for d in space.dimensions]
    return [dict(zip(names, u, strict=True)) for u in itertools.product(*lists)]


# ------------------------------------------------------------------------------ text of settings


def with_settings(job: T, settings: Mapping[str, Any]) -> T:
    """``job`` with a trial's settings in place."""
    return apply_settings(job, settings_texts(settings))


def setting_words(settings: Mapping[str, Any], before: str = "") -> str:
    """Settings on a line."""
    return " ".join(
        f"{before}{name}={value:g}" if isinstance(value, float) else f"{before}{name}={value}"
        for name, value in settings.items()
    )


def settings_texts(settings: Mapping[str, Any]) -> list[str]:
    """``NAME=VALUE`` for each setting, as ``--set`` takes it and reads it back exactly."""
    return [f"{name}={_text(value)}" for name, value in settings.items()]


def _text(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, tuple | list):
        return f"({','.join(_text(v) for v in value)})"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else str(value)


def _members(declared: Any) -> tuple[Any, ...]:
    """The types that a field takes: of ``float | None`` both."""
    origin = typing.get_origin(declared)
    if origin is typing.Annotated:
        return _members(typing.get_args(declared)[0])
    if origin in (Union, types.UnionType):
        return tuple(m for a in typing.get_args(declared) for m in _members(a))
    return (declared,)


def _declared(job: Any, name: str) -> Any:
    try:
        return declared_type(job, name)
    except UserError as error:
        raise UserError(f"space: {error}") from error


def _check_type(job: Any, name: str, wanted: type, kind: type, instead: type) -> None:
    members = _members(_declared(job, name))
    if wanted not in members:
        found = " | ".join(getattr(m, "__name__", str(m)) for m in members)
        raise UserError(
            f"space: {name} is {found}, a {kind.__name__} gives {wanted.__name__}; "
            f"allowed there: {instead.__name__ if int in members or float in members else 'Among'}"
        )


def _check_read(job: Any, dimension: Among) -> None:
    """A value that is read back as another one would be another trial than it says."""
    declared = _declared(job, dimension.setting)
    for value in dimension.values:
        try:
            read = parse_value(_text(value), declared)
        except ValueError as error:
            raise UserError(f"space: {dimension.setting}={_text(value)}: {error}") from error
        if read != value:
            raise UserError(
                f"space: {dimension.setting}={value!r} would be read as {read!r}; "
                "allowed: values that --set can write"
            )
