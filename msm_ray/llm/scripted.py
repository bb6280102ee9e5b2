"""An OpenAI-compatible server that answers from rules instead of a model.

It costs nothing, always answers the same, and speaks the same protocol as a hosted model or
``vllm serve``: for trying a configuration, and for tests.

    python -m msm_ray.llm.scripted --port 8000 --rules rules.json
    python -m msm_ray.llm.scripted --task msm_ray.world.task:MicroTask \\
        --task-args '{"world_seed": 0}' --plan plan.parquet

``rules.json`` is a list of ``{"match": REGEX, "replies": [TEXT, ...]}``. The first rule whose regex
is found in the prompt (of a chat: in the last message) answers, with one of its replies: which one
depends on the prompt and the seed alone. ``\\1`` in a reply stands for the regex's first group.

A reply to a request that offers tools may call them: each ``<tool_call>{"name": ..., "arguments":
{...}}</tool_call>`` in it becomes a tool call of the message, as with vLLM's parser for Hermes.

``--misbehave 0.2 --modes slow,rate_limit,truncated`` spoils a fifth of the requests, see
`misbehave`; ``GET /v1/stats`` counts what was done.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import select
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from msm_ray.errors import UserError
from msm_ray.llm.misbehave import MODES, Ledger, Misbehaviour, spoil

Respond = Callable[[str, int], str]  # prompt and seed to reply; UserError if it has none
_TOOL_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
DEFAULT_RULES = ({"match": "(?s).*", "replies": ["yes .", "no .", "i have no preference ."]},)


def from_rules(rules: Sequence[Mapping[str, Any]]) -> Respond:
    """A responder from rules as in ``rules.json``; UserError if one of them is not a rule."""
    compiled: list[tuple[re.Pattern[str], list[str]]] = []
    for number, rule in enumerate(rules):
        try:
            replies = [str(reply) for reply in rule["replies"]]
            compiled.append((re.compile(rule["match"]), replies))
        except (KeyError, TypeError, re.error) as error:
            raise UserError(f"rule {number}: {error!r}; needed: match (regex), replies") from error
        if not replies:
            raise UserError(f"rule {number}: replies is empty; needed: 1 or more")

    def respond(prompt: str, seed: int) -> str:
        for pattern, replies in compiled:
            match = pattern.search(prompt)
            if match:
                digest = hashlib.sha256(f"{seed}:{prompt}".encode()).digest()
                return match.expand(replies[int.from_bytes(digest[:8], "big") % len(replies)])
        raise UserError(f"no rule matches the prompt {prompt[:80]!r}")

    return respond


def from_plan(write: Callable[[Mapping[str, Any]], str], plans: Sequence[Any]) -> Respond:
    """A responder that knows the prompts of a plan and answers with ``write(plan row)``."""
    by_prompt = {plan["prompt"].strip(): plan for plan in plans}

    def respond(prompt: str, seed: int) -> str:
        plan = by_prompt.get(prompt.strip())
        if plan is None:
            raise UserError(f"the plan has no prompt {prompt[:80]!r}")
        return write(plan)

    return respond


class ScriptedServer(ThreadingHTTPServer):
    """The server; ``serve_forever`` and ``shutdown`` as in the standard library.

    Args:
        respond: what answers.
        port: 0 takes a free one; ``url`` has it.
        seed: used where a request brings none.
        model: the name under which ``/v1/models`` lists it; any other gets 404.
        misbehaviour: what is to go wrong.
        key: the API key that every request has to bring, "" for none.
        whole: ``respond`` is given a chat as the JSON text of all its messages, not the last one.
    """

    daemon_threads = True
    request_queue_size = 256  # of the listen call: a client may open all its connections at once

    def __init__(
        self,
        respond: Respond,
        port: int = 0,
        seed: int = 0,
        model: str = "scripted",
        misbehaviour: Misbehaviour | None = None,
        key: str = "",
        whole: bool = False,
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.respond, self.seed, self.model, self.key = respond, seed, model, key
        self.whole = whole
        self.misbehaviour = misbehaviour or Misbehaviour(0.0)
        self.ledger = Ledger()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def server_close(self) -> None:
        """As in the standard library; what hangs is let go."""
        self.closing.set()
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """As in the standard library; a client that has gone is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def complete(self, path: str, request: Mapping[str, Any], mode: str = "") -> dict[str, Any]:
        """The response to a request for ``/v1/completions`` or ``/v1/chat/completions``.

        ``mode`` is of `misbehave.CONTENT_MODES`, or anything else for a good response.
        """
        if request.get("stream"):
            raise UserError("stream is not supported; allowed: false")
        chat = path == "/v1/chat/completions"
        prompts = [json.dumps(request["messages"])] if chat and self.whole else _prompts_of(request)
        seed = request.get("seed")
        limit = request.get("max_completion_tokens") or request.get("max_tokens")
        choices, used = [], 0
        for index, prompt in enumerate(prompts):
            good = self.respond(prompt, self.seed if seed is None else int(seed))
            words = spoil(mode, good, self.ledger.first(good)).split(" ")
            cut = limit is not None and len(words) > limit
            text = " ".join(words[:limit] if cut else words)
            used += len(text.split(" "))
            finish = "length" if cut or mode == "truncated" else "stop"
            message: dict[str, Any] = {"role": "assistant", "content": text}
            calls = _tool_calls(prompt, text) if chat and request.get("tools") and not cut else []
            if calls:
                finish, text = "tool_calls", _TOOL_CALL.sub("", text).strip()
                message = {**message, "content": text or None, "tool_calls": calls}
            if mode == "content_filter":
                finish, message = mode, {**message, "content": None, "refusal": text}
            body = {"message": message} if chat else {"text": text}
            choices.append({"index": index, "finish_reason": finish, **body})
        asked = sum(len(text.split()) for text in _texts_of(request))
        # Nothing of the clock in it: the same request gets the same bytes.
        digest = hashlib.sha256(json.dumps(dict(request), sort_keys=True).encode()).hexdigest()
        return {
            "id": f"scripted-{digest[:16]}",
            "object": "chat.completion" if chat else "text_completion",
            "created": 0,
            "model": self.model,
            "choices": choices,
            "usage": {
                "prompt_tokens": asked,
                "completion_tokens": used,
                "total_tokens": asked + used,
            },
        }


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer
    protocol_version = "HTTP/1.1"  # keep-alive: a client asks many times
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/v1/stats":
            self._send(200, self.server.ledger.facts())
            return
        if self.path != "/v1/models":
            self._send(404, _error(f"{self.path} is not served"))
            return
        entry = {"id": self.server.model, "object": "model", "created": 0, "owned_by": "msm-ray"}
        self._send(200, {"object": "list", "data": [entry]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.ledger.begin()
        try:
            self._answer(body)
        except (BrokenPipeError, ConnectionResetError):  # the client did not wait
            self.close_connection = True
        finally:
            self.server.ledger.end()

    def _answer(self, body: bytes) -> None:
        server = self.server
        if self.path not in ("/v1/completions", "/v1/chat/completions"):
            self._send(404, _error(f"{self.path} is not served"))
            return
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if server.key and given != server.key:
            self._send(401, _error(f"Incorrect API key provided: {given}"))
            return
        try:
            request = json.loads(body)
            if request["model"] != server.model:
                self._send(404, _error(f"The model {request['model']!r} does not exist"))
                return
            key = "\0".join(_texts_of(request))
            mode = server.misbehaviour.mode(key, server.ledger.ask(key))
            response = server.complete(self.path, request, mode)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self._send(400, _error(f"{type(error).__name__}: {error}"))
            return
        if mode:
            server.ledger.note(mode)
        self._deliver(mode, response)

    def _deliver(self, mode: str, response: Mapping[str, Any]) -> None:
        """Send the response, in the way of a transport mode if ``mode`` is one."""
        misbehaviour = self.server.misbehaviour
        if mode == "rate_limit":
            self._send(429, _error("too many requests"), {"Retry-After": misbehaviour.retry_after})
        elif mode == "server_error":
            self._send(500, _error("something went wrong"))
        elif mode == "hang":
            self._wait_until_left()
        elif mode == "half_open":
            data = self._head(200, response)
            self.wfile.write(data[: -len(data) // 4])
            self.close_connection = True
        else:
            if mode == "slow":
                self.server.closing.wait(misbehaviour.slow_s)
            self._send(200, response)

    def _wait_until_left(self) -> None:
        self.close_connection = True
        while not self.server.closing.is_set():
            readable, _, _ = select.select([self.connection], [], [], 0.2)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                return

    def _send(
        self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        self.wfile.write(self._head(status, body, headers))

    def _head(
        self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The whole response as bytes: one packet for a short one."""
        data = json.dumps(body).encode()
        lines = [
            f"HTTP/1.1 {status} {self.responses[status][0]}",
            "Content-Type: application/json",
            f"Content-Length: {len(data)}",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + data

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: a client has its own log."""


def _prompts_of(request: Mapping[str, Any]) -> list[str]:
    """What the responder is asked: of a chat the last message, else every prompt."""
    if "messages" in request:
        return [_text_of(request["messages"][-1])]
    given = request["prompt"]
    return [given] if isinstance(given, str) else list(given)


def _texts_of(request: Mapping[str, Any]) -> list[str]:
    """Everything that a model would read."""
    if "messages" in request:
        return [_text_of(message) for message in request["messages"]]
    return _prompts_of(request)


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""  # a message that calls tools may have no text
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _tool_calls(prompt: str, text: str) -> list[dict[str, Any]]:
    """The calls in a reply; none of them if one cannot be read, and the text stays as it is."""
    made: list[dict[str, Any]] = []
    digest = hashlib.sha256(f"{prompt}\0{text}".encode()).hexdigest()[:12]
    for number, match in enumerate(_TOOL_CALL.finditer(text)):
        try:
            call = json.loads(match[1])
            function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
        except (ValueError, KeyError, TypeError):
            return []
        made.append({"id": f"call_{digest}_{number}", "type": "function", "function": function})
    return made


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": None}}


def _responder(arguments: argparse.Namespace) -> Respond:
    if arguments.corpus:
        from msm_ray.corpus.rehearsal import respond

        return respond
    if arguments.agentic:
        from msm_ray.agentic.rehearsal import respond as act

        return act
    if arguments.task:
        import pyarrow.parquet as pq

        from msm_ray.corpus.task import load_task

        if arguments.plan is None:
            raise UserError("--task needs --plan PLAN.parquet")
        task = load_task(arguments.task, json.loads(arguments.task_args))
        return from_plan(task.write, pq.read_table(arguments.plan).to_pylist())
    if arguments.rules is None:
        return from_rules(DEFAULT_RULES)
    return from_rules(json.loads(arguments.rules.read_text()))


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until interrupted; prints the base URL first."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=8000, help="0: any free port")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="scripted", help="the name to list")
    parser.add_argument("--rules", type=Path, help="rules.json")
    parser.add_argument("--corpus", action="store_true", help="answer the jobs of msm_ray.corpus")
    parser.add_argument(
        "--agentic", action="store_true", help="act in the offices of msm_ray.agentic"
    )
    parser.add_argument("--task", help="package.module:Class of a corpus task")
    parser.add_argument("--task-args", default="{}", help="JSON")
    parser.add_argument("--plan", type=Path, help="plan.parquet whose prompts the task answers")
    parser.add_argument("--misbehave", type=float, default=0.0, help="share of requests, 0 to 1")
    parser.add_argument("--modes", default=",".join(MODES), help="how; default: %(default)s")
    arguments = parser.parse_args(argv)
    try:
        responder = _responder(arguments)
        misbehaviour = Misbehaviour(arguments.misbehave, arguments.modes.split(","), arguments.seed)
    except (UserError, OSError, ValueError) as error:
        parser.error(str(error))
    with ScriptedServer(
        responder,
        arguments.port,
        arguments.seed,
        arguments.model,
        misbehaviour,
        whole=arguments.agentic,
    ) as server:
        print(server.url, flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
