"""Mixtures that a search varies: shares of sources, one of which takes the rest. Pure values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from msm_ray.errors import UserError
from msm_ray.search.dimensions import check_setting, check_twice, check_values, slice_of, unit
from msm_ray.search.simplex import bounded, centre, dirichlet, rounded, unit_bounds, vertex

_SOURCE = re.compile(r"[\w-]+")
_SUM = 1e-6  # how far from one a listed mix may add up


@dataclass(frozen=True)
class AnyMix:
    """``parts``: source -> the setting of its share; ``rest``: the source without one."""

    parts: Mapping[str, str]
    rest: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", dict(self.parts))
        if not self.parts:
            raise UserError(
                "space: a mixture's parts are empty; allowed: source -> setting of its share"
            )
        for source in self.sources:
            if not isinstance(source, str) or not _SOURCE.fullmatch(source):
                raise UserError(f"space: source {source!r}; allowed: letters, digits, '_' and '-'")
        for setting in self.parts.values():
            check_setting(setting)
        if self.rest in self.parts:
            raise UserError(
                f"{self._where}: rest {self.rest!r} has a setting, {self.parts[self.rest]}; "
                "the rest takes what the others leave and has none"
            )
        check_twice(self._where, "setting", list(self.parts.values()))

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources, the rest last."""
        return (*self.parts, self.rest)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.parts.values())

    @property
    def _where(self) -> str:
        return f"space: mixture of {', '.join(map(str, self.sources))}"

    def mix(self, settings: Mapping[str, Any]) -> dict[str, float]:
        """The share of each source, the rest included, by the settings."""
        shares = {source: float(settings[name]) for source, name in self.parts.items()}
        return {**shares, self.rest: round(max(0.0, 1 - sum(shares.values())), 10)}


@dataclass(frozen=True)
class Mixture(AnyMix):
    """Shares of sources that add up to one: Dirichlet(``alpha``), within floors and ceilings.

    ``parts``: source -> the setting of its share; ``rest``: the source that takes what is left.
    ``alpha``: source -> concentration, 1 where not given (all 1: uniform on the simplex). Shares
    are whole multiples of ``share_step``: a coarse one lets more trials share a midtraining.
    """

    floors: Mapping[str, float] = field(default_factory=dict)
    ceilings: Mapping[str, float] = field(default_factory=dict)
    alpha: Mapping[str, float] = field(default_factory=dict)
    share_step: float = 0.0001

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("floors", "ceilings", "alpha"):
            given: Mapping[str, float] = dict(getattr(self, name))
            object.__setattr__(self, name, given)
            if unknown := sorted(given.keys() - set(self.sources)):
                raise UserError(
                    f"{self._where}: {name} name {', '.join(unknown)}; "
                    f"allowed: {', '.join(self.sources)}"
                )
            for source, value in given.items():
                good = value > 0 and math.isfinite(value) if name == "alpha" else 0 <= value <= 1
                if not good:
                    allowed = "above 0" if name == "alpha" else "0 to 1"
                    raise UserError(
                        f"{self._where}: {name} of {source} is {value}; allowed: {allowed}"
                    )
        low, high = self._bounds
        for source, a, b in zip(self.sources, low, high, strict=True):
            if a > b:
                raise UserError(f"{self._where}: {source} has floor {a} above its ceiling {b}")
        if sum(low) > 1 + _SUM:
            raise UserError(
                f"{self._where}: floors add up to {sum(low):g}; allowed: at most 1 in sum"
            )
        if sum(high) < 1 - _SUM:
            raise UserError(
                f"{self._where}: ceilings add up to {sum(high):g}; allowed: at least 1 in sum"
            )
        self._check_step()

    def _check_step(self) -> None:
        step = self.share_step
        if not 0 < step <= 0.5 or abs(round(1 / step) * step - 1) > 1e-9:
            raise UserError(
                f"{self._where}: share_step is {step}; allowed: 1 divided by a whole number"
            )
        least, most = unit_bounds(*self._bounds, self._steps)
        none = any(a > b for a, b in zip(least, most, strict=True))
        if none or sum(least) > self._steps or sum(most) < self._steps:
            raise UserError(
                f"{self._where}: no mix in steps of {step} keeps its floors and ceilings; "
                "allowed: a smaller share_step"
            )

    @property
    def _steps(self) -> int:
        return round(1 / self.share_step)

    @property
    def _bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        floors = tuple(float(self.floors.get(s, 0.0)) for s in self.sources)
        return floors, tuple(float(self.ceilings.get(s, 1.0)) for s in self.sources)

    @property
    def coordinates(self) -> tuple[str, ...]:
        return tuple(f"mix.{s}" for s in self.sources)

    @property
    def choices(self) -> int:
        return 0

    def settings(self, point: Mapping[str, float]) -> dict[str, Any]:
        alpha = [self.alpha.get(s, 1.0) for s in self.sources]
        shares = dirichlet([unit(point, c) for c in self.coordinates], alpha)
        return self._named(bounded(shares, *self._bounds))

    def _named(self, shares: Any) -> dict[str, Any]:
        units = rounded(shares, *self._bounds, self._steps)
        return {n: u / self._steps for n, u in zip(self.parts.values(), units, strict=False)}

    def corners(self) -> dict[str, dict[str, Any]]:
        """Settings at the centre and at each vertex: as much of one source as may be."""
        found = {"the middle of the mixture": self._named(centre(*self._bounds))}
        for i, source in enumerate(self.sources):
            found[f"as much {source} as allowed"] = self._named(vertex(i, *self._bounds))
        return found

    def described(self) -> dict[str, Any]:
        found = {"kind": "mixture", "sources": list(self.sources), "settings": dict(self.parts)}
        return {**found, "floors": dict(self.floors), "ceilings": dict(self.ceilings)}


@dataclass(frozen=True)
class Mixtures(AnyMix):
    """One of the mixes in ``values``: a share for each of ``parts``, then that of ``rest``."""

    values: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "values", tuple(tuple(v) for v in self.values))
        for mix in self.values:
            shown = " : ".join(f"{share:g}" for share in mix)
            if len(mix) != len(self.sources):
                raise UserError(
                    f"{self._where}: {shown} are {len(mix)} shares; "
                    f"allowed: {len(self.sources)}, one for each source"
                )
            if not all(0 <= share <= 1 for share in mix):
                raise UserError(f"{self._where}: {shown}; allowed: shares from 0 to 1")
            if abs(sum(mix) - 1) > _SUM:
                raise UserError(
                    f"{self._where}: {shown} add up to {sum(mix):g}; allowed: exactly 1"
                )
        check_values(self._where, self.values)

    @property
    def coordinates(self) -> tuple[str, ...]:
        return (f"mix.{'+'.join(self.sources)}",)

    @property
    def choices(self) -> int:
        return len(self.values)

    def settings(self, point: Mapping[str, float]) -> dict[str, Any]:
        return self._named(slice_of(unit(point, self.coordinates[0]), len(self.values)))

    def _named(self, index: int) -> dict[str, Any]:
        mix = self.values[index]
        return dict(zip(self.parts.values(), map(float, mix), strict=False))

    def corners(self) -> dict[str, dict[str, Any]]:
        """Settings of every mix."""
        return {f"mix {i}": self._named(i) for i in range(len(self.values))}

    def described(self) -> dict[str, Any]:
        found = {"kind": "mixture", "sources": list(self.sources), "settings": dict(self.parts)}
        return {**found, "values": [list(mix) for mix in self.values]}
