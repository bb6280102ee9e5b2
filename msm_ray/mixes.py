"""The mixtures that trainings read: what was asked for and what came of it, for the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msm_ray.artifact import Record
from msm_ray.stage import Stage

# Arm, base name, seed, "midtrain" | "aft", the stage that trains.
ArmTraining = tuple[str, str, int, str, Stage]


def mixtures(
    trainings: Iterable[ArmTraining], records: Mapping[str, Record]
) -> list[dict[str, Any]]:
    """One entry for each mixture; arms that read the same blocks share it.

    ``{stage, arms, runs, tokens, components: [{name, asked_share, share: [lowest, highest], tokens,
    documents, repeats, refused}]}``: of a component the mean over runs, of its realised share the
    range. Only of blocks that are there and that say what they are of.
    """
    blocks: dict[tuple[str, str], dict[str, None]] = {}  # (arm, stage) -> ids of its blocks
    for arm, _, _, name, stage in trainings:
        made = stage.inputs.get("blocks")
        if made is not None and made.id in records and "components" in records[made.id].facts:
            blocks.setdefault((arm, name), {}).setdefault(made.id)
    shared: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (arm, name), ids in blocks.items():
        shared.setdefault((name, tuple(ids)), []).append(arm)
    return [
        {"stage": name, "arms": arms, **_mixture([records[i].facts for i in ids])}
        for (name, ids), arms in shared.items()
    ]


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
        **{k: _mean(c[k] for c in own) for k in ("tokens", "documents", "repeats")},
        "refused": _mean(f["refused"].get(name, {}).get("documents", 0) for f in facts),
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return round(sum(found) / len(found), 6)
