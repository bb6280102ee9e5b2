"""Mixtures: token budgets by share, with caps on how often a document may be seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from msm_ray.data.order import permutation
from msm_ray.errors import UserError


@dataclass(frozen=True)
class Component:
    """One source in a mixture: its share of the tokens, and how many passes over it are allowed."""

    name: str
    share: float
    max_repeats: float

    def __post_init__(self) -> None:
        for name, allowed in (("share", "a number >= 0"), ("max_repeats", "a number > 0")):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            enough = number and (value > 0 or (value == 0 and name == "share"))
            if not (enough and math.isfinite(value)):
                raise UserError(
                    f"mixture component {self.name!r}: {name} is {value!r}, allowed is {allowed}"
                )


@dataclass(frozen=True)
class Realised:
    """What one component contributed: ``tokens`` of ``available``, ``documents`` drawn."""

    name: str
    asked_share: float
    share: float
    tokens: int
    available: int
    repeats: float
    documents: int


@dataclass(frozen=True)
class Draw:
    """The documents of a mixture in training order.

    ``component`` and ``document`` have one entry for each document drawn: which component, and
    which of its documents. A document that is repeated stands there as often as it is seen.
    """

    component: NDArray[np.int64]
    document: NDArray[np.int64]
    realised: tuple[Realised, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the whole draw."""
        return sum(r.tokens for r in self.realised)


def draw(
    components: Sequence[Component],
    lengths: Mapping[str, NDArray[np.int64]],
    tokens: int,
    seed: int,
    *,
    epochs: float | None = None,
    shuffle: bool = True,
) -> Draw:
    """Choose and order the documents of a mixture.

    Each component is read in passes; every pass is a shuffle of its own, and is finished before the
    next begins, so no document is seen twice before all are seen once. No document is cut: of a
    component's budget ``tokens * share / sum(shares)`` as many documents are taken as fit, and of
    what is left of the pass the one that comes closest to the rest, if that is closer than none.
    So the tokens realised are within half of the longest document of those asked for (within all of
    it where the cap leaves no room above), and mostly within a few tokens.

    Args:
        components: what to mix. Shares need not sum to one.
        lengths: by component name, tokens of each of its documents.
        tokens: the budget; 0 reads each component with a share above 0 ``epochs`` times.
        seed: of the choice and of the order.
        epochs: passes over everything, instead of a budget; a fraction takes a part of the last
            pass. None: one pass.
        shuffle: False keeps the documents component after component, each in its given order.

    Raises:
        UserError: no shares, a budget below 0 or one as well as epochs, a component that is empty,
            or one that would be repeated more often than its ``max_repeats`` allows.
    """
    total_share = sum(c.share for c in components)
    if not components or total_share <= 0:
        raise UserError("mixture: the shares are all zero; at least one has to be above 0")
    if tokens < 0:
        raise UserError(f"mixture: tokens is {tokens}, allowed is 0 (passes) or more")
    if epochs is not None and tokens:
        raise UserError(f"mixture: a budget of {tokens} tokens and {epochs:g} epochs; give one")
    if epochs is not None and not (math.isfinite(epochs) and epochs > 0):
        raise UserError(f"mixture: epochs is {epochs}, allowed is a number > 0")
    picked = []
    for component in components:
        have = lengths[component.name]
        budget = tokens * component.share / total_share
        if tokens == 0:
            budget = (1.0 if epochs is None else epochs) * int(have.sum())
            if epochs is None:  # whatever the cap is, everything is read once
                component = replace(component, max_repeats=max(1.0, component.max_repeats))
        picked.append(_pick(component, have, budget, seed, shuffle))
    realised_tokens = [
        int(lengths[c.name][chosen].sum()) for c, chosen in zip(components, picked, strict=True)
    ]
    total = max(1, sum(realised_tokens))
    realised = tuple(
        Realised(
            name=c.name,
            asked_share=c.share / total_share if tokens else count / total,
            share=count / total,
            tokens=count,
            available=(available := int(lengths[c.name].sum())),
            repeats=count / max(1, available),
            documents=len(chosen),
        )
        for c, chosen, count in zip(components, picked, realised_tokens, strict=True)
    )
    which = np.repeat(np.arange(len(components)), [len(p) for p in picked])
    document = np.concatenate(picked)
    if shuffle:
        order = permutation(len(document), "mixture", seed)
        which, document = which[order], document[order]
    return Draw(which.astype(np.int64), document, realised)


def _pick(
    component: Component, lengths: NDArray[np.int64], budget: float, seed: int, shuffle: bool
) -> NDArray[np.int64]:
    """Indices of the documents of one component, pass after pass."""
    if component.share == 0:
        return np.zeros(0, dtype=np.int64)
    available = int(lengths.sum())
    if available == 0:
        raise UserError(f"mixture component {component.name!r} is empty: it has no tokens")
    cap = check_cap(component, budget, available)
    full = math.floor(budget / available + 1e-9)
    passes = [_pass(component.name, len(lengths), p, seed, shuffle) for p in range(full + 1)]
    last, rest = passes.pop(), budget - full * available
    ends = np.cumsum(lengths[last])
    count = int(np.searchsorted(ends, rest, side="right"))  # documents that fit wholly
    gap = rest - (int(ends[count - 1]) if count else 0)
    others = lengths[last[count:]]
    distance = np.abs(others.astype(np.float64) - gap)
    distance[others > cap - budget + gap] = np.inf
    closest = last[count:][[int(distance.argmin())]] if len(others) else last[:0]
    taken = [*passes, last[:count]]
    if len(closest) and distance.min() < gap:
        taken.append(closest)
    return np.concatenate(taken)


def check_cap(component: Component, budget: float, available: int) -> float:
    """How many tokens ``component`` may give of ``available``; UserError if that is too few."""
    cap = component.max_repeats * available
    if budget > cap:
        raise UserError(
            f"mixture component {component.name!r}: {budget:.0f} tokens are asked for, "
            f"{available} are there and max_repeats={component.max_repeats:g} allows "
            f"{cap:.0f}: {math.ceil(budget - cap)} tokens are missing; lower its share or the "
            "budget, or give it more documents"
        )
    return cap


def _pass(name: str, n: int, number: int, seed: int, shuffle: bool) -> NDArray[np.int64]:
    if shuffle:
        return permutation(n, "pass", name, seed, number)
    return np.arange(n, dtype=np.int64)
