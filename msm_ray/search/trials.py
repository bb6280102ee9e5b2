"""The trials of a search, kept in the store: a killed search knows what it had asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from msm_ray.artifact import Store
from msm_ray.errors import UserError
from msm_ray.search.methods import Seen, State
from msm_ray.search.objectives import Constraint, Objective, oriented

RUNNING: State = "running"
DONE: State = "done"
STOPPED: State = "stopped"
FAILED: State = "failed"


@dataclass
class Trial:
    """One trial: what was asked for, and what came of it so far.

    ``point``: unit coordinates; ``settings``: what they and the phase's own come to, by ``--set``
    name. ``values``: by measure, ``{value, ci95}``. ``rungs``: ``{steps, tokens, value}`` of each
    rung that was measured, ``value`` that of the first objective. ``tokens``: trained on its path;
    ``path``: (id, kind, tokens that this stage trained) of each of its stages.
    """

    number: int
    point: dict[str, float]
    settings: dict[str, Any]
    phase: str = "search"
    memory: dict[str, Any] = field(default_factory=dict)
    state: State = RUNNING
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    rungs: list[dict[str, Any]] = field(default_factory=list)
    realised: dict[str, float] = field(default_factory=dict)
    path: list[list[Any]] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0
    error: str = ""

    def seen(self, objectives: Sequence[Objective], constraints: Sequence[Constraint] = ()) -> Seen:
        """As the method sees it: values that are the larger the better."""
        ended = self.state in (DONE, STOPPED)
        missed = (
            c.missed_by(self.values[c.name]["value"]) for c in constraints if c.name in self.values
        )
        return Seen(
            number=self.number,
            point=self.point,
            state=self.state,
            values=oriented(self.values, objectives) if ended else None,
            rungs=tuple((r["steps"], objectives[0].oriented(r["value"])) for r in self.rungs),
            phase=self.phase,
            memory=self.memory,
            violations=tuple(missed) if ended else (),
        )


class Journal:
    """The trials of one search, an object each, replaced as a trial goes on.

    One driver writes it. ``fingerprint`` is of what the search tries and measures, not of how many
    trials: a search that is given more of them goes on.
    """

    def __init__(self, store: Store, name: str, fingerprint: str) -> None:
        self._store = store
        self._folder = f"runs/{name}/trials-{fingerprint}"
        self._made = f"runs/{name}/made-{fingerprint}.json"

    def read(self) -> dict[int, Trial]:
        """All trials by number.

        Raises:
            UserError: a file that is no trial of this search, and what to do about it.
        """
        names = sorted(n for n in self._store.names(self._folder) if n.endswith(".json"))
        with ThreadPoolExecutor(max_workers=8) as pool:
            trials = list(pool.map(self._trial, names))
        return {trial.number: trial for trial in trials}

    def _trial(self, name: str) -> Trial:
        file = f"{self._folder}/{name}"
        try:
            trial = Trial(**self._store.read_json(file))
            if name != _file(trial.number):
                raise ValueError(f"it is of trial {trial.number}")
        except (TypeError, ValueError) as error:
            raise UserError(
                f"store {self._store.url}: {file} is no trial of this search ({error}); remove it,"
                " and the trial is run again from what the store has"
            ) from error
        return trial

    def made(self) -> set[str]:
        """Ids of the stages that runs of this search have made, as far as they are noted."""
        try:
            return set(self._store.read_json(self._made))
        except FileNotFoundError:
            return set()

    def write_made(self, ids: Iterable[str]) -> None:
        """Keep the ids of all that runs of this search have made."""
        self._store.write_json(self._made, sorted(ids))

    def write(self, trial: Trial) -> None:
        """Keep the trial as it is now."""
        self._store.write_json(f"{self._folder}/{_file(trial.number)}", asdict(trial))


def _file(number: int) -> str:
    return f"{number:05d}.json"


def mean_shares(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of what several mixtures of the same sources came to."""
    names = list(dict.fromkeys(name for one in shares for name in one))
    return {name: sum(one.get(name, 0.0) for one in shares) / len(shares) for name in names}
