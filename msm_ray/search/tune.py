"""A search by Ray Tune, in which each trial is a path through the experiments' common stages.

A trial holds no CPU: it walks its own experiment's graph and launches what the store lacks as Ray
tasks. Two trials that need the same stage at the same time meet at its claim in the store: one
makes it, the other waits. So a search costs the *different* stages of its trials, not their sum,
and running it again after a crash repeats nothing that was committed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msm_ray.artifact import Store
from msm_ray.assemble import assemble, closer, effect_arms
from msm_ray.errors import UserError
from msm_ray.experiment import Experiment
from msm_ray.graph import Graph, build
from msm_ray.observe import Observer
from msm_ray.provenance import run_facts
from msm_ray.reports import write_report
from msm_ray.search.space import Axis, best, grid
from msm_ray.search.watch import watched
from msm_ray.settings import RunResult, apply_settings
from msm_ray.stage import Stage, scan
from msm_ray.terminal import tell_of_stopping

# A trial must ask for something: a grain of what every cluster's head has, and no CPU, so that all
# of them are left to the stages.
NO_CPU = {"node:__internal_head__": 0.001}
MADE = ("documents", "midtrain", "aft", "evaluate")


@dataclass(frozen=True)
class Search:
    """Settings to try on one experiment; ``metric`` names the effect to make as large as can be."""

    name: str
    experiment: Experiment
    axes: tuple[Axis, ...]
    metric: str
    max_concurrent_trials: int

    def __post_init__(self) -> None:
        if self.max_concurrent_trials < 1:
            raise UserError(
                f"max_concurrent_trials is {self.max_concurrent_trials}; allowed: 1 or more"
            )
        known = effect_arms(self.experiment)
        if self.metric not in known:
            raise UserError(f"metric is {self.metric!r}; allowed: {', '.join(known)}")
        if lacking := {"heldout_loss", "facts"} - set(self.experiment.evaluation.evals):
            raise UserError(
                f"a search shows what each trial costs; evaluation.evals lacks {sorted(lacking)}"
            )
        self.trials()  # every combination must be a valid experiment

    @property
    def varied(self) -> dict[str, str]:
        """The settings that the axes give: name -> the setting that says their values."""
        return {
            f"experiment.{axis.setting}": f"axes.{i}.values (now {_listed(axis.values)})"
            for i, axis in enumerate(self.axes)
        }

    def trials(self) -> list[tuple[dict[str, float], Experiment]]:
        """The settings and the experiment of each trial."""
        return [(point, _with(self.experiment, point)) for point in grid(self.axes)]

    def graphs(self) -> list[Graph]:
        """Each trial's stages."""
        return [build(exp) for _, exp in self.trials()]

    def preview(self, store_url: str) -> dict[str, Any]:
        """What the search would run, and what the trials share."""
        from msm_ray.preview import preview_graphs

        return preview_graphs(self.name, self.graphs(), self.experiment, store_url)

    def run(self, store_url: str, address: str | None = None) -> RunResult:
        """Run all trials; write the best one's report with the table of trials in it."""
        return run_search(self, store_url, address)


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _with(exp: Experiment, point: dict[str, float]) -> Experiment:
    return apply_settings(exp, [f"{name}={value!r}" for name, value in point.items()])


def distinct(graphs: list[Graph]) -> dict[str, Stage]:
    """All stages of several trials, each once."""
    return {s.id: s for g in graphs for s in g.stages}


def run_search(search: Search, store_url: str, address: str | None) -> RunResult:
    """See :meth:`Search.run`."""
    from msm_ray import runtime  # pulls Ray

    started, clock = datetime.now(UTC), time.monotonic()
    graphs = search.graphs()
    stages = distinct(graphs)
    store = Store(store_url)
    before = set(scan(list(stages.values()), store).records)
    total = len(graphs)
    print(
        f"{search.name}: {total} trials, {len(stages)} stages, {len(before)} in the store",
        flush=True,
    )
    observer = Observer(events=store.events_path(search.name))
    observer.plan(list(stages.values()), before)
    observer.note("Ray starts, then a process for each trial; with them the first stages")
    try:
        with runtime.cluster(address) as cpus, watched(store, stages, observer):
            rows = _tune(search, store, cpus)
    finally:
        observer.done()
    failed = [r for r in rows if "error" in r]
    for row in failed:
        print(f"{search.name}: {row['settings']} failed: {row['error']}", flush=True)
    if len(failed) == len(rows):
        # The report names what is missing, so that no older one passes for this run's.
        winner = {"settings": rows[0]["settings"]}
    else:
        winner = best([r for r in rows if "error" not in r], search.metric)
    exp = _with(search.experiment, winner["settings"])
    graph = build(exp)
    records = {i: r for i in stages if (r := store.get(i)) is not None}
    facts = run_facts(started, time.monotonic() - clock)
    report = assemble(exp, graph, store, records, set(records) - before, facts)
    report = closer(report, graph.cells, graph.trainings, store, records)
    report["name"] = search.name
    report["complete"] = report["complete"] and not failed
    report["search"] = {
        "metric": search.metric,
        "trials": rows,
        "best": winner if search.metric in winner else None,
        "stages": _count(stages, set(records) - before),
        "stages_if_not_shared": {
            kind: sum(s.kind == kind for g in graphs for s in g.stages) for kind in MADE
        },
    }
    made = bool(set(records) - before)
    report, json_url, html_url = write_report(store, search.name, report, made)
    if report["search"]["best"] is not None:
        print_best(report["search"])
    return RunResult(report, json_url, html_url, report["complete"])


