"""Which rollouts come next, until every cell is known well enough or has reached its cap. Pure.

The rounds depend on the counts at their ends only: whoever goes on after an interruption, with the
rollouts that were made until then, asks for the same ones as somebody who was not interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from msm_ray.agentic.counts import Rollout, rollout_id, tally
from msm_ray.evaluate.sampling import Rule, plan_next

# Makes the rollouts of these numbers, by cell; in any order.
Evaluate = Callable[[Mapping[str, Sequence[int]]], Iterable[Rollout]]


def roll(
    cells: Sequence[str], rule: Rule, made: Iterable[Rollout], evaluate: Evaluate
) -> list[Rollout]:
    """All rollouts, by cell and number.

    Args:
        made: rollouts that are there already. Those that did not come to their end are made again.

    Raises:
        RuntimeError: not one rollout of a cell came to its end.
    """
    done = {r.id: r for r in made if not r.error}
    tried = dict.fromkeys(cells, 0)

    def own(cell: str) -> list[Rollout]:
        return [done[rollout_id(cell, number)] for number in range(tried[cell])]

    while more := plan_next({cell: tally(own(cell), tried[cell]) for cell in cells}, rule):
        missing: dict[str, list[int]] = {}
        for cell, count in more.items():
            numbers = range(tried[cell], tried[cell] + count)
            missing[cell] = [n for n in numbers if rollout_id(cell, n) not in done]
            tried[cell] += count
        if any(missing.values()):
            done |= {r.id: r for r in evaluate(missing)}
        for cell in more:
            _check_ended(cell, own(cell))
    return [r for cell in cells for r in own(cell)]


def _check_ended(cell: str, own: Sequence[Rollout]) -> None:
    if all(r.error for r in own):
        raise RuntimeError(
            f"{cell}: none of {len(own)} rollouts came to its end; the first: {own[0].error}"
        )
