"""What can be asked of an engine: one thing to compute, as token ids. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """One thing to compute; ``kind`` says what comes back.

    next:     logprob of each of ``candidates`` (token ids) right after ``prompt``: list of floats
    sequence: logprob of each token of ``prompt`` from position ``start`` on: list of floats
    generate: continuation of ``prompt`` by up to ``max_tokens`` tokens, end token left out: ids. So
              an answer of exactly ``max_tokens`` was cut off. Greedy at ``temperature`` 0; else
              drawn with ``seed``, which two requests that shall differ must not share.
    """

    kind: str
    prompt: tuple[int, ...]
    candidates: tuple[int, ...] = ()
    start: int = 1
    max_tokens: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
