"""One run of a search: what is shared first, then the trials, the confirmation, the report."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from msm_ray.artifact import Record, Store
from msm_ray.claims import STALE_SECONDS, Claims
from msm_ray.comparison import AsksModels
from msm_ray.errors import UnusablePlace, UserError
from msm_ray.observe import Observer
from msm_ray.preview import few_steps
from msm_ray.provenance import run_facts
from msm_ray.reports import write_report
from msm_ray.run import launcher_for
from msm_ray.search.job import Search
from msm_ray.search.objectives import missed
from msm_ray.search.results import (
    again_words,
    law_words,
    ranked,
    recommended,
    search_part,
    value_words,
)
from msm_ray.search.space import setting_words, with_settings
from msm_ray.search.trial import Incomplete, rungs_of, taken
from msm_ray.search.trials import FAILED, Journal, Trial
from msm_ray.search.watch import watched
from msm_ray.settings import RunResult
from msm_ray.stage import Launcher, Stage, StageFailed, run_dag, scan, topological


@dataclass
class Within:
    """The observer of a graph that is run within a run: what it makes is told, and counted."""

    outer: Observer
    made: set[str] = field(default_factory=set)

    def plan(self, stages: Sequence[Stage], cached: Any) -> None:
        """The run has its own plan, of which this is a part."""

    def started(self, stage: Stage) -> None:
        """A stage was launched."""
        self.outer.started(stage)

    def progress(self, stage_id: str, fraction: float, facts: Mapping[str, Any]) -> None:
        """A running stage is so far."""
        self.outer.progress(stage_id, fraction, facts)

    def finished(self, stage: Stage, record: Record) -> None:
        """A stage's artifact is committed."""
        self.made.add(stage.id)
        self.outer.finished(stage, record)

    def found(self, stage: Stage, record: Record) -> None:
        """Another run has committed the stage's artifact."""
        self.outer.found(stage, record)

    def failed(self, stage: Stage, error: BaseException) -> None:
        """A stage failed."""
        self.outer.failed(stage, error)

    def note(self, text: str) -> None:
        """Something the user should read."""
        self.outer.note(text)

    def done(self) -> None:
        """The run goes on."""


