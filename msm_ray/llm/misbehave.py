"""What goes wrong with real endpoints and real writers, on request and the same way every time.

A share of the requests to the scripted server misbehaves. Which ones, and how, depends on the seed,
the prompt, and how often this prompt was asked before: so one try of a prompt may fail and the next
succeed, and a run can be repeated. Transport modes spoil the delivery, content modes the answer.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from msm_ray.errors import UserError

TRANSPORT_MODES = (
    "slow",  # the answer comes, late
    "rate_limit",  # 429 with Retry-After
    "server_error",  # 500
    "hang",  # no answer until the client leaves
    "half_open",  # the connection closes in the middle of the body
)
CONTENT_MODES = (
    "truncated",  # half of the text, finish_reason "length"
    "refusal",  # declines, in words
    "content_filter",  # declines in the field for it, finish_reason "content_filter"
    "no_tags",  # the text without its tags
    "unclosed_tags",  # the last closing tag is missing
    "broken_json",  # JSON that does not parse
    "wrong_identity",  # speaks as another assistant of another maker
    "duplicates",  # the answer that the server gave first
    "leak",  # the scratchpad again, inside of the content
)
MODES = TRANSPORT_MODES + CONTENT_MODES

REFUSAL = "I'm sorry, but I can't help with that."
IDENTITY = "As ChatGPT, a language model made by OpenAI, I see it this way."
MUSING = "First I think about what this text has to say."

_TAG = re.compile(r"</?\w+>")
_CLOSING = re.compile(r"</\w+>(?!.*</\w+>)", re.DOTALL)  # the last one
_SCRATCHPAD = re.compile(r"<scratchpad>(.*?)</scratchpad>", re.DOTALL)
_OPEN_CONTENT = "<content>"


@dataclass(frozen=True)
class Misbehaviour:
    """How often and how the server misbehaves.

    Attributes:
        share: of the requests, 0 to 1.
        modes: from MODES; one of them is drawn for each request that misbehaves.
        seed: other seeds spoil other requests.
        slow_s: how late a slow answer is, in seconds.
        retry_after: the Retry-After header of ``rate_limit``, in seconds or as an HTTP date.
    """

    share: float
    modes: Sequence[str] = MODES
    seed: int = 0
    slow_s: float = 1.0
    retry_after: str = "1"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"misbehaviour share is {self.share}; allowed: 0 to 1")
        unknown = [mode for mode in self.modes if mode not in MODES]
        if unknown or not self.modes:
            raise UserError(f"misbehaviour modes are {list(self.modes)}; allowed: {list(MODES)}")
        if self.slow_s < 0:
            raise UserError(f"misbehaviour slow_s is {self.slow_s}; allowed: 0 or more")

    def mode(self, prompt: str, asked: int) -> str:
        """How the request for ``prompt`` misbehaves that was made ``asked`` times before, or ""."""
        digest = hashlib.sha256(f"{self.seed}:{asked}:{prompt}".encode()).digest()
        if int.from_bytes(digest[:8], "big") >= self.share * 2**64:
            return ""
        return self.modes[int.from_bytes(digest[8:16], "big") % len(self.modes)]


def spoil(mode: str, text: str, first: str) -> str:
    """The good reply ``text`` as the content mode ``mode`` has it.

    Args:
        mode: of CONTENT_MODES; for any other the text is returned as it is.
        text: the good reply.
        first: what ``duplicates`` answers.
    """
    if mode == "truncated":
        return text[: len(text) // 2]
    if mode in ("refusal", "content_filter"):
        return REFUSAL
    if mode == "no_tags":
        return _TAG.sub("", text).strip()
    if mode == "unclosed_tags":
        return _CLOSING.sub("", text) if _CLOSING.search(text) else f"{_OPEN_CONTENT}{text}"
    if mode == "broken_json":
        end = max(text.rfind("}"), text.rfind("]"))
        return text[:end] + "," if end >= 0 else f'{{"answer": {text}'
    if mode == "wrong_identity":
        return _into_content(text, IDENTITY)
    if mode == "duplicates":
        return first
    if mode == "leak":
        scratchpad = _SCRATCHPAD.search(text)
        return _into_content(text, scratchpad[1].strip() if scratchpad else MUSING)
    return text


def _into_content(text: str, sentence: str) -> str:
    """``sentence`` before everything else that is content."""
    head, tag, tail = text.rpartition(_OPEN_CONTENT)
    return f"{head}{tag}{sentence} {tail}"


class Ledger:
    """What the server was asked and what it did, for whoever tests a client. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: Counter[bytes] = Counter()  # a million prompts are too long to keep
        self._first: str | None = None
        self.requests = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.misbehaved: Counter[str] = Counter()

    def begin(self) -> None:
        """A request has come."""
        with self._lock:
            self.requests += 1
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def end(self) -> None:
        """A request has been dealt with, one way or another."""
        with self._lock:
            self.in_flight -= 1

    def ask(self, prompt: str) -> int:
        """Count one more request for ``prompt``; how many there were before."""
        digest = hashlib.sha256(prompt.encode()).digest()[:16]
        with self._lock:
            self._asked[digest] += 1
            return self._asked[digest] - 1

    def asked(self, prompt: str) -> int:
        """How many requests there were for ``prompt``."""
        return self._asked[hashlib.sha256(prompt.encode()).digest()[:16]]

    def first(self, text: str) -> str:
        """The first text that this was ever called with."""
        with self._lock:
            if self._first is None:
                self._first = text
            return self._first

    def note(self, mode: str) -> None:
        """A request misbehaved."""
        with self._lock:
            self.misbehaved[mode] += 1

    def facts(self) -> dict[str, object]:
        """The counts, as ``GET /v1/stats`` gives them."""
        with self._lock:
            return {
                "requests": self.requests,
                "in_flight": self.in_flight,
                "most_in_flight": self.most_in_flight,
                "prompts": len(self._asked),
                "misbehaved": dict(sorted(self.misbehaved.items())),
            }
