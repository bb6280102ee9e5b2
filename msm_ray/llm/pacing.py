"""When to ask: rate limits, waiting between tries, and what Retry-After says.

The decisions are plain functions of numbers; `Pace` waits accordingly, on a clock that tests
replace.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Protocol


class Clock(Protocol):
    """What time it is, and waiting."""

    def monotonic(self) -> float:
        """Seconds from some moment on, never backwards."""
        ...

    def time(self) -> float:
        """Seconds since 1970, for comparing with a server's dates."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's own."""

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()

    def time(self) -> float:
        """See `Clock.time`."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await asyncio.sleep(seconds)


class Bucket:
    """A token bucket that lets its users run into debt and tells them how long to wait for it.

    Args:
        per_minute: how much flows in; 0 for no limit.
        burst_s: it holds what flows in within so many seconds, and at least 1.
    """

    def __init__(self, per_minute: float, burst_s: float = 1.0) -> None:
        self._rate = per_minute / 60
        self._size = max(1.0, self._rate * burst_s)
        self._level = self._size
        self._at = -math.inf

    def reserve(self, amount: float, now: float) -> float:
        """Take ``amount``; after so many seconds it has been paid for and may be used."""
        if not self._rate:
            return 0.0
        self._fill(now)
        self._level -= amount
        return max(0.0, -self._level / self._rate)

    def give_back(self, amount: float, now: float) -> None:
        """Return what was reserved and not used; below 0, take what was used beyond it."""
        if self._rate:
            self._fill(now)
            self._level += amount

    def _fill(self, now: float) -> None:
        if now > self._at:
            # What was given back may stand above the size: it was paid for, and not used.
            full = max(self._size, self._level)
            self._level = min(full, self._level + self._rate * (now - self._at))
            self._at = now


class Pace:
    """How fast one endpoint may be asked.

    Args:
        requests_per_minute: 0 for no limit.
        tokens_per_minute: of prompts and answers together; 0 for no limit.
        clock: replaced in tests.
    """

    def __init__(self, requests_per_minute: float, tokens_per_minute: float, clock: Clock) -> None:
        self._requests, self._tokens = Bucket(requests_per_minute), Bucket(tokens_per_minute)
        self._clock = clock
        self._closed_until = -math.inf

    async def enter(self, tokens: float) -> None:
        """Wait until a request of about so many tokens may be made."""
        now = self._clock.monotonic()
        wait = max(self._requests.reserve(1, now), self._tokens.reserve(tokens, now))
        until = now + wait
        while (left := max(until, self._closed_until) - self._clock.monotonic()) > 0:
            await self._clock.sleep(left)

    def settle(self, reserved: float, used: float) -> None:
        """Correct the tokens of a request that is done."""
        self._tokens.give_back(reserved - used, self._clock.monotonic())

    def close(self, seconds: float) -> None:
        """Let no request through for so long: the endpoint has asked everyone to wait."""
        self._closed_until = max(self._closed_until, self._clock.monotonic() + seconds)

    async def sleep(self, seconds: float) -> None:
        """Wait between two tries of one prompt."""
        await self._clock.sleep(seconds)


def backoff(attempt: int, base_s: float, max_s: float, chance: random.Random) -> float:
    """Seconds to wait after the failed try ``attempt`` (from 0): exponential with full jitter.

    Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    # 2 to a higher power is no float any more, and above every maximum.
    return chance.uniform(0, min(max_s, base_s * 2.0 ** min(attempt, 60)))


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the response asks to wait, at least 0; None if it does not say.

    ``Retry-After`` holds seconds or an HTTP date (RFC 9110, 10.2.3); ``retry-after-ms`` is OpenAI's
    finer one. ``now`` is the time since 1970. What cannot be read counts as not said.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if date.tzinfo is None:  # "-0000": in UTC, from nowhere in particular
        date = date.replace(tzinfo=UTC)
    return max(0.0, date.timestamp() - now)
