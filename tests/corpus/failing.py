"""The rehearsing server with roles that fail: by HTTP status, for all of their prompts or some."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from msm_ray.corpus.rehearsal import respond
from msm_ray.llm import scripted
from msm_ray.llm.misbehave import Misbehaviour
from msm_ray.llm.scripted import ScriptedServer

ROLES = ("planner", "writer", "judge")
# For a server that hangs; elsewhere an answer that a busy machine delays is no failure.
IMPATIENT = tuple(f"{role}.http.timeout_s=1.0" for role in ROLES)

Fails = Callable[[str], int]  # a prompt -> the status it gets, 0 for an answer


def settings_for(url: str) -> list[str]:
    """A job's settings that ask the server at ``url``, and ask again without long waits."""
    each = ("endpoint.base_url=" + url, "http.backoff_s=0.01", "http.backoff_max_s=0.05")
    return [f"{role}.{setting}" for role in ROLES for setting in each]


def role_of(prompt: str) -> str:
    """Who is asked: planner, writer, rewriter or judge; a conversation's writer is no planner."""
    if re.search(r"(?:Answer with|Give the verdict as) the JSON object\.$", prompt):
        return "judge"
    if "Answer with <scratchpad> and <content>" in prompt:
        return "rewriter" if "The document that was not accepted:" in prompt else "writer"
    return "planner" if re.search(r"^Step: ", prompt, re.MULTILINE) else "writer"


class FailingServer(ScriptedServer):
    """``fails`` says what fails, by role. ``asked`` counts requests by (role, seed of the prompt).

    Every prompt id has a seed of its own, so that is how often each prompt was asked; ``answered``
    has those that got an answer.
    """

    def __init__(self, misbehaviour: Misbehaviour | None = None) -> None:
        super().__init__(respond, misbehaviour=misbehaviour)
        self.RequestHandlerClass = _Handler
        self.fails: dict[str, Fails] = {}
        self.asked: Counter[tuple[str, int]] = Counter()
        self.answered: set[tuple[str, int]] = set()
        self._asking = threading.Lock()

    def status(self, request: dict[str, Any]) -> int:
        """Count a request; the status that it is to get, 0 for an answer."""
        prompt = request["messages"][-1]["content"]
        role = role_of(prompt)
        with self._asking:
            self.asked[role, request["seed"]] += 1
            status = self.fails[role](prompt) if role in self.fails else 0
            if not status:
                self.answered.add((role, request["seed"]))
        return status

    def calls(self, role: str) -> int:
        """Requests of a role so far."""
        with self._asking:
            return sum(n for (who, _), n in self.asked.items() if who == role)


class _Handler(scripted._Handler):
    def _answer(self, body: bytes) -> None:
        assert isinstance(self.server, FailingServer)
        status = self.server.status(json.loads(body))
        if status:
            self._send(status, {"error": {"message": "unsupported parameter"}})
        else:
            super()._answer(body)


@contextlib.contextmanager
def failing(misbehaviour: Misbehaviour | None = None) -> Iterator[FailingServer]:
    """A server that fails as its ``fails`` says, inside of the block."""
    with FailingServer(misbehaviour) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
