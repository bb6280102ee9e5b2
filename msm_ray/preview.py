"""What a run would cost, before anything runs: counted from the stages, without a cluster."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from msm_ray import device
from msm_ray.artifact import DamagedArtifact, Store
from msm_ray.comparison import TRAININGS
from msm_ray.experiment import Experiment
from msm_ray.graph import Graph, build
from msm_ray.llm.endpoint import Endpoint
from msm_ray.stage import Stage, topological

T = TypeVar("T")
FEW_STEPS = 100
LEAST_BYTES = 1e9  # in the store, that are worth a word
LARGE_PARAMETERS = 1e8  # above, nobody trains for a rehearsal
SCRIPTED = "scripted"  # what `msm_ray.llm.scripted` calls its model
QUANTITIES = ("documents", "calls", "tokens", "steps")


def preview(exp: Experiment, store_url: str) -> dict[str, Any]:
    """What a run of one experiment would cost; see :func:`preview_graphs`."""
    return preview_graphs(exp.name, [build(exp)], exp, store_url)


def preview_graphs(
    name: str,
    graphs: Sequence[Graph],
    exp: Experiment,
    store_url: str,
    members: Sequence[str] = (),
) -> dict[str, Any]:
    """Counts by stage kind: how many, how many are in the store, and what the rest costs.

    Args:
        graphs: one for an experiment; one for each trial of a search, whose common stages count
            once.
        members: what a warning calls each of the graphs.

    Returns:
        ``{"stages": [{kind, label, count, cached, documents, calls, tokens, steps, flops,
        device_seconds}], "totals": {...}, "sharing": {stages_if_not_shared, stages,
        device_seconds_saved}, "gpus": see `gpu_time`, "warnings": [...]}``. Quantities count what
        is *not* cached. FLOPs are 6 per parameter and token (Kaplan et al. 2020, arXiv 2001.08361,
        section 2.1); device-seconds are estimates for one CPU core.
    """
    stages = {s.id: s for g in graphs for s in g.stages}.values()
    store = Store(store_url, create=False)
    parameters = {b.name: parameters_of(Path(b.path)) for b in exp.bases}
    largest = max(parameters.values(), default=0)
    cached = {s.id for s in stages if _there(store, s)}
    rows: dict[str, dict[str, Any]] = {}
    for stage in stages:
        row = rows.setdefault(stage.kind, defaultdict(float, kind=stage.kind, labels=[]))
        row["count"] += 1
        row["labels"].append(stage.label)
        if stage.id in cached:
            row["cached"] += 1
            continue
        for name in QUANTITIES:
            row[name] += stage.estimate.get(name, 0)
        row["device_seconds"] += _device_seconds(stage)
        if stage.kind in TRAININGS:
            row["flops"] += 6.0 * largest * stage.estimate.get("tokens", 0)
    table = [_row(r) for r in rows.values()]
    todo = [s for s in stages if s.id not in cached]
    of_members = {m: graph.stages for m, graph in zip(members, graphs, strict=False)}
    numbers = ("count", "cached", *QUANTITIES, "flops", "device_seconds")
    totals = {n: _tidy(sum(r[n] for r in table)) for n in numbers}
    return {
        "name": name,
        "stages": table,
        "totals": totals,
        "gpus": gpu_time(todo),
        "warnings": few_steps_of(of_members, todo) if members else few_steps(todo),
        "sharing": sharing([c.stage for g in graphs for c in g.cells], stages),
    }


def count_by_kind(
    stages: Iterable[Stage], there: Collection[str], numbers: Sequence[str], parameters: int = 0
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for each kind of stage, and their totals: ``numbers`` are of what is not ``there``.

    ``parameters``: of the model that trainings train whose estimates say no FLOPs.
    """
    rows: dict[str, dict[str, Any]] = {}
    columns = ("count", "cached", *numbers, "device_seconds")
    for stage in stages:
        row = rows.setdefault(stage.kind, {"kind": stage.kind, "label": stage.label})
        found: dict[str, float] = {"count": 1, "cached": int(stage.id in there)}
        if stage.id not in there:
            found |= {name: stage.estimate.get(name, 0) for name in numbers}
            found["device_seconds"] = stage.estimate.get("seconds", 0)
            if parameters and stage.kind in TRAININGS:
                flops = 6.0 * parameters * stage.estimate.get("tokens", 0)
                found["flops"] = stage.estimate.get("flops", flops)
        for name in columns:
            row[name] = row.get(name, 0) + found.get(name, 0)
    return list(rows.values()), {n: sum(row[n] for row in rows.values()) for n in columns}


def _there(store: Store, stage: Stage) -> bool:
    try:
        return store.get(stage.id) is not None
    except DamagedArtifact:
        return False  # a run sets it aside and makes it again


def _row(row: dict[str, Any]) -> dict[str, Any]:
    labels = row["labels"]
    shown = labels[0] if len(labels) == 1 else f"{labels[0]} ... {labels[-1]}"
    numbers = ("count", "cached", *QUANTITIES, "flops", "device_seconds")
    return {"kind": row["kind"], "label": shown, **{n: _tidy(row.get(n, 0)) for n in numbers}}


def _tidy(value: float) -> float | int:
    return int(value) if float(value).is_integer() else round(value, 1)


def _device_seconds(stage: Stage) -> float:
    return stage.estimate.get("seconds", 0.0)


