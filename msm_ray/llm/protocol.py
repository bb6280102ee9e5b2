"""What "answer these prompts" means, whoever answers: prompts in, one answer for each out.

Nothing here knows vLLM, Ray or HTTP. An implementation of `Answers` gets a table of prompts and a
`Sampling`, and gives back a table with exactly one row for each prompt, in the order of the
prompts; a prompt that could not be answered has its ``error`` set and is never left out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from msm_ray.errors import UserError

PROMPT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # unique in the table
        ("prompt", pa.string()),  # the text to be continued, without special tokens
    ]
)

ANSWER_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),  # the continuation without its end-of-sequence token
        ("tokens", pa.int64()),  # generated tokens, the end-of-sequence token included
        ("ended", pa.bool_()),  # the model ended by itself, before max_tokens
        ("error", pa.string()),  # "" where the model answered
    ]
)


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. ``max_tokens`` counts the end-of-sequence token."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"sampling.temperature is {self.temperature}; allowed: 0 or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"sampling.top_p is {self.top_p}; allowed: above 0, at most 1")
        if not isinstance(self.max_tokens, int) or self.max_tokens < 1:
            raise UserError(f"sampling.max_tokens is {self.max_tokens}; allowed: 1 or more")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Sampling:
        """Read the four fields from a stage's config; raises UserError for any other set."""
        allowed = ("temperature", "top_p", "max_tokens", "seed")
        if set(config) != set(allowed):
            raise UserError(f"sampling has {sorted(config)}; it needs exactly {sorted(allowed)}")
        return cls(**{name: config[name] for name in allowed})

    def seed_of(self, id: str) -> int:
        """The 31-bit sampling seed of one prompt.

        It depends on the sampling's seed and on the prompt's id alone, so that an answer does not
        depend on which prompts stand beside it, nor on how often the run was interrupted.
        """
        digest = hashlib.sha256(f"{self.seed}:{id}".encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1


class Answers(Protocol):
    """A source of answers."""

    def answer(
        self,
        prompts: pa.Table,
        sampling: Sampling,
        work: Path,
        progress: Callable[[int], None],
    ) -> pa.Table:
        """Answer every prompt.

        Args:
            prompts: PROMPT_SCHEMA, ids unique.
            sampling: how to draw.
            work: scratch that survives a killed process. Called again with the same prompts, an
                implementation continues from what it finds there.
            progress: called now and then with the number of prompts answered so far.

        Returns:
            ANSWER_SCHEMA, one row for each prompt, in their order.
        """
        ...
