"""Which trial comes next, and what has come of the others. Pure: Ray Tune asks it and tells it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msm_ray.search.halving import Halving
from msm_ray.search.methods import Method, Seen, State, Suggestion
from msm_ray.search.objectives import Constraint, Objective
from msm_ray.search.space import Space
from msm_ray.search.trials import DONE, FAILED, RUNNING, STOPPED, Journal, Trial


class Plan:
    """The trials of a search, in the order in which they are asked for.

    A trial is written down before it is handed out. One that was handed out by a driver that is
    gone, or that failed there, comes first again, with the same settings.
    """

    def __init__(
        self,
        method: Method,
        space: Space,
        objectives: tuple[Objective, ...],
        constraints: tuple[Constraint, ...],
        seed: int,
        journal: Journal,
        halving: Halving | None = None,
        on_ask: Callable[[Trial], None] | None = None,
    ) -> None:
        """``on_ask`` is told of every trial as it is handed out."""
        self.method, self.space, self.seed = method, space, seed
        self.objectives, self.constraints = objectives, constraints
        self.journal, self.halving, self._on_ask = journal, halving, on_ask
        self.count = method.count(space)
        self.trials: dict[int, Trial] = {}
        self._seen: dict[int, Seen] = {}
        self._again: list[int] = []
        self._out: set[int] = set()  # handed out by this driver, not ended
        for number, trial in sorted(journal.read().items()):
            if number >= self.count:  # the search had more trials once
                continue
            if trial.state in (RUNNING, FAILED):
                self._again.append(number)
                trial = Trial(number, trial.point, trial.settings, trial.phase, trial.memory)
            self._set(trial)

    @property
    def left(self) -> int:
        """How many trials have not ended."""
        return self.count - sum(trial.state != RUNNING for trial in self.trials.values())

    def known(self) -> list[dict[str, Any]]:
        """Settings of the trials to come that do not hang on what others find."""
        again = [number for number in self._again if self.method.independent(number)]
        found = [self.trials[number].settings for number in again]
        for number in range(self.count):
            if number in self.trials:
                continue
            if not self.method.independent(number):
                break
            suggestion = self.method.suggest(self.space, number, (), self.seed)
            assert suggestion is not None
            found.append(self._settings(suggestion))
        return found

    def next(self) -> Trial | None:
        """The next trial; None if it has to wait for others, or if there is none."""
        if self._again:
            trial = self.trials[self._again.pop(0)]
        elif (number := self._free()) is not None:
            seen = tuple(self._seen.values())
            suggestion = self.method.suggest(self.space, number, seen, self.seed)
            if suggestion is None:
                if not self._out:
                    raise RuntimeError(f"trial {number} waits for others, and none is running")
                return None
            trial = Trial(
                number,
                suggestion.point,
                self._settings(suggestion),
                suggestion.phase,
                dict(suggestion.memory),
            )
            self._set(trial)
        else:
            return None
        self._out.add(trial.number)
        self.journal.write(trial)
        if self._on_ask:
            self._on_ask(trial)
        return trial

    def _free(self) -> int | None:
        """The first number that nobody was given; a journal may have lost one."""
        return next((n for n in range(self.count) if n not in self.trials), None)

    def lost(self, number: int) -> None:
        """The process of a trial is lost: it comes next, and goes on from what the store has."""
        self._out.discard(number)
        self._again.append(number)

    def goes_on(self, number: int, rung: Mapping[str, Any]) -> bool:
        """Note what a trial found at a rung; whether it is worth the next one."""
        trial = self.trials[number]
        if any(r["steps"] == rung["steps"] for r in trial.rungs):
            return True  # its process was lost and it began again: here it has gone on before
        trial.rungs.append(dict(rung))
        self._set(trial)
        self.journal.write(trial)
        if self.halving is None:
            return True
        others = [
            value
            for n, seen in self._seen.items()
            if n != number
            for steps, value in seen.rungs
            if steps == rung["steps"]
        ]
        value = self.objectives[0].oriented(rung["value"])
        return self.halving.decide(rung["steps"], value, others)

    def ended(self, number: int, state: State, **found: Any) -> Trial:
        """Note how a trial ended: ``done``, ``stopped`` or ``failed``, and what it found."""
        assert state in (DONE, STOPPED, FAILED), state
        trial = self.trials[number]
        trial.state = state
        for name, value in found.items():
            setattr(trial, name, value)
        self._out.discard(number)
        self._set(trial)
        self.journal.write(trial)
        return trial

    def _set(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        self._seen[trial.number] = trial.seen(self.objectives, self.constraints)

    def _settings(self, suggestion: Suggestion) -> dict[str, Any]:
        return {**self.space.settings(suggestion.point), **suggestion.extra}
