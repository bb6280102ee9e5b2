"""Mixtures that are drawn in order, so that the beginning is known before the end is written."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from msm_ray.data.cache import CacheWriter, open_cache
from msm_ray.data.mixture import Component, Realised, check_cap
from msm_ray.data.order import permutation
from msm_ray.data.tokens import TokenizedDocuments
from msm_ray.errors import UserError

Pass = Iterator[tuple[int, TokenizedDocuments]]  # one document at a time, and the pass it is of


def shuffled_passes(docs: TokenizedDocuments, name: str, seed: int, first: int = 0) -> Pass:
    """``docs`` without end, each pass from ``first`` on in another order."""
    for number in itertools.count(first):
        for at in permutation(len(docs), "pass", name, seed, number):
            yield number, docs.select(np.array([at]))


def growing_passes(
    batches: Iterator[TokenizedDocuments],
    name: str,
    seed: int,
    folder: Path,
    refused: dict[str, int],
) -> Pass:
    """What ``batches`` bring, in their order and as soon as they do; then again, shuffled.

    Args:
        batches: the documents of a component that may still be being written.
        name: of the component.
        seed: of the later passes.
        folder: takes the documents, for the later passes.
        refused: counts the "documents" and "tokens" without a target, which are left out.

    Raises:
        UserError: none of the documents has a target.
    """
    with CacheWriter(folder) as cache:
        for docs in batches:
            for at, targets in enumerate(docs.targets.tolist()):
                one = docs.select(np.array([at]))
                if targets == 0:
                    refused["documents"] += 1
                    refused["tokens"] += len(one.tokens)
                    continue
                cache.add(one)
                yield 0, one
        if not len(cache):
            raise UserError(
                f"mixture component {name!r}: it has no documents from which anything is learned "
                f"({refused['documents']} without a target)"
            )
        cache.finish(refused)
    finished = open_cache(folder)
    assert finished is not None
    yield from shuffled_passes(finished[0], name, seed, first=1)


class Interleaved:
    """The documents of a mixture one by one, every prefix as near to the shares as they allow.

    The next document is always that of the component which is furthest behind its share, so which
    one comes at a place follows from what stands before it and from no later document. An iterator
    of (component, document) without end.

    Args:
        components: what to mix, with shares above 0 that need not sum to one.
        passes: by component name, its documents.
        tokens: how many will be taken in all: refuses components that cannot give their share as
            soon as one has been read through.
    """

    def __init__(
        self, components: Sequence[Component], passes: Mapping[str, Pass], tokens: int
    ) -> None:
        total = sum(c.share for c in components)
        if not components or any(c.share == 0 for c in components):
            raise UserError(
                "mixture: in windowed order every share has to be above 0, they are "
                f"{', '.join(f'{c.name} {c.share:g}' for c in components) or 'none'}"
            )
        self._components = {c.name: c for c in components}
        self._share = {c.name: c.share / total for c in components}
        self._budget = {name: tokens * share for name, share in self._share.items()}
        self._passes = passes
        self._documents = dict.fromkeys(self._share, 0)
        self._tokens = dict.fromkeys(self._share, 0)
        self._read = dict.fromkeys(self._share, 0)  # tokens of the first pass
        self.taken = 0  # documents

    def __iter__(self) -> Iterator[tuple[str, TokenizedDocuments]]:
        return self

    def __next__(self) -> tuple[str, TokenizedDocuments]:
        name = min(self._share, key=lambda name: self._tokens[name] / self._share[name])
        number, document = next(self._passes[name])
        length = len(document.tokens)
        if number == 0:
            self._read[name] += length
        else:
            budget = max(self._budget[name], self._tokens[name] + length)
            check_cap(self._components[name], budget, self._read[name])
        self._documents[name] += 1
        self._tokens[name] += length
        self.taken += 1
        return name, document

    def realised(self) -> tuple[Realised, ...]:
        """What has been taken of each; ``available`` counts what was read of it."""
        total = max(1, sum(self._tokens.values()))
        return tuple(
            Realised(
                name=name,
                asked_share=share,
                share=self._tokens[name] / total,
                tokens=self._tokens[name],
                available=self._read[name],
                repeats=self._tokens[name] / max(1, self._read[name]),
                documents=self._documents[name],
            )
            for name, share in self._share.items()
        )
