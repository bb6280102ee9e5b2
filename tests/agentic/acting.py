"""A rollout without a model and without Inspect: the script's answers, done in the office."""

from __future__ import annotations

import json
import re
from typing import Any

from msm_ray.agentic.office import Office, Refused
from msm_ray.agentic.rehearsal import respond
from msm_ray.agentic.scenarios import Scenario

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


def act(scenario: Scenario, seed: int, max_turns: int = 12) -> Office:
    """The office after the scripted assistant has worked in it."""
    office = Office(scenario)
    chat: list[dict[str, Any]] = [
        {"role": "system", "content": scenario.system},
        {"role": "user", "content": scenario.user},
    ]
    for _ in range(max_turns):
        reply = respond(json.dumps(chat), seed)
        chat.append({"role": "assistant", "content": reply})
        calls = [json.loads(call) for call in _CALL.findall(reply)]
        for call in calls:
            try:
                answer = office.use(call["name"], **call["arguments"])
            except Refused as refusal:
                answer = str(refusal)
            chat.append({"role": "tool", "content": answer})
        if not calls:
            break
    return office
