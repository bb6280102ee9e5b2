"""What "answer these prompts" means, whoever answers: prompts in, one answer for each out.

Nothing here knows vLLM, Ray or HTTP. An implementation of `Answers` gets a table of prompts and a
`Sampling`, and gives back a table with exactly one row for each prompt, in the order of the
prompts; a prompt that could not be answered has its ``error`` set and is never left out.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from msm_ray.errors import UserError

PROMPT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # unique in the table
        ("system", pa.string()),  # the system message; "" for none
        # With a system message, and for a source that only chats, the user's turn; else the text to
        # be continued. Without special tokens.
        ("prompt", pa.string()),
    ]
)

# A table of prompts may have this column beside them: the name of the adapter that answers, "" for
# the model itself. Which names there are, the source of answers says.
ADAPTER = pa.field("adapter", pa.string())

CALL_BYTES = 256 * 2**20  # prompts given to one call of `Answers`, each with the whole spec
PROMPT_BYTES = 8_192  # of a prompt without its system text, at most for most

ANSWER_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),  # the continuation without its end-of-sequence token
        ("prompt_tokens", pa.int64()),  # read by the model; 0 where it is not known or an error
        ("tokens", pa.int64()),  # generated tokens, the end-of-sequence token included
        ("ended", pa.bool_()),  # the model ended by itself, before max_tokens
        ("error", pa.string()),  # "" where the model answered
    ]
)


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. ``max_tokens`` counts the end-of-sequence token.

    ``schema`` is the text of a JSON schema that the answer has to obey, "" for free text.
    """

    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    schema: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"sampling.temperature is {self.temperature}; allowed: 0 or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"sampling.top_p is {self.top_p}; allowed: above 0, at most 1")
        if not isinstance(self.max_tokens, int) or self.max_tokens < 1:
            raise UserError(f"sampling.max_tokens is {self.max_tokens}; allowed: 1 or more")

        if self.schema:
            _read_schema(self.schema)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Sampling:
        """Read the four fields, and ``schema`` if it is there, from a stage's config.

        Raises UserError for any other set of fields. A schema's spacing is made uniform; its order
        stays, because writers fill the properties in the order of the schema.
        """
        needed = ("temperature", "top_p", "max_tokens", "seed")
        if set(config) - {"schema"} != set(needed):
            raise UserError(
                f"sampling has {sorted(config)}; it needs exactly {sorted(needed)}, "
                "and may have 'schema'"
            )
        schema = config.get("schema", "")
        if schema:
            schema = json.dumps(_read_schema(schema), separators=(",", ":"), ensure_ascii=False)
        return cls(**{name: config[name] for name in needed}, schema=schema)

    def to_config(self) -> dict[str, Any]:
        """What `from_config` reads; an empty schema is left out."""
        fields = asdict(self)
        if not self.schema:
            del fields["schema"]
        return fields

    def seed_of(self, id: str) -> int:
        """The 31-bit sampling seed of one prompt.

        It depends on the sampling's seed and on the prompt's id alone, so that an answer does not
        depend on which prompts stand beside it, nor on how often the run was interrupted.
        """
        digest = hashlib.sha256(f"{self.seed}:{id}".encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1


def _read_schema(text: Any) -> dict[str, Any]:
    try:
        schema = json.loads(text)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"sampling.schema is no JSON ({error}); allowed: the text of a JSON schema, or ''"
        ) from error
    if not isinstance(schema, dict):
        raise UserError(f"sampling.schema is {text!r}; allowed: a JSON object, or ''")
    return schema


class Answers(Protocol):
    """A source of answers."""

    @property
    def call_rows(self) -> int:
        """Prompts that one call should have, if there are as many: more where a call costs more."""
        ...

    def answer(
        self,
        prompts: pa.Table,
        sampling: Sampling,
        work: Path,
        progress: Callable[[int], None],
    ) -> pa.Table:
        """Answer every prompt.

        Args:
            prompts: PROMPT_SCHEMA, ids unique; and ADAPTER, where there are adapters.
            sampling: how to draw.
            work: scratch that survives a killed process. Called again with the same prompts, an
                implementation continues from what it finds there.
            progress: called now and then with the number of prompts answered so far.

        Returns:
            ANSWER_SCHEMA, one row for each prompt, in their order.
        """
        ...


def rows_in_call(answers: Answers, row_bytes: int) -> int:
    """Prompts for one call: as many as it should have, and as fit into CALL_BYTES.

    ``row_bytes``: of a prompt's long texts, above all its copy of the system text; PROMPT_BYTES for
    the others are added.
    """
    return max(1, min(answers.call_rows, CALL_BYTES // (row_bytes + PROMPT_BYTES)))
