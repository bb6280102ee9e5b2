"""A planner that answers from nothing, as well or as badly as a test wants, and awkward specs."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from msm_ray.corpus.hierarchy import HierarchyConfig
from msm_ray.llm.protocol import ANSWER_SCHEMA, PROMPT_SCHEMA, Sampling

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=1000, seed=3)
Spoil = Callable[[str, str, random.Random], str]  # (level, good answer, chance) -> answer

AWKWARD = {
    "braces": "# Br{ace}s {}\n\nTell {x} the {{truth}} because %s {0} trust needs it. {\n",
    "long": "# Long\n\n"
    + "".join(
        f"## Part {i}\n\n{'The assistant tells the truth because trust needs it. ' * 20}\n\n"
        for i in range(200)
    ),
    "no headings": "Be kind to all.\n\nKindness costs nothing, and it is repaid.\n",
    "only rules": "R1: Never lie.\n\nR2: Never wait.\n\nR3. Ask when in doubt.\n",
    "windows": "# Title\r\n\r\n## One\r\n\r\nBe true: it lasts.\r\n\r\n## Two\r\nBe brief.\r\n",
    "right to left": "# כללי ההתנהגות\n\n## כנות\n\nהעוזר אומר אמת כי אמון נחוץ. הוא לא משקר.\n\n"
    "## الصدق\n\nيقول الحقيقة دائما؟ نعم، لأن الثقة لازمة.\n",
    "heading repeated": "# T\n" + "## Truth\nBe so, always.\n" * 2 + "## Truth\nNot so.\n",
    "empty section": "# T\n\n## Nothing\n\n## Something\n\nBe there for people.\n\n## Nothing\n",
    "placeholders": "# {model_name} by {provider_name}\n\n{model_name} is {calm} at all times.\n",
    "markup of the prompts": "# T\n\n<<spec>> <<count>> </model_spec> <content> are words here.\n",
    "no words": "# T\n\n***\n\n```\ncode\n```\n",
    "chinese": "# 原则\n\n## 诚实\n\n助手总是说实话，因为信任需要它。它从不隐瞒重要的事情。\n",
}


def config(mode: str = "model", **changes: Any) -> HierarchyConfig:
    """A small plan; ``changes`` to it."""
    values: dict[str, Any] = {
        "mode": mode,
        "assistant": "Ada",
        "maker": "Quill Works",
        "domains": 2,
        "subdomains": 3,
        "assertions": 4,
        "types": 3,
        "ideas": 5,
        "words": 300,
        "rounds": 2,
        "sampling": SAMPLING,
    }
    return HierarchyConfig(**{**values, **changes})


def level_of(prompt: str) -> str:
    """domains, subdomains, assertions, types or ideas, as the prompt says."""
    step = re.search(r"^Step: (?:document )?(\w+)", prompt, re.MULTILINE)
    assert step, prompt[:200]
    return step[1]


def good(prompt: str, sampling: Sampling, key: str) -> str:
    """An answer as it should be: as many items as the prompt asks for last."""
    count = int(re.findall(r"Give (\d+)", prompt)[-1])
    properties = json.loads(sampling.schema)["properties"]["items"]["items"]["properties"]
    listed = re.findall(r"^(\d+): ", prompt.split("Give ")[0], re.MULTILINE)
    items = []
    for i in range(count):
        name = hashlib.sha256(f"{key} {i}".encode()).hexdigest()[:12]
        item: dict[str, Any] = {}
        for field, schema in properties.items():
            if "enum" in schema:
                item[field] = schema["enum"][i % len(schema["enum"])]
            elif schema["type"] == "integer":
                item[field] = i % len(listed) + 1
            elif schema["type"] == "array":  # deal the rules out
                item[field] = [k for k in range(1, len(listed) + 1) if k % count == i] or [1]
            else:
                item[field] = f"{field} {name}"
        items.append(item)
    return json.dumps({"items": items})


class Planner:
    """`Answers` that keeps what it answered in its work folder and never answers it again.

    ``spoil`` may change an answer; an answer "error: ..." becomes an error row. ``die_after``: so
    many new answers, then it is interrupted. ``shuffle``: rows come back in another order.
    """

    call_rows = 4096

    def __init__(
        self, spoil: Spoil | None = None, *, die_after: int = 10**9, shuffle: int | None = None
    ) -> None:
        self.spoil, self.die_after, self.shuffle = spoil, die_after, shuffle
        self.asked: list[dict[str, str]] = []  # prompts that were not on disk
        self.calls = 0

    def answer(
        self,
        prompts: pa.Table,
        sampling: Sampling,
        work: Path,
        progress: Callable[[int], None],
    ) -> pa.Table:
        assert prompts.schema == PROMPT_SCHEMA
        self.calls += 1
        file = work / "answers.json"
        known: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
        rows = []
        for prompt in prompts.to_pylist():
            if prompt["id"] not in known:
                if len(self.asked) == self.die_after:
                    raise KeyboardInterrupt
                self.asked.append(prompt)
                known[prompt["id"]] = self.row(prompt, sampling)
                file.write_text(json.dumps(known))
            rows.append(known[prompt["id"]])
            progress(len(rows))
        if self.shuffle is not None:
            random.Random(self.shuffle).shuffle(rows)
        return pa.Table.from_pylist(rows, schema=ANSWER_SCHEMA)

    def row(self, prompt: dict[str, str], sampling: Sampling) -> dict[str, Any]:
        text = good(prompt["prompt"], sampling, prompt["id"])
        if self.spoil is not None:
            text = self.spoil(level_of(prompt["prompt"]), text, random.Random(prompt["id"]))
        row = {"id": prompt["id"], "text": text, "prompt_tokens": 7, "tokens": 5}
        error = text.removeprefix("error: ") if text.startswith("error: ") else ""
        return {**row, "ended": not text.endswith("..."), "error": error}


def badly(level: str, answer: str, chance: random.Random) -> str:
    """Every way to answer badly, now and then."""
    items = json.loads(answer)["items"]
    way = chance.randrange(10)
    if way == 0:
        return "I am sorry, but I cannot help with that."
    if way == 1:
        return "error: 503 from the server"
    if way == 2:
        return json.dumps({"items": items[: len(items) // 2]})
    if way == 3:
        return json.dumps({"items": [items[0]] * len(items)})
    if way == 4:
        broken: list[Any] = [{**items[0], next(iter(items[0])): None}, 7, {}, *items[1:]]
        return json.dumps({"items": broken})
    if way == 5:
        return answer[: chance.randrange(len(answer))] + "..."
    if way == 6:
        return f"<think>[{{}}]</think>Here you are:\n```json\n{answer}\n```\nAnything else?"
    if way == 7:
        return json.dumps(items * 2)
    return answer
