"""What answers cost in dollars, before and after they are bought."""

from __future__ import annotations

import math
from dataclasses import dataclass

from msm_ray.errors import UserError

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

    def bill(self, calls: int, prompt_tokens: float, tokens: float) -> Bill:
        """What so many calls come to, with so many tokens read and written in each."""
        read, written = int(calls * prompt_tokens), int(calls * tokens)
        return Bill(calls, read, written, self.of(read, written))


@dataclass(frozen=True)
class Bill:
    """What is expected of calls before they are made; ``dollars`` for all of them."""

    calls: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    dollars: float = 0.0

    def __add__(self, other: Bill) -> Bill:
        """Of both."""
        return Bill(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.tokens + other.tokens,
            self.dollars + other.dollars,
        )

    def __mul__(self, times: int) -> Bill:
        """The same so often."""
        return Bill(
            self.calls * times,
            self.prompt_tokens * times,
            self.tokens * times,
            self.dollars * times,
        )

    def estimate(self, at_most: Bill) -> dict[str, float]:
        """For a stage's estimate; ``at_most``: where all that may be asked again is."""
        return {
            "calls": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
            "money": round(self.dollars, 4),
            "calls_at_most": at_most.calls,
            "money_at_most": round(at_most.dollars, 4),
        }
