"""Which weights does an engine hold? The fingerprint's prompts, asked of the engine. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from msm_ray.evaluate.checkpoints import Checkpoint, Fingerprint
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.evaluate.requests import Request


@dataclass(frozen=True)
class LoadReport:
    """One load: how, how long, and how far the engine was from the recorded fingerprint (nats)."""

    how: str  # start | swap | add | held
    seconds: float
    distance: float
    verified: bool


class FingerprintMismatch(RuntimeError):
    """An engine does not compute what the checkpoint's trainer recorded; it must not be used."""


def fingerprint_requests(fingerprint: Fingerprint, length: int) -> list[Request]:
    """What shows which weights answer: each prompt's next tokens; and the first of them by scoring
    a sequence, which vLLM computes in another way.

    Args:
        length: the engine's longest sequence, in tokens. A sequence needs room for one token more.
    """
    return [request for request, _ in _asked(fingerprint, length)]


def load_report(
    checkpoint: Checkpoint,
    got: Sequence[Sequence[float]],
    how: str,
    started: float,
    settings: EngineSettings,
    length: int,
) -> LoadReport:
    """Compare what an engine answered to `fingerprint_requests` with what was recorded.

    Args:
        started: of the load, by ``time.perf_counter``.
    """
    worst = 0.0
    asked = _asked(checkpoint.fingerprint, length)
    for row, (_, recorded) in zip(got, asked, strict=True):
        for a, b in zip(row, recorded, strict=True):
            difference = abs(a - b)
            worst = max(worst, math.inf if math.isnan(difference) else difference)
    return LoadReport(how, time.perf_counter() - started, worst, worst <= settings.atol)


def _asked(fingerprint: Fingerprint, length: int) -> list[tuple[Request, tuple[float, ...]]]:
    rows = zip(fingerprint.prompts, fingerprint.token_ids, fingerprint.logprobs, strict=True)
    asked = []
    for prompt, ids, logprobs in rows:
        asked.append((Request("next", prompt, ids), logprobs))
        if len(prompt) + 2 <= length:
            sequence = Request("sequence", (*prompt, ids[0]), start=len(prompt))
            asked.append((sequence, logprobs[:1]))
    return asked
