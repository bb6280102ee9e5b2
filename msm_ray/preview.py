"""What a run would cost, before anything runs: counted from the stages, without a cluster."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from msm_ray.artifact import DamagedArtifact, Store
from msm_ray.experiment import Experiment
from msm_ray.graph import Graph, build
from msm_ray.stage import Stage

FEW_STEPS = 100
QUANTITIES = ("documents", "calls", "tokens", "steps")


def preview(exp: Experiment, store_url: str) -> dict[str, Any]:
    """What a run of one experiment would cost; see :func:`preview_graphs`."""
    return preview_graphs(exp.name, [build(exp)], exp, store_url)


def preview_graphs(
    name: str, graphs: Sequence[Graph], exp: Experiment, store_url: str
) -> dict[str, Any]:
    """Counts by stage kind: how many, how many are in the store, and what the rest costs.

    Args:
        graphs: one for an experiment; one for each trial of a search, whose common stages count
            once.

    Returns:
        ``{"stages": [{kind, label, count, cached, documents, calls, tokens, steps, flops,
        device_seconds}], "totals": {...}, "sharing": {stages_if_not_shared, stages,
        device_seconds_saved}}``. Quantities count what is *not* cached. FLOPs are 6 per parameter
        and token (Kaplan et al. 2020, arXiv 2001.08361, section 2.1); device-seconds are estimates
        for one CPU core.
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
        if stage.kind in ("trunk", "midtrain", "aft"):
            row["flops"] += 6.0 * largest * stage.estimate.get("tokens", 0)
    table = [_row(r) for r in rows.values()]
    numbers = ("count", "cached", *QUANTITIES, "flops", "device_seconds")
    totals = {n: _tidy(sum(r[n] for r in table)) for n in numbers}
    return {
        "name": name,
        "stages": table,
        "totals": totals,
        "warnings": few_steps(s for s in stages if s.id not in cached),
        "sharing": sharing([c.stage for g in graphs for c in g.cells], stages),
    }


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
