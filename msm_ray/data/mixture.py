"""Mixtures: token budgets by share, with caps on how often a document may be seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
        if not (math.isfinite(self.share) and self.share >= 0):
            raise UserError(
                f"mixture component {self.name!r}: share is {self.share}, allowed is a number >= 0"
            )
        if not (math.isfinite(self.max_repeats) and self.max_repeats > 0):
            raise UserError(
                f"mixture component {self.name!r}: max_repeats is {self.max_repeats}, "
                "allowed is a number > 0"
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
    shuffle: bool = True,
) -> Draw:
    """Choose and order the documents of a mixture.

    Each component is read in passes; every pass is a shuffle of its own, and is finished before the
    next begins, so no document is seen twice before all are seen once. A component stops at the
    document boundary nearest to its budget ``tokens * share / sum(shares)``: no document is cut,
    and the tokens realised are within half of one document of those asked for.

    Args:
        components: what to mix. Shares need not sum to one.
        lengths: by component name, tokens of each of its documents.
        tokens: the budget; 0 takes each component with a share above 0 exactly once.
        seed: of the choice and of the order.
        shuffle: False keeps the documents component after component, each in its given order.

    Raises:
        UserError: no shares, a budget below 0, a component that is empty, or one that would be
            repeated more often than its ``max_repeats`` allows.
    """
    total_share = sum(c.share for c in components)
    if not components or total_share <= 0:
        raise UserError("mixture: the shares are all zero; at least one has to be above 0")
    if tokens < 0:
        raise UserError(f"mixture: tokens is {tokens}, allowed is 0 (one pass) or more")
    picked, budgets = [], []
    for component in components:
        budget = tokens * component.share / total_share
        budgets.append(budget)
        picked.append(_pick(component, lengths[component.name], budget, tokens == 0, seed, shuffle))
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
    component: Component,
    lengths: NDArray[np.int64],
    budget: float,
    whole: bool,
    seed: int,
    shuffle: bool,
) -> NDArray[np.int64]:
    """Indices of the documents of one component, pass after pass."""
    if component.share == 0:
        return np.zeros(0, dtype=np.int64)
    available = int(lengths.sum())
    if available == 0:
        raise UserError(f"mixture component {component.name!r} is empty: it has no tokens")
    if whole:
        return _pass(component.name, len(lengths), 0, seed, shuffle)
    cap = component.max_repeats * available
    if budget > cap:
        raise UserError(
            f"mixture component {component.name!r}: {budget:.0f} tokens are asked for, "
            f"{available} are there and max_repeats={component.max_repeats:g} allows "
            f"{cap:.0f}; lower its share or the budget, or give it more documents"
        )
    passes = math.ceil(budget / available + 1e-9) + 1
    chosen = np.concatenate(
        [_pass(component.name, len(lengths), p, seed, shuffle) for p in range(passes)]
    )
    ends = np.cumsum(lengths[chosen])
    count = int(np.searchsorted(ends, budget, side="right"))  # documents that fit wholly
    below = int(ends[count - 1]) if count else 0
    above = int(ends[count])
    if above <= cap and above - budget < budget - below:
        count += 1
    return chosen[:count]


def _pass(name: str, n: int, number: int, seed: int, shuffle: bool) -> NDArray[np.int64]:
    if shuffle:
        return permutation(n, "pass", name, seed, number)
    return np.arange(n, dtype=np.int64)
