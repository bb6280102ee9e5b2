"""Which engine for whom: choosing among those that there are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from msm_ray.evaluate.checkpoints import Checkpoint
from msm_ray.evaluate.engine_settings import EngineSettings, rank_reserved


@dataclass(eq=False)
class Slot:
    """One engine's process, or one about to be."""

    node: str
    settings: EngineSettings
    actor: Any = None
    architecture: str = ""
    key: str = ""  # of the whole weights that it holds
    rank: int = 0  # that its adapters may have
    ready: bool = False  # it has been proven to hold something
    leases: dict[str, float] = field(default_factory=dict)  # id -> when its holder's last beat came
    used: float = 0.0


@dataclass(frozen=True)
class Choice:
    """What to do about a request for an engine: take a slot, replace one, start one, or wait."""

    action: str  # take | replace | start | wait
    slot: Slot | None = None


def choose(
    slots: Sequence[Slot], node: str, checkpoint: Checkpoint, settings: EngineSettings, limit: int
) -> Choice:
    """Pick an engine on ``node``: one that holds the checkpoint, or can take it beside what it has;
    one whose weights nobody uses; a new one below ``limit``; one of another architecture in
    exchange; or wait for one in use."""
    here = [s for s in slots if s.node == node]
    free = sorted((s for s in here if not s.leases), key=lambda s: s.used)
    fitting = [
        s for s in here if s.architecture == checkpoint.architecture and s.settings == settings
    ]
    if checkpoint.base is not None:
        return _choose_shared(here, free, fitting, checkpoint, settings, limit)
    for slot in fitting:
        if slot.key == checkpoint.key and slot.ready:
            return Choice("take", slot)
    for slot in free:
        if slot in fitting:
            return Choice("take", slot)
    if len(here) < limit:
        return Choice("start")
    return Choice("replace", free[0]) if free else Choice("wait")


def _choose_shared(
    here: Sequence[Slot],
    free: Sequence[Slot],
    fitting: Sequence[Slot],
    checkpoint: Checkpoint,
    settings: EngineSettings,
    limit: int,
) -> Choice:
    """For an adapter: the engine of its base with the fewest callers, as long as it has room."""
    enough = [s for s in fitting if s.rank >= rank_reserved(checkpoint.rank)]
    if any(not s.ready for s in enough):
        return Choice("wait")  # soon there is one to be shared
    room = [s for s in enough if len(s.leases) < settings.max_adapters]
    if room:
        return Choice("take", min(room, key=lambda s: len(s.leases)))
    for slot in free:
        if slot in fitting:
            return Choice("replace", slot)  # of too low a rank
    if len(here) < limit:
        return Choice("start")
    if free:
        return Choice("replace", free[0])
    return Choice("wait")
