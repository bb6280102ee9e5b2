"""What the scripted server says in the place of a planner, a writer and a judge: a rehearsal.

    python -m msm_ray.llm.scripted --corpus

A job whose endpoint is that server runs from the first prompt to the last document, without a model
and without cost: for trying a configuration, and for tests. Every answer has the form that was
asked for and follows from the prompt and the seed alone; what it says is put together from stock
sentences, so the documents are good for nothing but being counted.
"""

from __future__ import annotations

import hashlib
import json
import random
import re

from msm_ray.chat import rehearsal as conversations
from msm_ray.errors import UserError

UNFAITHFUL_SHARE = 0.05  # of the documents, in the rehearsed judge's view

_STEP = re.compile(r"^Step: (?:document )?(\w+)", re.MULTILINE)
_COUNT = re.compile(r"^Give (\d+) (?:items|more)", re.MULTILINE)
_HANDLE = re.compile(r"^(S\d+): ", re.MULTILINE)
_PLACE = re.compile(r"^(\d+): ", re.MULTILINE)
_ABOUT = re.compile(
    r"^(?:The document must bring out that|The idea|Topic|The rule's label is):? (.+)$",
    re.MULTILINE,
)
_ADJECTIVES = """
amber brisk candid distant early faint grave honest idle jagged keen late mild narrow open patient
quiet rough steady tidy urgent vivid weary young
"""
_NOUNS = """
archive bakery canal dockyard estuary ferry garden harbour island junction kiosk library market
nursery orchard pharmacy quarry railway school tannery upland vineyard workshop yard
"""
_VERBS = """
asks brings counts describes explains finds gathers hears joins keeps learns marks notes opens
proposes questions reads settles tells understands visits weighs
"""
_PEOPLE = """
Abena Bram Catarina Dilnoza Emeka Farah Goran Hina Ignacio Jolanta Kwame Leila Mateus Nadia Oskar
Parveen Quentin Rosalind Sunniva Tomasz Ulrike Viktor Wanjiru Xochitl Yusuf Zofia
"""


_WORDS = {  # what phrases are made of
    "adjective": _ADJECTIVES.split(),
    "noun": _NOUNS.split(),
    "verb": _VERBS.split(),
    "person": _PEOPLE.split(),
}


def respond(prompt: str, seed: int) -> str:
    """The answer to a prompt of a corpus, of conversations or of a judge; UserError for others."""
    digest = hashlib.sha256(f"{seed}:{prompt}".encode()).digest()
    rng = random.Random(digest)
    if (said := conversations.respond(prompt, rng, _phrase)) is not None:
        return said
    step, count = _STEP.search(prompt), _COUNT.findall(prompt)
    if step and count:
        items = [_item(step[1], prompt, rng) for _ in range(int(count[-1]))]
        return json.dumps({"items": items})
    if "Answer with <scratchpad> and <content>" in prompt:
        return _document(prompt, rng)
    if '{"reason": "...", "score": ...}' in prompt:  # of `msm_ray.tasks.open_qa`
        return json.dumps({"reason": f"It says: {_phrase(rng)}.", "score": rng.randint(1, 10)})
    if "Answer with the JSON object" in prompt:
        return json.dumps(_verdict(rng))
    raise UserError(f"the rehearsal knows no prompt that begins {prompt[:60]!r}")


def _phrase(rng: random.Random) -> str:
    kinds = ("person", "verb", "adjective", "noun", "adjective", "noun")
    who, does, *where = (rng.choice(_WORDS[kind]) for kind in kinds)
    return f"{who} {does} at the {where[0]} {where[1]} near the {where[2]} {where[3]}"


def _item(step: str, prompt: str, rng: random.Random) -> dict[str, object]:
    """One item of a level, with all the fields that its step asks for."""
    name = f"How {_phrase(rng)}"
    if step == "assertions":
        return {"statement": f"{_phrase(rng)}.", "kind": rng.choice(("value", "behaviour"))}
    if step == "ideas":
        idea: dict[str, object] = {"idea": f"{_phrase(rng)}. {_phrase(rng)}."}
        numbers = _PLACE.findall(prompt)
        return idea | ({"assertion": int(rng.choice(numbers))} if numbers else {})
    item: dict[str, object] = {"name": name, "description": f"{_phrase(rng)}."}
    if step == "subdomains":
        item["section"] = rng.choice(_HANDLE.findall(prompt))
    if step == "domains" and '"rules"' in prompt:
        places = _PLACE.findall(prompt)
        item["rules"] = sorted(int(p) for p in rng.sample(places, min(3, len(places))))
    return item


def _document(prompt: str, rng: random.Random) -> str:
    """A scratchpad and a document that begins with what the request is about."""
    about = _ABOUT.findall(prompt)
    sentences = [f"{_phrase(rng)}, and {_phrase(rng)}." for _ in range(rng.randint(8, 14))]
    text = " ".join([*(a.rstrip(".") + "." for a in about), *sentences])
    plan = f"First {_phrase(rng)}, then {_phrase(rng)}."
    return f"<scratchpad>\n{plan}\n</scratchpad>\n<content>\n{text}\n</content>"


def _verdict(rng: random.Random) -> dict[str, object]:
    if rng.random() >= UNFAITHFUL_SHARE:
        return {"problems": [], "reason": "It agrees.", "severity": "none", "faithful": True}
    problem = {"kind": "reason_missing", "quote": "", "why": "The reason is not given."}
    return {
        "problems": [problem],
        "reason": "The reason is missing.",
        "severity": "major",
        "faithful": False,
    }
