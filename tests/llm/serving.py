"""Servers for the tests of clients, in this process and with real HTTP."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow as pa

from msm_ray.llm.misbehave import Misbehaviour
from msm_ray.llm.protocol import PROMPT_SCHEMA, Sampling
from msm_ray.llm.scripted import ScriptedServer, from_rules

RULES = [
    {
        "match": r"(?s)(.*)",
        "replies": [r"<scratchpad>for \1</scratchpad>\n<content>a text about \1</content>"],
    }
]
SAMPLING = Sampling(temperature=1.0, top_p=0.9, max_tokens=50, seed=7)


@dataclass(frozen=True)
class First(Misbehaviour):
    """The first ``tries`` of every prompt misbehave, the later ones are good."""

    tries: int = 1

    def mode(self, prompt: str, asked: int) -> str:
        return self.modes[0] if asked < self.tries else ""


class Recorder(ScriptedServer):
    """The scripted server that keeps what it was asked: (time, request)."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.asked: list[tuple[float, dict[str, Any]]] = []

    def complete(self, path: str, request: Mapping[str, Any], mode: str = "") -> dict[str, Any]:
        self.asked.append((time.monotonic(), dict(request)))
        return super().complete(path, request, mode)

    def times(self, id_prompt: str) -> list[float]:
        """When a prompt was asked."""
        return [at for at, request in self.asked if request["messages"][-1]["content"] == id_prompt]


@contextlib.contextmanager
def serving(
    misbehaviour: Misbehaviour | None = None, rules: Any = RULES, **options: Any
) -> Iterator[Recorder]:
    """A scripted server that runs inside the block."""
    with Recorder(from_rules(rules), misbehaviour=misbehaviour, **options) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


# number of the request (from 0), its headers -> status, headers, body; parts of a body come slowly
Body = str | bytes | list[bytes]
Reply = Callable[[int, Mapping[str, str]], tuple[int, Mapping[str, str], Body]]


@contextlib.contextmanager
def replying(reply: Reply) -> Iterator[tuple[str, list[Mapping[str, str]]]]:
    """A server that sends what ``reply`` says; its base URL and the headers it was asked with."""
    asked: list[Mapping[str, str]] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                number = len(asked)
                asked.append({name.lower(): value for name, value in self.headers.items()})
            status, headers, body = reply(number, self.headers)
            data = body.encode() if isinstance(body, str) else body
            parts = data if isinstance(data, list) else [data]
            self.send_response(status)
            for name, value in {"Content-Length": str(sum(map(len, parts))), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for number, part in enumerate(parts):
                time.sleep(0.02 if number else 0)
                self.wfile.write(part)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that stops does not wait for its answers

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
        finally:
            server.shutdown()


def good(text: str = "fine", **usage: int) -> str:
    """The body of a chat's response."""
    choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], **({"usage": usage} if usage else {})})


def prompts(count: int, system: str = "spec") -> pa.Table:
    """Rows of PROMPT_SCHEMA: doc0 asks for "thing 0" and so on."""
    return pa.Table.from_pylist(
        [{"id": f"doc{i}", "system": system, "prompt": f"thing {i}"} for i in range(count)],
        schema=PROMPT_SCHEMA,
    )


class FakeClock:
    """Waits no time at all, and says how long it would have been."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
