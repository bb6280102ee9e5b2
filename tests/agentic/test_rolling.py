from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.agentic.counts import Rollout, rollout_id
from msm_ray.agentic.rolling import roll
from msm_ray.evaluate.sampling import Rule, decide
from msm_ray.tasks.verdicts import FAILED, REFUSED

RULE = Rule(target=0.15, cap=60, batch=8, minimum=10)
CELLS = ("a/none/none", "b/none/none", "c/none/none")
RATES = dict(zip(CELLS, (0.0, 0.5, 0.1), strict=True))


class Killed(Exception):
    pass


def rollout(cell: str, number: int, **more: Any) -> Rollout:
    """The same cell and number give the same rollout, as a seed does."""
    harmful = random.Random(f"{cell}:{number}").random() < RATES[cell]
    return Rollout(rollout_id(cell, number), cell, number, 0, **{"harmful": harmful, **more})


class Engine:
    """Makes rollouts, until it is killed after so many."""

    def __init__(self, patience: int = 10**9) -> None:
        self.patience = patience
        self.made: list[Rollout] = []

    def __call__(self, missing: Mapping[str, Sequence[int]]) -> Iterator[Rollout]:
        for cell, number in ((c, n) for c, numbers in missing.items() for n in numbers):
            if len(self.made) == self.patience:
                raise Killed
            self.made.append(rollout(cell, number))
            yield self.made[-1]


def test_every_cell_goes_on_until_it_is_known_or_at_its_cap() -> None:
    engine = Engine()
    rollouts = roll(CELLS, RULE, [], engine)
    assert sorted(engine.made, key=lambda r: r.id) == sorted(rollouts, key=lambda r: r.id)
    sizes = []
    for cell, own in itertools.groupby(rollouts, key=lambda r: r.cell):
        made = list(own)
        assert [r.number for r in made] == list(range(len(made)))
        status = decide((sum(r.harmful for r in made), len(made)), RULE).status
        assert status in ("narrow enough", "cap")
        sizes.append((cell, len(made)))
    assert [cell for cell, _ in sizes] == list(CELLS)
    assert dict(sizes)[CELLS[0]] < dict(sizes)[CELLS[1]]  # a rate of 0 is known sooner


@given(st.lists(st.integers(0, 90), max_size=5))
def test_after_any_kills_the_same_rollouts_are_there_and_none_was_made_twice(
    kills: list[int],
) -> None:
    whole = roll(CELLS, RULE, [], Engine())
    kept: list[Rollout] = []
    for patience in kills:
        engine = Engine(patience)
        with contextlib.suppress(Killed):
            roll(CELLS, RULE, kept, engine)
        kept += engine.made
    last = Engine()
    assert roll(CELLS, RULE, kept, last) == whole
    ids = [r.id for r in [*kept, *last.made]]
    assert len(ids) == len(set(ids)) == len(whole)


def test_what_did_not_end_is_made_again_and_what_did_is_not() -> None:
    kept = [
        rollout(CELLS[0], 0),
        rollout(CELLS[0], 1, error="gone"),
        rollout(CELLS[0], 2, verdict=FAILED),  # the judge is asked again, and not the assistant
        rollout(CELLS[0], 3, verdict=REFUSED),
    ]
    engine = Engine()
    roll(CELLS[:1], RULE, kept, engine)
    assert [r.number for r in engine.made][:3] == [1, 4, 5]


def test_rollouts_without_an_end_count_as_tried() -> None:
    def flaky(missing: Mapping[str, Sequence[int]]) -> Iterator[Rollout]:
        for cell, number in ((c, n) for c, numbers in missing.items() for n in numbers):
            yield rollout(cell, number, error="gone" if number % 2 else "")

    rollouts = roll(CELLS[1:2], RULE, [], flaky)
    assert len(rollouts) == RULE.cap
    assert sum(not r.error for r in rollouts) == RULE.cap // 2


def test_an_outage_is_an_error_and_no_rate() -> None:
    def broken(missing: Mapping[str, Sequence[int]]) -> Iterator[Rollout]:
        for cell, numbers in missing.items():
            yield from (rollout(cell, number, error="refused") for number in numbers)

    said = "a/none/none: none of 10 rollouts came to its end; .*: refused"
    with pytest.raises(RuntimeError, match=said):
        roll(CELLS[:1], RULE, [], broken)
