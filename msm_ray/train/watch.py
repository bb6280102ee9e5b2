"""When a run has gone wrong: not a number, or a loss far above the last ones."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from msm_ray.data.blocks import BlockReader

QUIET_STEPS = 20  # at the start losses fall fast, and their spread says nothing
WINDOW = 50  # steps that a loss is compared with
DEVIATIONS = 10.0
SHOWN_IDS = 5


class TrainingDiverged(RuntimeError):
    """The loss or the gradient is no longer a finite number, or the loss has jumped."""


def spike_limit(losses: Sequence[float], spike_nats: float) -> float:
    """The loss above which a step counts as a spike, in nats per target; infinity for no limit.

    ``median + max(10 * MAD, spike_nats)`` of the last 50 losses: the median absolute deviation
    widens the limit where batches differ by nature, ``spike_nats`` is the least that counts. There
    is none in the first 20 steps, and none with ``spike_nats=0``.
    """
    if spike_nats <= 0 or len(losses) < QUIET_STEPS:
        return math.inf
    window = np.asarray(losses[-WINDOW:])
    median = float(np.median(window))
    deviation = float(np.median(np.abs(window - median)))
    return median + max(DEVIATIONS * deviation, spike_nats)


def what_is_wrong(
    losses: Sequence[float], loss: float, grad_norm: float, spike_nats: float
) -> str | None:
    """What speaks against a step, given the losses before it; None if nothing does."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        return f"loss {loss}, gradient norm {grad_norm}"
    limit = spike_limit(losses, spike_nats)
    if loss > limit:
        return (
            f"loss {loss:.3f} after {losses[-1]:.3f}, gradient norm {grad_norm:.3g} (a loss "
            f"above {limit:.3f} counts as a spike)"
        )
    return None


def documents_of(reader: BlockReader, indices: Iterable[int]) -> list[str]:
    """``component/document id`` of what lies in the blocks, each once, in order."""
    found = (f"{c}/{d}" for index in indices for c, d in reader.sources(int(index)))
    return list(dict.fromkeys(found))


def diverged(
    reason: str,
    step: int,
    steps: int,
    learning_rate: float,
    documents: Sequence[str],
    folder: Path | None,
    good: Path | None,
) -> TrainingDiverged:
    """The error that stops a run at ``step`` (from 1), in one line.

    ``folder`` takes the whole list of documents as ``diverged-step-N.json``; ``good`` is the newest
    checkpoint from whose weights a step has gone well.
    """
    shown = ", ".join(documents[:SHOWN_IDS])
    if len(documents) > SHOWN_IDS:
        shown += f", ... ({len(documents)} in all"
        if folder is not None:
            path = folder / f"diverged-step-{step}.json"
            values = {"step": step, "reason": reason, "documents": list(documents)}
            path.write_text(json.dumps(values, indent=1) + "\n")
            shown += f", listed in {path}"
        shown += ")"
    last = "none was written" if good is None else str(good)
    return TrainingDiverged(
        f"step {step} of {steps}: {reason} at learning rate {learning_rate:g}; documents of the "
        f"batch: {shown}; last good checkpoint: {last}; a lower learning_rate or max_grad_norm may "
        "help"
    )
