"""One run of a search: what is shared first, then the trials, the confirmation, the report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from msm_ray.artifact import Record, Store
from msm_ray.errors import UnusablePlace, UserError
from msm_ray.observe import Observer
from msm_ray.preview import few_steps
from msm_ray.provenance import run_facts
from msm_ray.reports import write_report
from msm_ray.search.job import Search
from msm_ray.search.objectives import check_known
from msm_ray.search.plan import Plan
from msm_ray.search.results import ranked, recommended, search_part
from msm_ray.search.trial import rungs_of, taken, with_settings
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
        comparison = search.job.comparison()
        check_known(
            search.objectives,
            search.constraints,
            comparison.compared,
            comparison.evals,
            comparison.arms,
        )
        self.store = Store(store_url)
        self.mark = search.fingerprint()
        self.plan = Plan(
            search.method,
            search.space,
            search.objectives,
            search.constraints,
            search.seed,
            Journal(self.store, search.name, self.mark),
            search.halving,
        )
        self.stages: dict[str, Stage] = {}  # of trials that are known
        self.made: set[str] = set()
        self.observer = Observer(events=self.store.events_path(search.name))

    def all(self, address: str | None) -> RunResult:
        """See :meth:`Search.run`."""
        from msm_ray import runtime  # pulls Ray

        search, observer = self.search, self.observer
        paths = search.paths(self.plan.known())
        self.stages = {stage.id: stage for path in paths for stage in path}
        before = set(scan(list(self.stages.values()), self.store).records)
        trials = self.plan.count
        print(
            f"{search.name}: {trials} trials, {trials - self.plan.left} of them have ended;"
            f" {len(self.stages)} stages are known, {len(before)} in the store",
            flush=True,
        )
        for warning in few_steps(s for s in self.stages.values() if s.id not in before):
            observer.note(f"warning: {warning}")
        observer.plan(list(self.stages.values()), before)
        confirmed: list[dict[str, Any]] = []
        try:
            with runtime.cluster(address) as cpus:
                launcher = runtime.RayLauncher(observer.progress)
                try:
                    self._shared(paths, launcher, cpus)
                    self._trials(cpus)
                    best = ranked(search, self.plan.trials)
                    for trial in best[: search.confirm.top if search.confirm else 0]:
                        confirmed.append(self._confirm(trial, launcher, cpus))
                    shown = self._shown(best)
                    records = self._make(shown, launcher, cpus)
                finally:
                    launcher.close()
        finally:
            observer.done()
        return self._report(shown, records, confirmed)

    # ---- what is made -------------------------------------------------------------------------

    def _shared(self, paths: Sequence[Sequence[Stage]], launcher: Launcher, cpus: int) -> None:
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

    def _dag(self, stages: Sequence[Stage], launcher: Launcher, cpus: int) -> dict[str, Record]:
        within = Within(self.observer)
        try:
            return run_dag(stages, self.store, launcher, within, cpus=cpus)
        finally:
            self.made |= within.made

    def _trials(self, cpus: int) -> None:
        from msm_ray.search.tune import Work, run_trials

        search, plan = self.search, self.plan
        work = Work(search.job, search.rungs, search.measures, self.store.url, cpus)
        began, before = time.monotonic(), plan.left

        def tell(trial: Trial) -> None:
            self.made |= set(trial.made)
            ended = plan.count - plan.left
            seconds = (time.monotonic() - began) / (before - plan.left) * plan.left
            found = trial.error if trial.state == FAILED else _words(trial)
            print(
                f"  trial {ended}/{plan.count}, number {trial.number}:"
                f" {setting_words(trial.settings)}: {found}; about {seconds:.0f} s left",
                flush=True,
            )

        with watched(self.store, self.stages, self.observer):
            run_trials(plan, work, search.max_concurrent_trials, search.name, tell)

    def _confirm(self, trial: Trial, launcher: Launcher, cpus: int) -> dict[str, Any]:
        """Run a trial's last rung on fresh seeds, and take its measures again."""
        search, confirm = self.search, self.search.confirm
        assert confirm is not None
        last = rungs_of(search.job, trial.settings, search.rungs)[-1]
        job = with_settings(search.job, {**last, "seeds": confirm.seeds})
        comparison = job.comparison()
        self.observer.note(
            f"trial {trial.number} is run again on seeds {', '.join(map(str, confirm.seeds))}"
        )
        records = self._dag(comparison.stages, launcher, cpus)
        found = taken(comparison, records, search.measures, self.store)
        return {
            "number": trial.number,
            "seeds": list(confirm.seeds),
            "claimed": trial.values,
            "values": found.values,
        }

    def _shown(self, best: Sequence[Trial]) -> Trial:
        """The trial whose whole comparison is in the report: the best, or the first."""
        return best[0] if best else self.plan.trials[min(self.plan.trials)]

    def _make(self, trial: Trial, launcher: Launcher, cpus: int) -> dict[str, Record]:
        """The records of a trial's comparison; what the store has lost since is made again."""
        stages = self._job(trial).comparison().stages
        if trial.state == FAILED:
            return {s.id: r for s in stages if (r := self.store.get(s.id)) is not None}
        return self._dag(stages, launcher, cpus)

    def _job(self, trial: Trial) -> Any:
        search = self.search
        rungs = rungs_of(search.job, trial.settings, search.rungs)
        return with_settings(search.job, rungs[max(0, len(trial.rungs) - 1)])

    # ---- what is said -------------------------------------------------------------------------

    def _report(
        self, shown: Trial, records: dict[str, Record], confirmed: list[dict[str, Any]]
    ) -> RunResult:
        search, job = self.search, self._job(shown)
        facts = run_facts(self.started, time.monotonic() - self.clock)
        report = job.report(self.store, records, self.made, facts)
        failed = [t for t in self.plan.trials.values() if t.state == FAILED]
        part = search_part(search, self.plan.trials, self.made, confirmed)
        if part["best"] is not None:
            name, source = recommended(search, self._job(self.plan.trials[part["best"]]))
            place = self.store.write_bytes(f"runs/{search.name}/{name}", source.encode())
            settings = self.plan.trials[part["best"]].settings
            part["recommended"] = {"file": name, "settings": settings, "source": source}
        report |= {
            "name": search.name,
            "title": search.title,
            "fingerprint": self.mark,
            "complete": report["complete"] and not failed,
            "problems": [
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
        print(f"  {_words(trial)}")
        for one in part["confirmed"]:
            again = replace(trial, values=one["values"])
            print(f"  trial {one['number']} on seeds {one['seeds']}: {_words(again)}")
        print(f"  as a job: {place}")


def setting_words(settings: Mapping[str, Any], before: str = "") -> str:
    """Settings on a line."""
    return " ".join(
        f"{before}{name}={value:g}" if isinstance(value, float) else f"{before}{name}={value}"
        for name, value in settings.items()
    )


def _words(trial: Trial) -> str:
    return ", ".join(f"{name} {found['value']:.3f}" for name, found in trial.values.items())
