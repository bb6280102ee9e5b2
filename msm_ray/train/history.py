"""What a run did, step by step: what its checkpoints and its record hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np


@dataclass
class History:
    """``loss`` in nats per target, before the step's update; one entry a step, like the others.

    A run that branches off from a trunk goes on with the trunk's history: ``steps_before``,
    ``tokens_before`` and ``seconds_before`` say how much of it was there when the run began.
    """

    loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    tokens: int = 0  # trained on, padding not counted
    loss_tokens: int = 0
    seconds: float = 0.0  # of the steps that count: those after the last checkpoint are repeated
    waited: float = 0.0  # seconds besides, for blocks that were still being written
    steps_before: int = 0
    tokens_before: int = 0
    seconds_before: float = 0.0

    @property
    def steps(self) -> int:
        """Steps done."""
        return len(self.loss)

    def go_on(self) -> None:
        """Another run goes on from here: what is there counts as from before it."""
        self.steps_before, self.tokens_before = self.steps, self.tokens
        self.seconds_before = self.seconds

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all ranks together, over the loop's own time."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    def curve(self, points: int = 200) -> list[list[float]]:
        """At most ``points`` pairs [step, mean loss of the steps since the pair before]."""
        edges = np.linspace(0, self.steps, min(points, self.steps) + 1).round().astype(int)
        return [
            [end, float(np.mean(self.loss[begin:end]))] for begin, end in pairwise(edges.tolist())
        ]
