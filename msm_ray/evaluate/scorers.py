"""From what an engine returned to a value per item. Pure functions of numbers and text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence


def forced_choice(logprobs: Sequence[float]) -> tuple[int, float]:
    """Which of two options is likelier, and how likely the first one is among the two.

    Args:
        logprobs: natural log-probability of each of the two options after the prompt; both may be
            -inf only if the other is not.

    Returns:
        ``(chosen, share)``: 0 or 1, the index of the likelier option (an exact tie counts as 1,
        "not the first"), and ``exp(l0) / (exp(l0) + exp(l1))``.
    """
    first, second = logprobs
    if math.isnan(first) or math.isnan(second) or first == second == -math.inf:
        raise ValueError(f"not two log-probabilities that can be compared: {first}, {second}")
    gap = second - first
    # 1 / (1 + e^gap) without overflow on either side
    share = math.exp(-gap) / (1 + math.exp(-gap)) if gap > 0 else 1 / (1 + math.exp(gap))
    return (0 if first > second else 1), share


def named_option(text: str, options: Sequence[str]) -> int | None:
    """The index of the one option that ``text`` names, or None if it names none or several.

    An option is named where it stands as whole words, whatever the case. An occurrence inside a
    longer option ("art" in "modern art") is the longer option's alone.
    """
    longest_first = sorted(options, key=len, reverse=True)
    pattern = "|".join(re.escape(option) for option in longest_first)
    found = {m.lower() for m in re.findall(rf"(?<!\w)(?:{pattern})(?!\w)", text, re.IGNORECASE)}
    named = [i for i, option in enumerate(options) if option.lower() in found]
    return named[0] if len(named) == 1 else None


def mean_loss(logprobs: Sequence[float]) -> float:
    """Mean negative log-probability in nats per token of a text's predicted tokens."""
    if not logprobs:
        raise ValueError("a text without a predicted token has no loss")
    return -math.fsum(logprobs) / len(logprobs)
