"""What a task is to whoever runs it: the stage that asks it of a checkpoint. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msm_ray.evaluate.engines import EngineSettings
from msm_ray.llm.model import AnyModel
from msm_ray.stage import Stage


class Task(Protocol):
    """Items, a prompt and a scorer, each with its version, as plain data (a frozen dataclass).

    The stage's facts hold, under ``evals``, an entry for each name in :attr:`evals`:
    ``{rate, n, by_domain: {DOMAIN: {rate, n}}, ...}`` and whatever counts the task adds (unparsed,
    refused, failed); its ``rows.parquet`` (``EVAL_ROW_SCHEMA``) has the value of every item.
    """

    @property
    def evals(self) -> Sequence[str]:
        """Names of the rates that come out of it, unique among an experiment's tasks."""

    def stage(self, inputs: Mapping[str, Stage], label: str, engine: EngineSettings) -> Stage:
        """The stage that asks this task of a checkpoint.

        Args:
            inputs: ``model``, the checkpoint; and ``base``, where that is an adapter over it.
            label: what the terminal calls the checkpoint.
            engine: how the engine runs; never part of the stage's identity.
        """

    def models(self) -> Sequence[AnyModel]:
        """Whom the stage asks besides the checkpoint: judges."""
