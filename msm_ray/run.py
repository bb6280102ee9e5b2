"""Run a job: connect to what its stages need, run what is missing, write the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from msm_ray.artifact import Record, Store
from msm_ray.errors import UserError
from msm_ray.llm.model import AnyModel, needs_ray
from msm_ray.observe import Observer
from msm_ray.preview import few_steps
from msm_ray.provenance import run_facts
from msm_ray.reports import write_report
from msm_ray.settings import RunResult
from msm_ray.stage import Launcher, LocalLauncher, Stage, StageFailed, run_dag, scan

# (store, committed records by id, ids that this run made, `run_facts` of this run) -> the report
Report = Callable[[Store, dict[str, Record], set[str], dict[str, Any]], dict[str, Any]]


def run_job(
    name: str,
    stages: Sequence[Stage],
    store_url: str,
    address: str | None,
    report: Report,
    models: Sequence[AnyModel] = (),
) -> RunResult:
    """Run the missing ones of ``stages`` and write the job's report (see :mod:`msm_ray.reports`).

    When a stage fails or the run is stopped, the report is written all the same, with what is
    missing named, but not in the place of a complete one; then the failure is raised.

    Args:
        models: those that the stages ask; a key that one lacks is told before anything is paid.

    Raises:
        UserError: the input is wrong, an endpoint or its key is; what was answered stays.
        StageFailed: a stage failed; the report that could be made is in the store.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    store = Store(store_url)
    observer = Observer(events=store.events_path(name))
    # What follows takes seconds each: reading what is there, and starting a cluster.
    observer.note(f"{name}: {len(stages)} stages; looking for them in {store.url}")
    found = scan(stages, store)
    missing = found.missing(stages)
    for warning in few_steps(missing):
        observer.note(f"warning: {warning}")
    failure: BaseException | None = None
    try:
        with launcher_for(missing, models, observer, address) as (launcher, cpus):
            # Every stage, not the last ones only: the report reads the trainings and corpora too,
            # and what was found damaged and set aside has to come back.
            run_dag(stages, store, launcher, observer, cpus=cpus, found=found)
    except (StageFailed, UserError, KeyboardInterrupt) as error:
        failure = error
    records = {s.id: r for s in stages if (r := store.get(s.id)) is not None}
    made = observer.state.made_ids
    facts = run_facts(started, time.monotonic() - clock)
    result = report(store, records, made, facts)
    if isinstance(failure, (StageFailed, UserError)):
        result["problems"] = [str(failure), *result.get("problems", ())]
        result["complete"] = False
    result, json_url, html_url = write_report(store, name, result, bool(made))
    if failure is not None:
        raise failure
    return RunResult(result, json_url, html_url, result["complete"])


@contextmanager
def launcher_for(
    missing: Sequence[Stage],
    models: Sequence[AnyModel],
    observer: Observer,
    address: str | None,
    always_ray: bool = False,
) -> Iterator[tuple[Launcher | None, int | None]]:
    """Who runs the ``missing`` stages, and the cluster's CPUs (None: there is none).

    A stage that only waits for an endpoint runs here. Ray is needed where a model runs on the
    cluster, or a stage does; ``always_ray``: or whatever is to run.
    """
    if not missing and not always_ray:
        yield None, None
        return
    for model in models:
        model.check()
    runtimes = [stage.runtime for stage in missing]
    away = any(runtime.get("where") != "driver" for runtime in runtimes)
    asked = any(needs_ray(value) for runtime in runtimes for value in runtime.values())
    if not (away or asked or always_ray):
        yield LocalLauncher(observer.progress), None
        return
    observer.note(f"{len(missing)} to make; Ray starts")
    from msm_ray import runtime as ray_runtime  # pulls Ray

    with ray_runtime.cluster(address) as cpus:
        if note := ray_runtime.gpu_note(missing):
            observer.note(note)
        launcher = ray_runtime.RayLauncher(observer.progress)
        try:
            yield launcher, cpus
        finally:
            launcher.close()
