"""Rate limits hold over every stretch of time, and Retry-After is read in all its forms."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from email.utils import format_datetime, formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.llm.pacing import Bucket, Pace, backoff, retry_after

from .serving import FakeClock

NOW = 1_700_000_000.0


@given(
    st.floats(1, 6000),
    st.lists(st.tuples(st.floats(0, 10), st.floats(0.1, 50)), min_size=1, max_size=40),
)
def test_no_stretch_of_time_gets_more_than_flows_in(
    per_minute: float, asked: list[tuple[float, float]]
) -> None:
    bucket, now, paid = Bucket(per_minute), 0.0, []
    for pause, amount in asked:
        now += pause
        paid.append((now + bucket.reserve(amount, now), amount))
    rate = per_minute / 60
    for first, (start, _) in enumerate(paid):
        for last in range(first, len(paid)):
            used = sum(amount for _, amount in paid[first + 1 : last + 1])
            assert used <= max(1.0, rate) + rate * (paid[last][0] - start) + 1e-6


def test_what_is_given_back_can_be_used() -> None:
    bucket = Bucket(60)
    assert bucket.reserve(11, 0.0) == 10.0
    bucket.give_back(9, 10.0)
    assert bucket.reserve(9, 10.0) == 0.0
    assert bucket.reserve(1, 10.0) == 1.0
    assert Bucket(0).reserve(10**9, 0.0) == 0.0


def test_a_pace_is_the_slower_of_both_limits() -> None:
    async def enter(pace: Pace, tokens: float) -> None:
        for _ in range(10):
            await pace.enter(tokens)

    for requests, tokens, seconds in ((60, 0, 9), (0, 600, 19), (60, 600, 19), (0, 0, 0)):
        clock = FakeClock()
        asyncio.run(enter(Pace(requests, tokens, clock), 20))
        assert clock.now - 1_000_000 == pytest.approx(seconds)


def test_a_closed_pace_lets_nobody_through() -> None:
    async def run() -> None:
        pace.close(5)
        pace.close(2)
        await pace.enter(1)

    clock = FakeClock()
    pace = Pace(0, 0, clock)
    asyncio.run(run())
    assert clock.slept == [5]


def test_backoff_doubles_with_full_jitter() -> None:
    chance = random.Random(0)
    for attempt, most in ((0, 1.0), (1, 2.0), (3, 8.0), (9, 60.0), (10**6, 60.0)):
        waits = [backoff(attempt, 1.0, 60.0, chance) for _ in range(400)]
        assert 0 <= min(waits) < 0.05 * most
        assert 0.95 * most < max(waits) <= most


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "7", "retry-after-ms": "soon"}, 7.0),
        ({"retry-after": formatdate(NOW + 90, usegmt=True)}, 90.0),
        ({"retry-after": formatdate(NOW - 90, usegmt=True)}, 0.0),
        ({"retry-after": formatdate(NOW + 90)}, 90.0),  # -0000
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_retry_after_by_hand(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


@given(st.text() | st.from_regex(r"\w{3}, \d+ \w{3} \d{4} \d+:\d+:\d+ (GMT|[+-]\d{4})"), st.text())
def test_retry_after_never_fails(value: str, milliseconds: str) -> None:
    for headers in ({"retry-after": value}, {"retry-after-ms": milliseconds}):
        seconds = retry_after(headers, NOW)
        assert seconds is None or 0 <= seconds < float("inf")


@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
    st.integers(0, 10**9),
)
def test_dates_and_seconds_say_the_same(date: datetime, seconds: int) -> None:
    date = date.replace(microsecond=0)
    headers = {"retry-after": format_datetime(date, usegmt=True)}
    assert retry_after(headers, date.timestamp() - seconds) == seconds
    assert retry_after({"retry-after": str(seconds)}, NOW) == seconds
