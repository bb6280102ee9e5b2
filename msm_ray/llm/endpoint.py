"""Which endpoint is asked, and how hard: what a user writes down. Nothing here asks anything."""

from __future__ import annotations

import hashlib
import json
import math
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msm_ray.errors import UserError
from msm_ray.llm.protocol import Sampling

# The client keeps no more connections than this.
MAX_CONCURRENCY = 1000
PATHS = {"chat": "/chat/completions", "completions": "/completions"}
# Fields of a request that have a place of their own.
_SAMPLING = ("temperature", "top_p", "seed")
_OURS = {*_SAMPLING, "model", "messages", "prompt", "response_format"}
_OURS |= {"max_tokens", "max_completion_tokens", "stream", "n"}


@dataclass(frozen=True)
class Endpoint:
    """What is asked.

    Attributes:
        base_url: up to and with ``/v1``.
        model: as the endpoint calls it.
        api: "chat", or "completions" for a text to be continued, without system messages.
        key_env: the environment variable that holds the key; "" for an endpoint without keys. The
            key is read when the first prompt is asked, and written nowhere.
        limit_field: how the endpoint calls the limit of an answer; newer models of OpenAI want
            "max_completion_tokens".
        leave_out: of "temperature", "top_p" and "seed" what the endpoint does not take.
        extra: further fields of every request, e.g. ``{"chat_template_kwargs": {...}}`` for vLLM.
    """

    base_url: str
    model: str
    api: str = "chat"
    key_env: str = "OPENAI_API_KEY"
    limit_field: str = "max_tokens"
    leave_out: Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_url(self.base_url)
        if not self.model:
            raise UserError("endpoint model is ''; it needs the name that the endpoint lists")
        if self.api not in PATHS:
            raise UserError(f"endpoint api is {self.api!r}; allowed: {', '.join(PATHS)}")
        if self.key_env and not self.key_env.isidentifier():
            # Not shown: it may be a key.
            raise UserError(
                "endpoint key_env is no name of an environment variable; it names the variable "
                "that holds the key, and is never the key"
            )
        if self.limit_field not in ("max_tokens", "max_completion_tokens"):
            raise UserError(
                f"endpoint limit_field is {self.limit_field!r}; allowed: max_tokens, "
                "max_completion_tokens"
            )
        if not set(self.leave_out) <= set(_SAMPLING):
            raise UserError(
                f"endpoint leave_out is {list(self.leave_out)}; allowed: {', '.join(_SAMPLING)}"
            )
        ours = sorted(_OURS & set(self.extra))
        if ours:
            raise UserError(f"endpoint extra has {ours}; these have places of their own")

    def key(self) -> str:
        """The key from the environment, "" if none is needed; UserError if it is not there."""
        if not self.key_env:
            return ""
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise UserError(
                f"the environment variable {self.key_env} is not set; it has to hold the key for "
                f"{self.base_url} (an endpoint without keys has key_env '')"
            )
        if not all("!" <= character <= "~" for character in key):
            raise UserError(f"the environment variable {self.key_env} holds no key: it has spaces")
        return key

    def body(self, prompt: Mapping[str, Any], sampling: Sampling) -> dict[str, Any]:
        """The body of the request for one row of PROMPT_SCHEMA."""
        body = {
            **self.extra,
            "model": self.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed_of(prompt["id"]),
            self.limit_field: sampling.max_tokens,
        }
        for name in self.leave_out:
            del body[name]
        if self.api == "chat":
            system = [{"role": "system", "content": prompt["system"]}] if prompt["system"] else []
            body["messages"] = [*system, {"role": "user", "content": prompt["prompt"]}]
        else:
            body["prompt"] = prompt["prompt"]
        if sampling.schema:
            schema = {"name": "answer", "strict": True, "schema": json.loads(sampling.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def digest(self, sampling: Sampling) -> str:
        """Of what an answer depends on besides its prompt: not of where the endpoint stands."""
        parts = [self.model, self.api, sorted(self.leave_out), dict(self.extra)]
        parts.append(sampling.to_config())
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class HttpRuntime:
    """How hard the endpoint is asked. Nothing here changes what is written.

    Attributes:
        concurrency: calls in flight.
        timeout_s: of one try as a whole, the body of the response included.
        max_attempts: tries of one prompt before it counts as failed.
        requests_per_minute: 0 for no limit.
        tokens_per_minute: of prompts and answers together; 0 for no limit.
        backoff_s: the longest wait after the first failed try; it doubles with each further one.
        backoff_max_s: where the doubling ends.
        flush_rows: answers written at once; fewer after 2 seconds.
    """

    concurrency: int = 16
    timeout_s: float = 300.0
    max_attempts: int = 6
    requests_per_minute: float = 0
    tokens_per_minute: float = 0
    backoff_s: float = 1.0
    backoff_max_s: float = 60.0
    flush_rows: int = 64

    def __post_init__(self) -> None:
        for name in ("concurrency", "max_attempts", "flush_rows"):
            if getattr(self, name) < 1:
                raise UserError(f"runtime {name} is {getattr(self, name)}; allowed: 1 or more")
        if self.concurrency > MAX_CONCURRENCY:
            raise UserError(
                f"runtime concurrency is {self.concurrency}; allowed: at most {MAX_CONCURRENCY}"
            )
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise UserError(f"runtime timeout_s is {self.timeout_s}; allowed: above 0")
        for name in ("requests_per_minute", "tokens_per_minute", "backoff_s", "backoff_max_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"runtime {name} is {value}; allowed: 0 or more")


def _check_url(base_url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"endpoint base_url cannot be read: {error}") from error
    if parts.username or parts.password or parts.query or parts.fragment:
        # Not shown: it may hold a key.
        raise UserError(
            "endpoint base_url has a user name, a password, or something after ? or #; "
            "allowed: http(s)://HOST[:PORT]/PATH, the key goes into the variable key_env"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise UserError(
            f"endpoint base_url is {base_url!r}; allowed: http(s)://HOST[:PORT]/PATH, "
            "usually ending in /v1"
        )
