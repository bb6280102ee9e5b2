"""From what an engine returned to a value per item. Pure functions of numbers and text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

# Why a choice counts as undecided.
NEITHER, BOTH, TIE = "names_neither", "names_both", "tie"


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


def named(text: str, options: Sequence[str]) -> list[int]:
    """The indices of the options that ``text`` names, ascending.

    An option is named where it stands as whole words, whatever the case. An occurrence inside a
    longer option ("art" in "modern art") is the longer option's alone.
    """
    longest_first = sorted(options, key=len, reverse=True)
    pattern = "|".join(re.escape(option) for option in longest_first)
    found = {m.lower() for m in re.findall(rf"(?<!\w)(?:{pattern})(?!\w)", text, re.IGNORECASE)}
    return [i for i, option in enumerate(options) if option.lower() in found]


def named_option(text: str, options: Sequence[str]) -> int | None:
    """The index of the one option that ``text`` names, or None if it names none or several."""
    return one_of(named(text, options))[0]


def lettered(text: str, letters: Sequence[str], options: Sequence[str]) -> list[int]:
    """The indices of the options that ``text`` names by letter or in full, ascending.

    A letter counts in parentheses anywhere, and without them where the text begins with it and it
    stands alone: "A", "A.", "a: because". "A fine question" names nothing: that is an article.
    """
    found = {letter.upper() for letter in re.findall(r"\((\w)\)", text)}
    start = re.match(r"[\s*_\"']*(\w)[*_\"']*\s*(?:[).:,]|$)", text)
    if start:
        found.add(start[1].upper())
    by_letter = {i for i, letter in enumerate(letters) if letter.upper() in found}
    return sorted(by_letter | set(named(text, options)))


def one_of(found: Sequence[int]) -> tuple[int | None, str]:
    """(the one index, "ok"), or (None, NEITHER or BOTH): which was meant is never guessed."""
    if len(found) == 1:
        return found[0], "ok"
    return None, BOTH if found else NEITHER


def mean_loss(logprobs: Sequence[float]) -> float:
    """Mean negative log-probability in nats per token of a text's predicted tokens."""
    if not logprobs:
        raise ValueError("a text without a predicted token has no loss")
    return -math.fsum(logprobs) / len(logprobs)
