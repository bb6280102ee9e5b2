"""The mixtures that trainings read: what was asked for and what came of it, for the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msm_ray.artifact import Record
from msm_ray.stage import Stage

# Arm, base name, seed, "midtrain" | "aft", the stage that trains.
ArmTraining = tuple[str, str, int, str, Stage]
Mixed = tuple[str, str]  # id of blocks, and of the training that reads their beginning, or ""


def mixtures(
    trainings: Iterable[ArmTraining], records: Mapping[str, Record]
) -> list[dict[str, Any]]:
    """One entry for each mixture; arms that read the same blocks share it.

    ``{stage, arms, runs, tokens, components: [{name, asked_share, share: [lowest, highest], tokens,
    documents, repeats, refused}]}``: of a component the mean over runs, of its realised share the
    range. Only of blocks that are there and that say what they are of. Of a training that read the
    beginning of its blocks, what is in that; its ``documents`` are None, for they are not counted.
    """
    mixes: dict[tuple[str, str], dict[Mixed, None]] = {}  # (arm, stage) -> what its runs read
    for arm, _, _, name, stage in trainings:
        made = stage.inputs.get("blocks")
        if made is not None and made.id in records and "components" in records[made.id].facts:
            part = stage.id if "read" in _facts(stage.id, records) else ""
            mixes.setdefault((arm, name), {}).setdefault((made.id, part))
    shared: dict[tuple[str, tuple[Mixed, ...]], list[str]] = {}
    for (arm, name), read in mixes.items():
        shared.setdefault((name, tuple(read)), []).append(arm)
    return [
        {
            "stage": name,
            "arms": arms,
            **_mixture([_part(_facts(i, records), _facts(part, records)) for i, part in read]),
        }
        for (name, read), arms in shared.items()
    ]


def _facts(id: str, records: Mapping[str, Record]) -> Mapping[str, Any]:
    return records[id].facts if id in records else {}


def _part(blocks: Mapping[str, Any], training: Mapping[str, Any]) -> Mapping[str, Any]:
    """Facts of a mixture, or of that part of it which a training has ``read``."""
    if "read" not in training:
        return blocks
    read: Mapping[str, int] = training["read"]
    total = sum(read.values())
    parts = []
    for component in blocks["components"]:
        tokens = read.get(component["name"], 0)
        own = {"tokens": tokens, "share": tokens / max(1, total), "documents": None}
        repeats = tokens / max(1, component["available"])
        parts.append({**component, **own, "repeats": repeats})
    return {**blocks, "tokens": total, "components": parts}


def _mixture(facts: list[Mapping[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(c["name"] for f in facts for c in f["components"])
    return {
        "runs": len(facts),
        "tokens": _mean(f["tokens"] for f in facts),
        "components": [_component(name, facts) for name in names],
    }


def _component(name: str, facts: list[Mapping[str, Any]]) -> dict[str, Any]:
    own = [c for f in facts for c in f["components"] if c["name"] == name]
    shares = [c["share"] for c in own]
    return {
        "name": name,
        "asked_share": _mean(c["asked_share"] for c in own),
        "share": [min(shares), max(shares)],
        **{k: _mean(c[k] for c in own) for k in ("tokens", "repeats")},
        "documents": None if own[0]["documents"] is None else _mean(c["documents"] for c in own),
        "refused": _mean(f["refused"].get(name, {}).get("documents", 0) for f in facts),
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return round(sum(found) / len(found), 6)
