"""Single settings that a search varies: numbers in a range, values from a list. Pure values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msm_ray.errors import UserError


@dataclass(frozen=True)
class _Single:
    """One coordinate, one setting."""

    setting: str

    @property
    def coordinates(self) -> tuple[str, ...]:
        return (self.setting,)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.setting,)


@dataclass(frozen=True)
class _Range(_Single):
    """Between two numbers; ``choices`` 0 says that its values are no list."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        check_setting(self.setting)
        for end in (self.low, self.high):
            if isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end):
                raise UserError(f"{self._where} from {end!r}; allowed: finite numbers")
        if not self.low < self.high:
            raise UserError(f"{self._where}: low must be below high")
        if self.log and self.low <= 0:
            raise UserError(f"{self._where}: with log=True low must be above 0")

    @property
    def _where(self) -> str:
        return f"space: {self.setting} from {self.low} to {self.high}"

    @property
    def choices(self) -> int:
        return 0

    def described(self) -> dict[str, Any]:
        kind = type(self).__name__.lower()
        ends = {"low": self.low, "high": self.high, "log": self.log}
        return {"kind": kind, "setting": self.setting, **ends}


@dataclass(frozen=True)
class Real(_Range):
    """A number from ``low`` to ``high``; with ``log`` uniform in its logarithm.

    Rounded to four significant digits (without ``log``: of the range), so that ids do not hang on
    the last bits of a machine's exp and a setting can be read and typed.
    """

    def settings(self, point: Mapping[str, float]) -> dict[str, Any]:
        u = unit(point, self.setting)
        if self.log:
            a, b = math.log(self.low), math.log(self.high)
            value = float(f"{math.exp(a + u * (b - a)):.4g}")
        else:
            digits = 4 - math.floor(math.log10(self.high - self.low))
            value = round(self.low + u * (self.high - self.low), digits)
        return {self.setting: float(min(max(value, self.low), self.high))}


@dataclass(frozen=True)
class Whole(_Range):
    """A whole number from ``low`` to ``high``, both included, equally likely (or in its log)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for end in (self.low, self.high):
            if not isinstance(end, int):
                raise UserError(f"{self._where}: {end!r} is not whole; allowed: whole numbers")

    def settings(self, point: Mapping[str, float]) -> dict[str, Any]:
        u = unit(point, self.setting)
        if self.log:
            a, b = math.log(self.low - 0.5), math.log(self.high + 0.5)
            value = round(math.exp(a + u * (b - a)))
        else:
            value = math.floor(self.low + u * (self.high - self.low + 1))
        return {self.setting: int(min(max(value, self.low), self.high))}


@dataclass(frozen=True)
class Among(_Single):
    """One of ``values``, of whatever type ``--set`` takes for that setting; no order is meant."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        check_setting(self.setting)
        object.__setattr__(self, "values", tuple(self.values))
        check_values(f"space: {self.setting}", self.values)

    @property
    def choices(self) -> int:
        return len(self.values)

    def settings(self, point: Mapping[str, float]) -> dict[str, Any]:
        return {self.setting: self.values[slice_of(unit(point, self.setting), len(self.values))]}

    def described(self) -> dict[str, Any]:
        return {"kind": "among", "setting": self.setting, "values": list(self.values)}


# -------------------------------------------------------------------------------------- checks


def unit(point: Mapping[str, float], name: str) -> float:
    """The coordinate ``name`` of a point."""
    value = point[name]
    assert 0 <= value <= 1, (name, value)
    return value


def slice_of(coordinate: float, n: int) -> int:
    """In which of n equal slices of [0, 1] a coordinate lies."""
    return min(int(coordinate * n), n - 1)


def check_setting(name: Any) -> None:
    """Refuse what cannot be a setting's name."""
    if not isinstance(name, str) or not name or not all(name.split(".")):
        raise UserError(f"space: setting {name!r}; allowed: a name such as 'aft.train.epochs'")


def check_values(where: str, values: Sequence[Any]) -> None:
    """Refuse a list to choose from that is empty, or has a value twice or NaN."""
    if not values:
        raise UserError(f"{where} has no values; at least one is needed")
    if any(isinstance(v, float) and not math.isfinite(v) for v in values):
        raise UserError(f"{where}: {values}; allowed: finite numbers")
    check_twice(where, "value", values)


def check_twice(where: str, what: str, names: Sequence[Any]) -> None:
    """Refuse what is named more than once."""
    twice = [n for i, n in enumerate(names) if n in names[:i]]
    if twice:
        raise UserError(f"{where}: {what} {twice[0]!r} is given twice; allowed: once")
