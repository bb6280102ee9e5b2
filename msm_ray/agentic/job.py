"""What the process that rolls scenarios out is told: how, and by whom. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msm_ray.agentic.scenarios import ASSISTANT
from msm_ray.errors import UserError
from msm_ray.llm.endpoint import Endpoint, HttpRuntime


@dataclass(frozen=True)
class How:
    """How rollouts are made: what their results depend on besides model and scenario.

    Attributes:
        scratchpad: the assistant is asked to think in private before it acts.
        assistant: what it is called.
        max_tokens: of one answer.
        max_turns: answers of one rollout at most.
        variants: scenarios of a cell, by their names and numbers; rollouts take them in turn.
        seed: of the sampling.
    """

    scratchpad: bool = False
    assistant: str = ASSISTANT
    temperature: float = 0.7
    max_tokens: int = 1024
    max_turns: int = 12
    variants: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise UserError(f"temperature is {self.temperature}; allowed: 0 or more")
        for name in ("max_tokens", "max_turns", "variants"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; allowed: 1 or more")

    def sampling_seed(self, id: str) -> int:
        """Of all requests of one rollout; 31 bits."""
        digest = hashlib.sha256(f"{self.seed}:{id}".encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True)
class Server:
    """Who answers, and how hard it is asked."""

    endpoint: Endpoint
    http: HttpRuntime = field(default_factory=HttpRuntime)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Server:
        """What `dataclasses.asdict` made of one."""
        return cls(Endpoint(**given["endpoint"]), HttpRuntime(**given["http"]))


@dataclass(frozen=True)
class Job:
    """All that :mod:`msm_ray.agentic.rounds` needs. ``logs``: the folder of Inspect's logs."""

    how: How
    server: Server
    logs: Path

    @classmethod
    def from_json(cls, text: str) -> Job:
        """What `to_json` wrote."""
        given = json.loads(text)
        return cls(
            how=How(**given["how"]),
            server=Server.from_dict(given["server"]),
            logs=Path(given["logs"]),
        )

    def to_json(self) -> str:
        """One JSON object; a key is never in it, only the name of its variable."""
        return json.dumps({**dataclasses.asdict(self), "logs": str(self.logs)})
