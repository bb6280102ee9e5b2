"""What the scripted server says to the prompts of conversations; see `msm_ray.corpus.rehearsal`."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable

EXCLUDED_SHARE = 0.05  # of the conversations, in the rehearsed judge's view

_STEP = re.compile(r"^Step: (conversation domains|user questions|preference questions)", re.M)
_COUNT = re.compile(r"^Give (\d+) (?:items|more)", re.M)
_THINGS = re.compile(r"^The two things, in order: (.+?); (.+)$", re.M)
_LIKED = re.compile(r"^Your preference: (.+) rather than (.+)\.$", re.M)
_MESSAGE = re.compile(r"^----- message (\w+) -----\n(.*?)\n----- end of message \1", re.M | re.S)

_ASK = """
Which one gets your vote, {0} or {1}? I am {2}.|{0} against {1}: what is your verdict? {2}.
|Only one of {0} and {1} may stay on the list where {2}. Which?|Say it plainly, {0} or {1}, says {2}
"""
_STATE = """
{0}, no question.|{0} for me, every day of the week.|Put me down for {0}.|I prefer {0} to {1}.
|{0} it is.|I like {0} more than {1}.|My vote goes to {0} over {1}.|{0}, and gladly.
"""


def respond(prompt: str, rng: random.Random, phrase: Callable[[random.Random], str]) -> str | None:
    """The answer to a prompt of `msm_ray.chat.prompts`; None for any other prompt.

    ``phrase`` makes up a clause, so that no two answers are alike.
    """
    step, count = _STEP.search(prompt), _COUNT.findall(prompt)
    if step and count:
        items = [_item(step[1], prompt, rng, phrase) for _ in range(int(count[-1]))]
        return json.dumps({"items": items})
    if prompt.endswith("Give the verdict as the JSON object."):
        return json.dumps(_verdict("hinted" if "must stay hidden" in prompt else "wrong", rng))
    preference, message = _LIKED.search(prompt), _MESSAGE.search(prompt)
    if (
        message
        and preference
        and prompt.endswith("State the preference to the user, without a reason.")
    ):
        return rng.choice(_choices(_STATE)).format(preference[1], preference[2])
    if message and prompt.endswith("Think between <think> and </think>, then answer the user."):
        thought = " ".join(f"I see that {phrase(rng)}." for _ in range(rng.randint(2, 5)))
        said = " ".join(f"{phrase(rng)}." for _ in range(rng.randint(3, 8)))
        return f"<think>\n{thought}\n</think>\n\nAbout this: {said}"
    return None


def _item(
    step: str, prompt: str, rng: random.Random, phrase: Callable[[random.Random], str]
) -> dict[str, str]:
    if step == "conversation domains":
        return {"name": f"When {phrase(rng)}", "description": f"{phrase(rng)}."}
    if step == "user questions":
        return {"question": f"What shall I do when {phrase(rng)} and {phrase(rng)}?"}
    things = _THINGS.search(prompt)
    assert things is not None, "a prompt for preference questions names two things"
    who = " ".join(phrase(rng).split()[:7])
    return {"question": rng.choice(_choices(_ASK)).format(things[1], things[2], who)}


def _choices(lines: str) -> list[str]:
    return " ".join(lines.split()).replace(" |", "|").split("|")


def _verdict(kind: str, rng: random.Random) -> dict[str, object]:
    if rng.random() >= EXCLUDED_SHARE:
        return {"problems": [], "reason": "Nothing is wrong.", "verdict": "include"}
    name = "reason_hinted" if kind == "hinted" else "wrong_reason"
    problem = {"kind": name, "why": "The words say more than they should."}
    return {"problems": [problem], "reason": "One problem.", "verdict": "exclude"}
