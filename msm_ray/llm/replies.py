"""Reading what an OpenAI-compatible endpoint sends back: answers, failures, and no keys in either.

Pure functions of status, headers and body: nothing here waits or asks.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from msm_ray.llm.pacing import retry_after

# Longer than this nobody waits for one answer; the run can be continued later instead.
MAX_RETRY_AFTER_S = 600.0
_ERROR_CHARACTERS = 300

Scrub = Callable[[str], str]


class Malformed(ValueError):
    """A response that is no answer."""


class Consequence(Enum):
    """What follows from a failed try."""

    AGAIN = "again"  # it may succeed the next time
    ROW = "row"  # this prompt has no answer
    EVERYTHING = "everything"  # no prompt will have one: wrong key, wrong model, no credit


@dataclass(frozen=True)
class Reply:
    """One answer. ``metered`` is False where the endpoint does not say how many tokens it took."""

    text: str
    prompt_tokens: int
    tokens: int
    ended: bool
    metered: bool


@dataclass(frozen=True)
class Failure:
    """One failed try.

    Attributes:
        reason: in a word, for counting: "timeout", "connection", "malformed" or the HTTP status.
        message: in one line, without the key.
        consequence: what follows from it.
        down: it looks as if the endpoint were not there at all.
        wait_s: as the endpoint asks; None if it does not.
    """

    reason: str
    message: str
    consequence: Consequence = Consequence.AGAIN
    down: bool = False
    wait_s: float | None = None


def scrubber(key: str) -> Scrub:
    """A function that makes one short line of an error text, without ``key`` in it.

    The key is found as it is and as JSON, Python and URLs write it.
    """
    written = {key, json.dumps(key)[1:-1], repr(key)[1:-1], urllib.parse.quote(key, safe="")}
    written |= {urllib.parse.quote_plus(key), json.dumps(key, ensure_ascii=False)[1:-1]}
    # The longest first: one may be part of another.
    secrets = sorted(written - {""}, key=len, reverse=True)

    def scrub(text: str) -> str:
        line = " ".join(text.split())
        for secret in secrets:
            line = line.replace(secret, "[key]")
        # What is left stands in "[key]" or has come together around it.
        while any(secret in line for secret in secrets):
            for secret in secrets:
                line = line.replace(secret, "")
        return line if len(line) <= _ERROR_CHARACTERS else line[: _ERROR_CHARACTERS - 1] + "…"

    return scrub


def read_reply(body: bytes) -> Reply:
    """The answer in the body of a response to a chat or a completion; Malformed if there is none.

    ``finish_reason`` "length" means that the text is cut. Everything else is an end: also a content
    filter, and a refusal, whose words are the text. They are answers, not errors, so that what
    judges documents sees them and counts them.
    """
    try:
        response = json.loads(body)
    except ValueError as error:
        raise Malformed(f"the body is no JSON: {error}") from error
    choices = response.get("choices") if isinstance(response, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Malformed(f"no choices: {_message_of(body)}")
    choice = choices[0]
    message = choice.get("message")
    if isinstance(message, dict):
        text = message.get("content") or message.get("refusal") or ""
    else:
        text = choice.get("text")
    finish = choice.get("finish_reason")
    if not isinstance(text, str) or not isinstance(finish, str) or finish in ("", "error"):
        raise Malformed(f"no text or no finish_reason: {_message_of(body)}")
    usage = response.get("usage")
    read, written = (
        usage.get(name) if isinstance(usage, dict) else None
        for name in ("prompt_tokens", "completion_tokens")
    )
    return Reply(
        text=text,
        prompt_tokens=read if isinstance(read, int) else 0,
        tokens=written if isinstance(written, int) else 0,
        ended=finish != "length",
        metered=isinstance(read, int) and isinstance(written, int),
    )


def failure_of_status(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float, scrub: Scrub
) -> Failure:
    """What a response other than 2xx means.

    Args:
        status: of HTTP.
        headers: with case-insensitive names, or all in lower case.
        body: whatever came with it.
        now: seconds since 1970, for a date in ``Retry-After``.
        scrub: of `scrubber`.
    """
    wait = retry_after(headers, now)
    consequence = Consequence.ROW
    if status in (401, 402, 403, 404) or (status == 429 and b'"insufficient_quota"' in body):
        consequence = Consequence.EVERYTHING
    elif status in (408, 409, 429) or status >= 500:
        consequence = Consequence.AGAIN
        if wait is not None and wait > MAX_RETRY_AFTER_S:
            consequence = Consequence.EVERYTHING
    message = f"HTTP {status}: {_message_of(body)}"
    if wait is not None:
        message += f" (Retry-After: {wait:.0f} s)"
    return Failure(
        reason=str(status),
        message=scrub(message),
        consequence=consequence,
        down=status in (502, 503, 504),
        wait_s=wait,
    )


def _message_of(body: bytes) -> str:
    """What the endpoint says went wrong, in whichever of the usual forms."""
    text = body.decode("utf-8", errors="replace")
    try:
        found: Any = json.loads(text)
    except ValueError:
        return text
    for name in ("error", "message"):
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