class SearchRun:
    """State of one run of a search."""

    def __init__(self, search: Search, store_url: str) -> None:
        """Checks what can be checked before anything starts, and reads the journal."""
        self.search = search
        self.started, self.clock = datetime.now(UTC), time.monotonic()
        self.mark = search.fingerprint()
        self.store = Store(store_url)
        self.plan = search.plan(Journal(self.store, search.name, self.mark), self._asked)
        self.stages: dict[str, Stage] = {}  # of trials that are known
        self.made: set[str] = set()
        # By earlier runs of this search, too: a run that makes nothing tells the same of it.
        self.made_ever = self.plan.journal.made()
        self.made_ever.update(id for trial in self.plan.trials.values() for id in trial.made)
        self.confirmed: list[dict[str, Any]] = []
        self.problems: list[str] = []  # besides those of trials
        self.observer = Observer(events=self.store.events_path(search.name))

    def all(self, address: str | None) -> RunResult:
        """See :meth:`Search.run`.

        Raises:
            UserError: another driver runs this search: both would ask for the same trials.
        """
        claims, name = Claims(self.store), f"search-{self.mark}"
        deadline = time.monotonic() + 2 * STALE_SECONDS
        if not claims.acquire(name):
            self.observer.note("another driver has this search; waiting whether it is still there")
        while not claims.acquire(name):
            if time.monotonic() > deadline:
                raise UserError(
                    f"{self.search.name}: another driver runs this search in {self.store.url};"
                    " wait for it, or stop it"
                )
            time.sleep(1.0)  # of a driver on another machine that is gone, the claim goes stale
        try:
            return self._all(address)
        finally:
            claims.close()

    def _all(self, address: str | None) -> RunResult:
        search, observer, plan = self.search, self.observer, self.plan
        known = plan.known()
        paths = first = search.paths(known)
        if search.rungs:  # what halving may stop is not made ahead
            first = search.paths(known, all_rungs=False)
        self.stages = {stage.id: stage for path in paths for stage in path}
        if not plan.left:  # all have ended: what is left is to confirm and to show
            best = ranked(search, plan.trials)
            again = [s for t in self._to_confirm(best) for s in search.again(t.settings).stages]
            shown = self._job(self._shown(best)).comparison().stages
            self.stages = {s.id: s for s in (*again, *shown)}
        found = scan(list(self.stages.values()), self.store)
        print(
            f"{search.name}: {plan.count} trials, {plan.count - plan.left} of them have ended;"
            f" {len(self.stages)} stages are known, {len(found.records)} in the store",
            flush=True,
        )
        missing = found.missing(list(self.stages.values()))
        for warning in few_steps(missing):
            observer.note(f"warning: {warning}")
        observer.plan(list(self.stages.values()), set(found.records))
        models = search.job.models() if isinstance(search.job, AsksModels) else []
        failure: BaseException | None = None
        try:
            with launcher_for(missing, models, observer, address, bool(plan.left)) as place:
                if plan.left:
                    self._trials(first, *place)
                best = ranked(search, plan.trials)
                for trial in self._to_confirm(best):
                    self._confirm(trial, *place)
                self._make(self._shown(best), *place)
        except UnusablePlace:
            raise
        except (StageFailed, UserError, KeyboardInterrupt) as error:
            if not plan.trials:  # nothing to tell of
                raise
            failure = error
            if not isinstance(error, KeyboardInterrupt):
                self.problems.insert(0, str(error))
        finally:
            observer.done()
        result = self._report(self._shown(ranked(search, plan.trials)), failure is None)
        if failure is not None:
            raise failure
        return result

    # ---- what is made -------------------------------------------------------------------------

    def _shared(
        self, paths: Sequence[Sequence[Stage]], launcher: Launcher | None, cpus: int | None
    ) -> None:
        """Make what several known trials need, before any of them waits for another."""
        count = Counter(stage.id for path in paths for stage in path)
        shared = topological([s for path in paths for s in path if count[s.id] > 1])
        missing = scan(shared, self.store).missing(shared)
        if not missing:
            return
        self.observer.note(f"{len(missing)} stages that trials share are made first")
        try:
            self._dag(shared, launcher, cpus)
        except UnusablePlace:
            raise
        except (StageFailed, UserError) as error:
            # The trials that need it will fail, each with its reason.
            self.observer.note(f"{error}; trials that do not need it go on")

    def _dag(
        self, stages: Sequence[Stage], launcher: Launcher | None, cpus: int | None
    ) -> dict[str, Record]:
        within = Within(self.observer)
        try:
            return run_dag(stages, self.store, launcher, within, cpus=cpus)
        finally:
            if within.made:
                self._note_made(within.made)
                self.plan.journal.write_made(self.made_ever)

    def _note_made(self, ids: Iterable[str]) -> None:
        self.made.update(ids)
        self.made_ever.update(ids)

    def _asked(self, trial: Trial) -> None:
        """Of a trial that was not known beforehand, what it needs belongs to the plan now."""
        if self.plan.method.independent(trial.number):
            return
        try:
            path = self.search.paths([trial.settings])[0]
        except UserError:
            return  # settings that give no job: the trial fails, and says why
        self._plan_more(path)

    def _plan_more(self, stages: Sequence[Stage]) -> None:
        new = [stage for stage in stages if stage.id not in self.stages]
        self.stages |= {stage.id: stage for stage in new}
        self.observer.add(new, scan(new, self.store).records)

    def _trials(
        self, paths: Sequence[Sequence[Stage]], launcher: Launcher | None, cpus: int | None
    ) -> None:
        from msm_ray.search.tune import Work, check_driver, run_trials

        search, plan = self.search, self.plan
        assert cpus is not None, "trials run on a cluster"
        check_driver()
        self._shared(paths, launcher, cpus)
        work = Work(search.job, search.rungs, search.measures, self.store.url, cpus, os.getcwd())
        began, before = time.monotonic(), plan.left

        def tell(trial: Trial) -> None:
            self._note_made(trial.made)
            ended = plan.count - plan.left
            seconds = (time.monotonic() - began) / (before - plan.left) * plan.left
            found = trial.error if trial.state == FAILED else value_words(trial.values)
            print(
                f"  {ended}/{plan.count} trial {trial.number}:"
                f" {setting_words(trial.settings)}: {found}; about {seconds:.0f} s left",
                flush=True,
            )

        def lost(number: int) -> None:
            self.observer.note(f"trial {number}: its process was lost; it is run again")

        with watched(self.store, self.stages, self.observer):
            run_trials(plan, work, search.max_concurrent_trials, search.name, tell, lost)

    def _confirm(self, trial: Trial, launcher: Launcher | None, cpus: int | None) -> None:
        """Run a trial's last rung on fresh seeds, and take its measures again.

        One that fails there (its loss leaps on another seed) is told as a problem of the search.
        """
        search, comparison = self.search, self.search.again(trial.settings)
        assert search.confirm is not None
        seeds = search.confirm.seeds
        self._plan_more(comparison.stages)
        if any(self.store.get(stage.id) is None for stage in comparison.stages):
            words = ", ".join(map(str, seeds))
            self.observer.note(f"trial {trial.number} is run again, on seeds {words}")
        try:
            records = self._dag(comparison.stages, launcher, cpus)
            found = taken(comparison, records, search.measures, self.store)
        except UnusablePlace:
            raise
        except (StageFailed, UserError, Incomplete) as error:
            problem = f"trial {trial.number} was not confirmed on seeds {list(seeds)}: {error}"
            self.observer.note(problem)
            self.problems.append(problem)
            return
        again = {"number": trial.number, "seeds": list(seeds), "claimed": trial.values}
        values = found.values
        self.confirmed.append(
            {**again, "values": values, "missed": missed(values, search.constraints)}
        )

    def _to_confirm(self, best: Sequence[Trial]) -> Sequence[Trial]:
        return best[: self.search.confirm.top] if self.search.confirm else ()

    def _shown(self, best: Sequence[Trial]) -> Trial:
        """The trial whose whole comparison is in the report: the best, else the first that went."""
        trials = [self.plan.trials[number] for number in sorted(self.plan.trials)]
        return next(iter((*best, *(t for t in trials if t.state != FAILED), *trials)))

    def _make(self, trial: Trial, launcher: Launcher | None, cpus: int | None) -> None:
        """Of a trial's comparison, what the store has lost since is made again."""
        if trial.state != FAILED:
            self._dag(self._job(trial).comparison().stages, launcher, cpus)

    def _job(self, trial: Trial) -> Any:
        search = self.search
        rungs = rungs_of(search.job, trial.settings, search.rungs)
        return with_settings(search.job, rungs[max(0, len(trial.rungs) - 1)])

    # ---- what is said -------------------------------------------------------------------------

    def _report(self, shown: Trial, ended: bool) -> RunResult:
        """Write it. ``ended``: whether the run came to its end."""
        search, job = self.search, self._job(shown)
        stages = job.comparison().stages
        records = {s.id: r for s in stages if (r := self.store.get(s.id)) is not None}
        facts = run_facts(self.started, time.monotonic() - self.clock)
        report = job.report(self.store, records, self.made, facts)
        failed = [t for t in self.plan.trials.values() if t.state == FAILED]
        if self.made:
            self.plan.journal.write_made(self.made_ever)
        part = search_part(search, self.plan.trials, self.made_ever, self.confirmed)
        part["shown"] = shown.number
        if part["best"] is not None:
            name, source = recommended(search, self._job(self.plan.trials[part["best"]]), part)
            place = self.store.write_bytes(f"runs/{search.name}/{name}", source.encode())
            settings = self.plan.trials[part["best"]].settings
            part["recommended"] = {"file": name, "settings": settings, "source": source}
        report |= {
            "name": search.name,
            "title": search.title,
            "fingerprint": self.mark,
            "complete": report["complete"] and ended and not (failed or self.problems),
            "problems": [
                *self.problems,
                *(f"trial {t.number} failed: {t.error}" for t in failed),
                *report.get("problems", ()),
            ],
            "search": part,
        }
        report, json_url, html_url = write_report(self.store, search.name, report, bool(self.made))
        if part["best"] is not None:
            self._print_best(part, place)
        return RunResult(report, json_url, html_url, report["complete"])

    def _print_best(self, part: Mapping[str, Any], place: str) -> None:
        trial = self.plan.trials[part["best"]]
        print(f"best of {len(self.plan.trials)}: {setting_words(trial.settings, '--set job.')}")
        print(f"  {value_words(trial.values)}")
        for one in part["confirmed"]:
            print(f"  {again_words(one)}")
        if warning := law_words(part["law"]):
            print(f"  {warning}")
        print(f"  as a job: {place}")
