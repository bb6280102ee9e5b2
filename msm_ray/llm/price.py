"""What answers cost in dollars, before and after they are bought."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from msm_ray.errors import UserError
from msm_ray.llm.protocol import Sampling

# Of English with current tokenizers; other languages and code have fewer.
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens, of prompts and of answers."""

    input_per_million: float = 0.0
    output_per_million: float = 0.0

    def __post_init__(self) -> None:
        for name in ("input_per_million", "output_per_million"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"price {name} is {value}; allowed: 0 or more, in US dollars")

    def of(self, prompt_tokens: int, tokens: int) -> float:
        """Dollars for so many tokens."""
        return (
            prompt_tokens * self.input_per_million + tokens * self.output_per_million
        ) / 1_000_000

    def cost(self, answers: pa.Table) -> float:
        """Dollars for a table of ANSWER_SCHEMA.

        Tries that failed are not in it: an endpoint may have charged for some, and does not say.
        """
        prompt_tokens, tokens = (
            pc.sum(answers[name]).as_py() or 0 for name in ("prompt_tokens", "tokens")
        )
        return self.of(prompt_tokens, tokens)

    def estimate(
        self,
        prompts: pa.Table,
        sampling: Sampling,
        *,
        answer_tokens: float | None = None,
        characters_per_token: float = CHARACTERS_PER_TOKEN,
    ) -> Estimate:
        """Price a table of PROMPT_SCHEMA before anything is spent.

        Args:
            prompts: what would be asked.
            sampling: ``max_tokens`` is how long an answer can become.
            answer_tokens: the expected mean length of an answer; None takes the longest possible.
            characters_per_token: of the prompts.
        """
        characters = sum(
            pc.sum(pc.utf8_length(prompts[name])).as_py() or 0 for name in ("system", "prompt")
        )
        prompt_tokens = math.ceil(characters / characters_per_token)
        longest = prompts.num_rows * sampling.max_tokens
        tokens = longest
        if answer_tokens is not None:
            tokens = min(longest, math.ceil(prompts.num_rows * answer_tokens))
        return Estimate(
            calls=prompts.num_rows,
            prompt_tokens=prompt_tokens,
            tokens=tokens,
            dollars=self.of(prompt_tokens, tokens),
            dollars_at_most=self.of(prompt_tokens, longest),
        )


@dataclass(frozen=True)
class Estimate:
    """What a plan will cost.

    Attributes:
        calls: prompts to be answered.
        prompt_tokens: estimated from the number of characters.
        tokens: expected of the answers.
        dollars: for both.
        dollars_at_most: the same if every answer is as long as it may be.
    """

    calls: int
    prompt_tokens: int
    tokens: int
    dollars: float
    dollars_at_most: float
