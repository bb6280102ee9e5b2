"""Frozen dataclasses of every kind that a job may be made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Leaf:
    """Plain values."""

    text: str
    count: int = 3
    rate: float = 0.5
    on: bool = False


@dataclass(frozen=True)
class OtherLeaf:
    """A class whose default is a record."""

    leaf: Leaf = field(default_factory=lambda: Leaf("default"))
    anything: Any = None


@dataclass(frozen=True)
class Whole:
    """Nested values, and what a job file's experiment() has to have."""

    name: str
    title: str
    parts: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)
    maybe: OtherLeaf | None = None

    def run(self, store_url: str, address: str | None = None) -> Any:
        """Nothing."""

    def preview(self, store_url: str) -> dict[str, Any]:
        """Nothing."""
        return {}
