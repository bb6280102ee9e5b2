"""A recipe's evaluations: which checkpoint is asked what, what is compared, what is reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from msm_ray.artifact import Record
from msm_ray.cells import Cell, ItemValues, Training
from msm_ray.comparison import Comparison
from msm_ray.effects import Contrast
from msm_ray.errors import UserError
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.evaluate.protocol import Task
from msm_ray.identity import digest
from msm_ray.stage import Stage


def check_tasks(field: str, tasks: Sequence[Task], besides: Sequence[Task] = ()) -> None:
    """UserError unless ``field`` is a tuple of tasks whose evals have names of their own.

    Args:
        besides: tasks of another field, whose names are taken.
    """
    given: Any = tasks
    if not isinstance(given, (tuple, list)):
        comma = "; a tuple of one has a comma behind it" if _is_task(given) else ""
        raise UserError(f"{field} is {_named(given)}, allowed is a tuple of tasks{comma}")
    if odd := [task for task in given if not _is_task(task)]:
        raise UserError(
            f"{field} holds {_named(odd[0])}, allowed are tasks (of msm_ray.tasks, such as"
            ' Pairs("america"))'
        )
    names = Counter(name for task in (*besides, *tasks) for name in task.evals)
    if twice := sorted(name for name, n in names.items() if n > 1):
        raise UserError(f"{field}: {twice[0]} is asked for twice; tasks need names of their own")


def _is_task(value: Any) -> bool:
    return not isinstance(value, type) and all(
        hasattr(value, name) for name in ("evals", "stage", "models")
    )


def _named(value: Any) -> str:
    """A value in a few words: of what it is made, or the thing itself."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return repr(value) if isinstance(value, str) else f"one {type(value).__name__}"


def cells_of(
    tasks: Sequence[Task],
    checkpoints: Sequence[tuple[str, int, Stage]],
    pretrained: Stage,
    base: str,
    engine: EngineSettings,
    adapters: bool,
) -> list[Cell]:
    """A cell for each task and checkpoint (arm, seed, stage).

    Args:
        pretrained: the model as it comes, which adapters lie over.
        base: what the report calls that.
    """
    cells = []
    for arm, seed, stage in checkpoints:
        inputs = {"model": stage}
        if adapters and stage is not pretrained:
            inputs["base"] = pretrained
        label = arm if stage is pretrained else f"{arm}/{seed}"
        for task in tasks:
            asked = task.stage(inputs, label, engine)
            cells.append(Cell(arm, base, seed, asked, tuple(task.evals)))
    return cells


def compared(values: Sequence[str], evals: Sequence[str]) -> dict[str, Contrast]:
    """The effects of a comparison of ``values``: name -> what is compared.

    An eval is about a value if that is the second part of its name (``pairs:america:text``). It is
    compared where midtraining on that value should show; any other eval shows what training costs.
    `Probes` are compared with each other too: how far the spec in the prompt moves the model as it
    comes (``ceiling``), and what another assistant's name does, before training and after it.
    """
    found: dict[str, Contrast] = {}
    for name in evals:
        about = (*name.split(":"), "")[1]
        found[f"aft_minus_base:{name}"] = (name, "aft", "base")
        if about not in values:
            for value in values:
                found[f"price_{value}:{name}"] = (name, f"msm:{value}+aft", "aft")
            continue
        both, alone = f"msm:{about}+aft", f"msm:{about}"
        for other in values:
            if other != about:
                against = f"-{other}" if len(values) > 2 else ""
                found[f"separation{against}:{name}"] = (name, both, f"msm:{other}+aft")
        found[f"{about}_minus_aft:{name}"] = (name, both, "aft")
        found[f"{about}_minus_msm:{name}"] = (name, both, alone)
        found[f"{about}_msm_minus_base:{name}"] = (name, alone, "base")
    return found | _probed(values, evals)


def _probed(values: Sequence[str], evals: Sequence[str]) -> dict[str, Contrast]:
    """What one prompt does against another, in the same arm; see `msm_ray.tasks.probes`."""
    found: dict[str, Contrast] = {}
    for name in evals:
        probe, _, prompt = name.rpartition(":")
        if not probe.startswith("probe:"):
            continue
        if prompt == "spec" and f"{probe}:bare" in evals:
            found[f"ceiling:{probe}"] = (name, "base", "base", f"{probe}:bare")
        if prompt == "swapped" and f"{probe}:named" in evals:
            own, about = f"{probe}:named", probe.split(":")[1]
            found[f"name_swapped:{probe}"] = (name, "base", "base", own)
            if about in values:
                arm = f"msm:{about}+aft"
                found[f"{about}_name_swapped:{probe}"] = (name, arm, arm, own)
    return found


def comparison(
    stages: Sequence[Stage],
    cells: Sequence[Cell],
    values: Sequence[str],
    trainings: Sequence[tuple[str, Training]],
) -> Comparison:
    """What a recipe compares; ``trainings``: (arm, training)."""
    evals = list(dict.fromkeys(name for cell in cells for name in cell.evals))
    flat = [(arm, *training) for arm, training in trainings]
    return Comparison(stages, cells, flat, compared(values, evals))


def evaluated(of: Comparison, records: Mapping[str, Record], items: ItemValues) -> dict[str, Any]:
    """The report's parts that evaluations make: cells, arms with intervals, effects."""
    cells = sorted([c.arm, c.base, c.seed, c.stage.id] for c in of.cells)
    return {
        "kind": "recipe",
        "fingerprint": digest(cells)[:16],
        **of.found(records, items),
    }


def joined_corpora(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The part ``corpus`` of several reports as one; those that have none yet are left out."""
    there = [part for part in parts if part]
    if not there:
        return {}
    joined: dict[str, Any] = {
        name: sum(part[name] for part in there) for name in ("planned", "kept", "failed")
    }
    rejected: dict[str, int] = {}
    for part in there:
        for reason, n in part["rejected"].items():
            rejected[reason] = rejected.get(reason, 0) + n
    by_corpus = {name: one for part in there for name, one in part["by_corpus"].items()}
    reasons = {reason: why for part in there for reason, why in part["reasons"].items()}
    return {**joined, "rejected": rejected, "reasons": reasons, "by_corpus": by_corpus}
