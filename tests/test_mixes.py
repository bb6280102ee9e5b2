"""What the report says of mixtures: what was asked for, what came of it, and for which arms."""

from __future__ import annotations

from typing import Any

from msm_ray.artifact import Record
from msm_ray.mixes import mixtures
from msm_ray.stage import Stage


def stage(kind: str, config: dict[str, Any], **inputs: Stage) -> Stage:
    return Stage(kind=kind, version="1", config=config, inputs=inputs, run="x:y")


def record(of: Stage, share: float, refused: int = 0) -> Record:
    part = {"name": "spec", "asked_share": 0.2, "share": share, "tokens": 100 * share}
    facts = {
        "tokens": 100,
        "components": [{**part, "documents": 4, "repeats": 0.5}],
        "refused": {"spec": {"documents": refused}},
    }
    return Record(of.id, of.kind, "", "1", {}, {}, facts, {}, 1.0)


def test_arms_that_read_the_same_blocks_share_a_row() -> None:
    mixes = [stage("blocks", {"seed": s}) for s in (0, 1)]
    chats = stage("blocks", {"chats": 1})
    trainings = []
    for seed, mix in enumerate(mixes):
        mid = stage("midtrain", {}, blocks=mix)
        both = stage("aft", {}, blocks=chats, model=mid)
        trainings += [
            ("msm:a", "base-0", seed, "midtrain", mid),
            ("msm:a+aft", "base-0", seed, "midtrain", mid),
            ("msm:a+aft", "base-0", seed, "aft", both),
        ]
    records = {m.id: record(m, share) for m, share in zip(mixes, (0.19, 0.22), strict=True)}
    records[chats.id] = record(chats, 1.0, refused=3)
    mid_mix, chat_mix = mixtures(trainings, records)
    assert (mid_mix["stage"], mid_mix["arms"]) == ("midtrain", ["msm:a", "msm:a+aft"])
    assert mid_mix["runs"] == 2
    (part,) = mid_mix["components"]
    assert part["share"] == [0.19, 0.22]
    assert (part["asked_share"], part["tokens"], part["refused"]) == (0.2, 20.5, 0.0)
    assert chat_mix["arms"] == ["msm:a+aft"]
    assert chat_mix["components"][0]["refused"] == 3.0
    # what was not packed is not told
    del records[mixes[0].id], records[mixes[1].id]
    assert [m["stage"] for m in mixtures(trainings, records)] == ["aft"]


def test_a_branch_is_told_by_what_it_has_read() -> None:
    """Two budgets of one mixture: a row each, of the beginning that they read."""
    mix = stage("blocks", {})
    small, large = (stage("midtrain", {"segment": n}, blocks=mix) for n in (1, 2))
    facts = record(mix, 0.2).facts
    part = {**facts["components"][0], "available": 40}
    other = {**part, "name": "replay", "asked_share": 0.8}
    records = {
        mix.id: Record(
            mix.id, "blocks", "", "1", {}, {}, {**facts, "components": [part, other]}, {}, 1.0
        )
    }
    for of, read in ((small, {"spec": 10, "replay": 30}), (large, {"spec": 20, "replay": 80})):
        records[of.id] = Record(of.id, of.kind, "", "1", {}, {}, {"read": read}, {}, 1.0)
    trainings = [
        (f"{arm}@{of.config['segment']}", "base-0", 0, "midtrain", of)
        for of in (small, large)
        for arm in ("msm:a", "msm:a+aft")
    ]
    first, second = mixtures(trainings, records)
    assert (first["arms"], first["tokens"]) == (["msm:a@1", "msm:a+aft@1"], 40)
    assert (second["arms"], second["tokens"]) == (["msm:a@2", "msm:a+aft@2"], 100)
    spec, replay = first["components"]
    assert (spec["share"], spec["tokens"], spec["repeats"]) == ([0.25, 0.25], 10, 0.25)
    assert (spec["asked_share"], spec["documents"]) == (0.2, None)
    assert replay["share"] == [0.75, 0.75]