def few_steps(stages: Iterable[Stage]) -> list[str]:
    """What to say of trainings of fewer than FEW_STEPS optimizer steps, a line for each kind.

    A replication of the method found that steps decide: a million tokens in 31 steps taught
    nothing, in some 246 they did. What goes on from a trunk counts the trunk's steps; a trunk, from
    which no model comes, is not warned of.
    """
    found: dict[tuple[str, float], list[Stage]] = {}
    for stage in stages:
        steps = stage.estimate.get("path_steps", stage.estimate.get("steps", FEW_STEPS))
        if steps < FEW_STEPS and stage.kind != "trunk":
            found.setdefault((stage.kind, steps), []).append(stage)
    return [
        f"{few[0].name}{f' and {len(few) - 1} more' if len(few) > 1 else ''}: about {steps:.0f}"
        f" optimizer steps; with fewer than {FEW_STEPS} a stage often teaches nothing: give it more"
        " tokens or a smaller batch_blocks"
        for (_, steps), few in found.items()
    ]


def few_steps_of(members: Mapping[str, Iterable[Stage]], missing: Collection[Stage]) -> list[str]:
    """`few_steps` of what is ``missing``, with the first member that each training belongs to."""
    left = {stage.id for stage in missing}
    lines = []
    for name, stages in members.items():
        own = {s.id: s for s in stages if s.id in left}
        left -= set(own)
        lines += [f"{name}: {line}" for line in few_steps(own.values())]
    return lines


def gpus_of(stage: Stage) -> float:
    """GPUs that a stage keeps while it runs: those of a training's workers or of an engine."""
    if stage.runtime.get("use_gpu"):
        return float(stage.runtime["num_workers"])
    return float(stage.runtime.get("engine", {}).get("gpus", 0))


def gpu_time(missing: Sequence[Stage]) -> dict[str, Any]:
    """What GPUs are needed for, empty if none are.

    ``{device, hours, at_once, least_hours, each: {kind: GPUs}}``. ``hours`` are GPU-hours.
    ``at_once``: GPUs that the stages could keep busy at the same time, those that are as far from
    the start as each other. ``least_hours``: the longest way through trainings and evaluations,
    which no number of GPUs shortens; what writers of text take is not in it.
    """
    each: dict[str, float] = {}
    seconds = 0.0
    depth: dict[str, int] = {}
    path: dict[str, float] = {}
    at_once: dict[int, float] = defaultdict(float)
    stages = topological(missing)
    todo = {stage.id for stage in missing}
    for stage in stages:
        gpus, before = gpus_of(stage), [i.id for i in stage.inputs.values()]
        here = stage.id in todo
        depth[stage.id] = max((depth[i] for i in before), default=0) + here
        path[stage.id] = max((path[i] for i in before), default=0.0)
        if not (here and gpus):
            continue
        each[stage.kind] = max(gpus, each.get(stage.kind, 0.0))
        seconds += _device_seconds(stage)
        path[stage.id] += _device_seconds(stage) / max(gpus, 1.0)
        at_once[depth[stage.id]] += gpus
    if not each:
        return {}
    return {
        "device": device.NAME,
        "hours": round(seconds / 3600, 1),
        "at_once": _tidy(max(at_once.values())),
        "least_hours": round(max(path.values()) / 3600, 2),
        "each": {kind: _tidy(gpus) for kind, gpus in each.items()},
    }


def disk_space(missing: Iterable[Stage]) -> dict[str, float]:
    """Bytes that trainings will write to the store, by kind of stage; small models count nothing.

    A trunk is kept with its optimizer's state, for it may be continued by any later budget.
    """
    found: dict[str, float] = defaultdict(float)
    for stage in missing:
        if size := stage.estimate.get("bytes", 0.0):
            found[stage.kind] += size
    return dict(found) if sum(found.values()) >= LEAST_BYTES else {}


def rehearsed(job: Any, stages: Iterable[Stage]) -> list[str]:
    """What to say of a job that trains a large model on what the scripted server writes."""
    largest = max((s.estimate.get("parameters", 0) for s in stages), default=0)
    if largest <= LARGE_PARAMETERS:
        return []
    names = [name for name, of in found_below(job, Endpoint) if of.model == SCRIPTED]
    if not names:
        return []
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return [
        f"a model of {largest / 1e9:.3g}G parameters, and {shown} name the scripted server, which"
        " only rehearses a run; give real models: base_url, model and key_env of each"
    ]


def found_below(node: Any, kind: type[T], name: str = "") -> Iterator[tuple[str, T]]:
    """(name, value) of every value of a class below a job, as ``--set`` would name it."""
    if isinstance(node, kind):
        yield name, node
    parts: Iterable[tuple[Any, Any]] = ()
    if dataclasses.is_dataclass(node):
        parts = ((field.name, getattr(node, field.name)) for field in dataclasses.fields(node))
    elif isinstance(node, Mapping):
        parts = node.items()
    elif isinstance(node, tuple):
        parts = enumerate(node)
    for key, value in parts:
        yield from found_below(value, kind, f"{name}.{key}" if name else str(key))


def sharing(cells: Sequence[Stage], stages: Collection[Stage]) -> dict[str, Any]:
    """What separate scripts, one per arm, base and seed, would run in addition."""
    alone_count, alone_seconds = 0, 0.0
    for cell in cells:
        path: dict[str, Stage] = {}
        queue = [cell]
        while queue:
            stage = queue.pop()
            path[stage.id] = stage
            queue.extend(stage.inputs.values())
        alone_count += len(path)
        alone_seconds += sum(_device_seconds(s) for s in path.values())
    shared = sum(_device_seconds(s) for s in stages)
    return {
        "stages_if_not_shared": alone_count,
        "stages": len(stages),
        "device_seconds_saved": round(alone_seconds - shared, 1),
    }


def parameters_of(folder: Path) -> int:
    """Parameters of a Hugging Face folder, from the safetensors headers alone."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                count = 1
                for size in tensors.get_slice(name).get_shape():
                    count *= size
                total += count
    return total
