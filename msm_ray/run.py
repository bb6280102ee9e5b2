"""Run an experiment: connect, run what is missing, write the report."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from msm_ray.artifact import Store
from msm_ray.assemble import assemble
from msm_ray.errors import UserError
from msm_ray.experiment import Experiment
from msm_ray.graph import build
from msm_ray.observe import Observer
from msm_ray.preview import few_steps
from msm_ray.reports import write_report
from msm_ray.settings import RunResult
from msm_ray.stage import StageFailed, run_dag, scan


def run(exp: Experiment, store_url: str, address: str | None = None) -> RunResult:
    """Run the experiment's missing stages and write its report (see :mod:`msm_ray.reports`).

    When a stage fails or the run is stopped, the report is written all the same, with the missing
    cells named, but not in the place of a complete one; then the failure is raised.

    Raises:
        UserError: the input is wrong.
        StageFailed: a stage failed; the report that could be made is in the store.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    graph = build(exp)  # before the cluster: wrong input is told at once
    store = Store(store_url)
    observer = Observer(events=store.events_path(exp.name))
    # What follows takes seconds each: reading what is there, and starting a cluster.
    observer.note(f"{exp.name}: {len(graph.stages)} stages; looking for them in {store.url}")
    found = scan(graph.stages, store)
    if missing := found.missing(graph.stages):
        observer.note(f"{len(missing)} to make; Ray starts")
    for warning in few_steps(missing):
        observer.note(f"warning: {warning}")
    failure: BaseException | None = None
    from msm_ray import runtime  # pulls Ray

    # Every stage, not the last ones only: the report reads the trainings and corpora too, and what
    # was found damaged and set aside has to come back.
    if not missing:
        run_dag(graph.stages, store, None, observer, found=found)
    else:
        with runtime.cluster(address) as cpus:
            if note := runtime.gpu_note():
                observer.note(note)
            launcher = runtime.RayLauncher(observer.progress)
            try:
                run_dag(graph.stages, store, launcher, observer, cpus=cpus, found=found)
            except (StageFailed, UserError, KeyboardInterrupt) as error:
                failure = error
            finally:
                launcher.close()
    records = {s.id: r for s in graph.stages if (r := store.get(s.id)) is not None}
    facts = runtime.run_facts(started, time.monotonic() - clock)
    report = assemble(exp, graph, store, records, observer.state.made_ids, facts)
    made = bool(observer.state.made_ids)
    report, json_url, html_url = write_report(store, exp.name, report, made)
    if failure is not None:
        raise failure
    return RunResult(report, json_url, html_url, report["complete"])
