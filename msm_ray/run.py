"""Run an experiment: connect, run what is missing, write the report."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from msm_ray.artifact import Store
from msm_ray.assemble import assemble
from msm_ray.experiment import Experiment
from msm_ray.graph import build
from msm_ray.observe import Observer
from msm_ray.report.html import render_html
from msm_ray.settings import RunResult
from msm_ray.stage import StageFailed, run_dag, scan


def run(exp: Experiment, store_url: str, address: str | None = None) -> RunResult:
    """Run the experiment's missing stages and write ``runs/NAME/report.{json,html}``.

    When a stage fails, what does not depend on it is still there: the report is written with the
    missing cells named, and the failure is raised.

    Raises:
        UserError: the input is wrong.
        StageFailed: a stage failed; the report that could be made is in the store.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    graph = build(exp)  # before the cluster: wrong input is told at once
    store = Store(store_url)
    observer = Observer(events=store.events_path(exp.name))
    found = scan(graph.stages, store)
    failure: StageFailed | None = None
    from msm_ray import runtime  # pulls Ray

    if not found.missing(graph.targets):
        run_dag(graph.targets, store, None, observer, found=found)
    else:
        with runtime.cluster(address) as cpus:
            launcher = runtime.RayLauncher(observer.progress)
            try:
                run_dag(graph.targets, store, launcher, observer, cpus=cpus, found=found)
            except StageFailed as error:
                failure = error
            finally:
                launcher.close()
    records = {s.id: r for s in graph.stages if (r := store.get(s.id)) is not None}
    facts: dict[str, Any] = {
        "wall_seconds": time.monotonic() - clock,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": runtime.versions(),
        "machine": runtime.machine(),
    }
    report = assemble(exp, graph, store, records, observer.state.made_ids, facts)
    json_url = store.write_json(f"runs/{exp.name}/report.json", report)
    html_url = store.write_bytes(
        f"runs/{exp.name}/report.html", render_html(report).encode("utf-8")
    )
    if failure is not None:
        raise failure
    return RunResult(report, json_url, html_url, report["complete"])
