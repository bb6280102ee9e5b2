"""Ray Tune runs the trials: it asks the plan for the next, and tells it what each has found.

Tune's own files are not kept: what a search needs to go on is in its journal and in the store.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from msm_ray.artifact import Store
from msm_ray.comparison import Compares
from msm_ray.errors import UserError
from msm_ray.search.objectives import Measure
from msm_ray.search.plan import Plan
from msm_ray.search.trial import Measurement, Spent, measure_rungs
from msm_ray.search.trials import DONE, FAILED, STOPPED, Trial
from msm_ray.terminal import sigint_kept, tell_of_stopping

# A trial must ask for something: a grain of what every cluster's head has, and no CPU, so that all
# of them are left to the stages, and none of the fleet's GPU nodes is held by a driver.
NO_CPU = {"node:__internal_head__": 0.001}
# Of a trial whose process is lost; what it had made is in the store. Tune's own restarts leave out
# a process that is lost while it is handed from one trial to the next.
RESTARTS = 3
ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's record of the whole experiment, which nothing here reads
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),
}


@dataclass(frozen=True)
class Work:
    """What all trials of a search have in common; each gets its settings beside it."""

    job: Compares
    rungs: tuple[int, ...]  # optimizer steps
    measures: tuple[Measure, ...]
    store: str
    cpus: int
    folder: str  # where the driver runs: what a job's relative paths are below


def trial(config: dict[str, Any], work: Work) -> None:
    """Run one trial: the function that Ray Tune calls, with ``{"number", "settings"}``.

    Reports ``{"found": JSON of a Measurement}`` for each rung, or ``{"error": text, "spent": JSON
    of what it has made}``. As text, for of each number that is reported Tune keeps six.
    """
    from msm_ray import runtime

    # That Tune waits for the thread of the trial before this one, where a machine stands still
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "120")
    with contextlib.suppress(FileNotFoundError):  # a driver elsewhere: its job has no such paths
        os.chdir(work.folder)  # Tune has gone to a folder of its own
    launchers: list[runtime.RayLauncher] = []

    def launch() -> runtime.RayLauncher:
        if not launchers:
            launchers.append(runtime.RayLauncher(None))
        return launchers[0]

    store = Store(work.store)
    settings = json.loads(config["settings"])
    spent = Spent()
    try:
        for found in measure_rungs(
            work.job, settings, work.rungs, work.measures, store, launch, work.cpus, spent
        ):
            tune.report({"found": json.dumps(asdict(found))})
    except Exception as error:  # the search goes on, and says why this trial did not
        text = " ".join(f"{type(error).__name__}: {error}".split())
        path = {"path": list(spent.path.values()), "made": spent.made}
        tune.report({"error": text, "spent": json.dumps(path)})
    finally:
        for launcher in launchers:
            launcher.close()


class _Kept:
    """Of a part of Tune that belongs to this driver: Tune pickles it, and nothing reads that."""

    def __reduce__(self) -> tuple[Any, ...]:
        return object, ()


class Asks(_Kept, Searcher):  # type: ignore[misc]
    """What Tune asks for the next trial, and tells that one has ended."""

    def __init__(
        self,
        plan: Plan,
        on_end: Callable[[Trial], None],
        on_lost: Callable[[int], None],
        restarts: int,
    ) -> None:
        """``on_lost`` is told the number of a trial that is run again; ``restarts``: of each."""
        super().__init__()
        self._plan, self._on_end, self._on_lost = plan, on_end, on_lost
        self._restarts = restarts
        self.failure: Exception | None = None
        self._out: dict[str, tuple[int, float]] = {}  # Tune's id -> number, monotonic seconds
        self._lost: Counter[int] = Counter()  # how often a trial's process was lost
        self._unnoted: set[int] = set()  # trials that could not be noted: they come again

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Its settings; None: not now."""
        if self.failure is not None:
            return str(Searcher.FINISHED)
        try:
            following = self._plan.next()
        except Exception as error:  # Tune would wrap it: it is raised when Tune has ended
            self.failure = error
            return str(Searcher.FINISHED)
        if following is None:  # one that runs may be lost, and comes again
            return None if self._plan.left else str(Searcher.FINISHED)
        self._out[trial_id] = following.number, time.monotonic()
        return {"number": following.number, "settings": json.dumps(following.settings)}

    def goes_on(self, number: int, text: str) -> bool:
        """Note what a trial found at a rung (a Measurement as JSON); whether it goes on."""
        try:
            found = Measurement(**json.loads(text))
            first = self._plan.objectives[0].name
            rung = {"steps": found.steps, "tokens": found.tokens}
            rung["value"] = found.values[first]["value"]
            return self._plan.goes_on(number, rung)
        except Exception as error:
            self.failure = self.failure or error
            self._unnoted.add(number)
            return False

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """``result``: the last one that it reported."""
        number, since = self._out.pop(trial_id)
        if number in self._unnoted:
            return
        if error:
            self._lost[number] += 1
            if self._lost[number] <= self._restarts:
                self._plan.lost(number)
                self._on_lost(number)
                return
        seconds = round(time.monotonic() - since, 3)
        try:
            self._on_end(_ended(self._plan, number, result or {}, error, seconds))
        except Exception as failure:  # Tune would run the trial again
            self.failure = self.failure or failure

    def save(self, checkpoint_path: str) -> None:
        """The journal has it."""
        Path(checkpoint_path).touch()