def _count(stages: dict[str, Stage], made: set[str]) -> dict[str, dict[str, int]]:
    return {
        kind: {
            "needed": sum(s.kind == kind for s in stages.values()),
            "made": sum(s.kind == kind and s.id in made for s in stages.values()),
        }
        for kind in MADE
    }


def print_best(result: dict[str, Any]) -> None:
    """The best recipe, for the terminal."""
    winner = result["best"]
    settings = " ".join(f"--set {k}={v:g}" for k, v in winner["settings"].items())
    print(f"best of {len(result['trials'])}: {settings}")
    print(
        f"  {result['metric']} {winner[result['metric']]:.3f}, "
        f"held-out loss {winner['heldout_loss']:.3f}, facts {winner['facts']:.3f}"
    )


def trial(config: dict[str, Any]) -> dict[str, float]:
    """Run one trial's missing stages and measure it: the function that Ray Tune calls.

    Args:
        config: ``{"experiment": Experiment, "settings": {...}, "store": URL, "cpus": int,
            "metric": str}``.
    """
    from msm_ray import runtime
    from msm_ray.stage import run_dag

    exp = _with(config["experiment"], config["settings"])
    graph = build(exp)
    store = Store(config["store"])
    observer = Observer(sinks=[])
    launcher = runtime.RayLauncher(observer.progress)
    try:
        records = run_dag(graph.stages, store, launcher, observer, cpus=config["cpus"])
    finally:
        launcher.close()
    facts: dict[str, Any] = {"wall_seconds": 0.0, "started": "", "finished": ""}
    facts |= {"versions": {}, "machine": {}}
    report = assemble(exp, graph, store, records, set(), facts)
    effect = report["effects"][config["metric"]]
    fitted = [report["arms"][f"msm:{s.name}+aft"]["evals"] for s in exp.specs]
    return {
        config["metric"]: effect["value"],
        "heldout_loss": sum(e["heldout_loss"]["rate"] for e in fitted) / len(fitted),
        "facts": sum(e["facts"]["rate"] for e in fitted) / len(fitted),
    }


def _tune(search: Search, store: Store, cpus: int) -> list[dict[str, Any]]:
    from ray import tune

    clock = time.monotonic()
    points = [p for p, _ in search.trials()]

    class Lines(tune.Callback):  # type: ignore[misc]
        """One line on the terminal for each trial that ends."""

        done = 0
        begun = False

        def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
            if not self.begun:  # by now Tune has taken Ctrl-C over, and says nothing
                self.begun = True
                tell_of_stopping()

        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **_: Any
        ) -> None:
            self.done += 1
            left = (time.monotonic() - clock) / self.done * (len(points) - self.done)
            value = trial.last_result.get(search.metric, float("nan"))
            point = " ".join(f"{k}={v:g}" for k, v in trial.config["settings"].items())
            print(
                f"  trial {self.done}/{len(points)}: {point}: {search.metric} {value:.3f}; "
                f"about {left:.0f} s left",
                flush=True,
            )

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            self.done += 1
            point = " ".join(f"{k}={v:g}" for k, v in trial.config["settings"].items())
            print(f"  trial {self.done}/{len(points)}: {point}: failed", flush=True)

    scratch = Path(store.work_dir(f"search-{search.name}"))
    tuner = tune.Tuner(
        tune.with_resources(trial, NO_CPU),
        param_space={
            "experiment": search.experiment,
            "settings": tune.grid_search(points),
            "store": store.url,
            "cpus": cpus,
            "metric": search.metric,
        },
        tune_config=tune.TuneConfig(
            metric=search.metric,
            mode="max",
            max_concurrent_trials=search.max_concurrent_trials,
        ),
        run_config=tune.RunConfig(
            name=search.name, storage_path=str(scratch), verbose=0, callbacks=[Lines()]
        ),
    )
    results = tuner.fit()
    rows: list[dict[str, Any]] = []
    for result in results:
        row: dict[str, Any] = {"settings": (result.config or {})["settings"]}
        if result.error is not None:
            row["error"] = str(result.error).strip().splitlines()[-1]
        else:
            metrics = result.metrics or {}
            if search.metric not in metrics:  # Tune returns after Ctrl-C as if it were done
                raise KeyboardInterrupt
            row |= {k: metrics[k] for k in (search.metric, "heldout_loss", "facts")}
        rows.append(row)
    return rows
