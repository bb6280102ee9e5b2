"""The model that a recipe trains, as a stage: a Hugging Face folder, or a name on the hub."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_ray import device
from msm_ray.errors import UserError
from msm_ray.llm.model import content, is_folder
from msm_ray.stage import Stage


@dataclass(frozen=True)
class Pretrained:
    """The model that is trained: a Hugging Face folder, or a name on the hub at a revision.

    ``parameters`` sizes the preview; nothing else depends on it. ``chat_template``: the path of a
    Jinja template, for a model that has none: conversations are trained on and asked in it.
    """

    source: str
    parameters: float
    revision: str = "main"
    chat_template: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.parameters) and self.parameters > 0):
            raise UserError(f"model: parameters is {self.parameters}, allowed is a number > 0")

    def stage(self) -> Stage:
        """The model as an artifact: a folder by its files, a name by its revision."""
        identity = {"hub": self.source, "revision": self.revision}
        runtime: dict[str, Any] = {"chats": True}
        run = "msm_ray.sources:fetch_model"
        if is_folder(self.source):
            identity = {"name": Path(self.source).name, "sha256": content(self.source)}
            run, runtime["path"] = "msm_ray.sources:copy_model", self.source
        if self.chat_template:
            identity["chat_template"] = self._template()
        return Stage(
            kind="model",
            version="1",
            config=identity,
            inputs={},
            run=run,
            label=Path(self.source).name,
            runtime={**runtime, "where": "driver", "cpus": 0.1},
            estimate={
                "seconds": device.WEIGHT_BYTES * self.parameters / device.STORE_BYTES,
                "parameters": self.parameters,
            },
        )

    def _template(self) -> str:
        try:
            return Path(self.chat_template).read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"model chat_template {self.chat_template}: {error}") from None

    @property
    def name(self) -> str:
        """What a report calls it: the folder's name, or that on the hub."""
        return Path(self.source).name if is_folder(self.source) else self.source