class _NoneKept(dict[Any, set[Any]]):
    """Tune's sets of pending trials that a free process may take over from one that still starts.

    It looks through them by resources; here there are never any.
    """

    def __missing__(self, key: Any) -> set[Any]:
        return set()


class Rungs(_Kept, FIFOScheduler):  # type: ignore[misc]
    """What Tune asks whether a trial goes on; it also has Tune keep the processes of trials.

    By itself Tune (2.60) gives a trial whose process is just starting to one that comes free, and
    ends the new one, and so on with the next trial: where trials take less than a second, one
    process does them all, and each costs the start and the end of another.
    """

    def __init__(self, asks: Asks, most: int) -> None:
        super().__init__()
        self._asks, self._most = asks, most

    def choose_trial_to_run(self, tune_controller: Any, **_: Any) -> None:
        """None goes first: Tune starts what is pending, in its order."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Before the first: up to ``most`` idle processes stay for the trials to come."""
        if self._most:
            controller = tune_controller._tune_controller  # there is no public setting for either
            controller._actor_cache.increase_max(trial.placement_group_factory, self._most)
            controller._resources_to_pending_trials = _NoneKept()
            self._most = 0

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether it is worth its next rung."""
        if "found" not in result:
            return str(FIFOScheduler.CONTINUE)
        goes_on = self._asks.goes_on(trial.config["number"], result["found"])
        return str(FIFOScheduler.CONTINUE if goes_on else FIFOScheduler.STOP)


class Begins(tune.Callback):  # type: ignore[misc]
    """By its first step Tune has taken Ctrl-C over, and says nothing."""

    begun = False

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Say something when Ctrl-C comes."""
        if not self.begun:
            self.begun = True
            tell_of_stopping()


@contextlib.contextmanager
def _told_already() -> Iterator[None]:
    """Without Tune's list, at the end, of trials that were lost: they were told, and ran again."""
    logger = logging.getLogger("ray.tune.tune")

    def other(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Trials did not complete")

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


def check_driver() -> None:
    """UserError where Tune would run elsewhere: the plan and its journal are this process's."""
    if ray.util.client.ray.is_connected():
        raise UserError(
            "--address ray://...: a search needs a driver on the cluster; run it there with"
            " HOST:6379, or with msm submit"
        )


def run_trials(
    plan: Plan,
    work: Work,
    most: int,
    name: str,
    on_end: Callable[[Trial], None],
    on_lost: Callable[[int], None],
) -> None:
    """Run all trials of ``plan`` that are left, ``most`` at a time.

    ``on_lost`` is told the number of a trial whose process was lost, and which is run again.

    Raises:
        UserError: the method cannot go on from what was found.
        KeyboardInterrupt: Ctrl-C; what was made stays, and the same search goes on from it.
    """
    if not plan.left:
        return
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    # Idle processes that are lost together are found out one after the other, by a trial each.
    restarts = RESTARTS + most
    asks = Asks(plan, on_end, on_lost, restarts)
    scratch = Store(work.store).work_dir(f"search-{name}") / uuid.uuid4().hex
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, work=work), NO_CPU),
        tune_config=tune.TuneConfig(
            search_alg=asks,
            scheduler=Rungs(asks, most),
            num_samples=plan.left * (1 + restarts),  # at most
            max_concurrent_trials=most,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(scratch),
            verbose=0,
            callbacks=[Begins()],
        ),
    )
    try:
        with sigint_kept(), _told_already():
            tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if asks.failure is not None:
        raise asks.failure
    if plan.left:  # Tune returns after Ctrl-C as if it were done
        raise KeyboardInterrupt


def _ended(plan: Plan, number: int, result: dict[str, Any], lost: bool, seconds: float) -> Trial:
    """Note how a trial ended, from the last thing that it reported."""
    if lost or "found" not in result:
        error = result.get("error", "its process was lost again and again; Ray's logs say why")
        spent = json.loads(result.get("spent", "{}"))
        tokens = sum(n for _, _, n in spent.get("path", ()))
        return plan.ended(number, FAILED, error=error, seconds=seconds, tokens=tokens, **spent)
    found = Measurement(**json.loads(result["found"]))
    rungs = plan.halving.rungs if plan.halving else ()
    state = STOPPED if len(plan.trials[number].rungs) < len(rungs) else DONE
    return plan.ended(
        number,
        state,
        values=found.values,
        realised=found.realised,
        path=found.path,
        made=found.made,
        tokens=sum(tokens for _, _, tokens in found.path),
        seconds=seconds,
    )
