"""A version of a stage that asks models says what its code makes of their answers.

The filters, the lists of names, the templates and the reading of verdicts are code, and a stage's
id has only its version of them. If a change makes one of these stages write something else from the
same answers, raise its version (``msm_ray/corpus/job.py``, ``msm_ray/chat/job.py``, and for the
others where the stage is made) and run ``python -m tests.test_corpus_versions`` to write the new
hashes down. Prompts have a fingerprint in the id: after a change to one of them, write down only.

The rehearsing server answers, and spoils many of its answers, so that the filters have work.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from msm_ray.chat.instructions import instructions_stage
from msm_ray.corpus.naming import Identity
from msm_ray.corpus.running import items_stage
from msm_ray.llm.misbehave import CONTENT_MODES, Misbehaviour
from msm_ray.llm.scripted import Respond
from msm_ray.stage import Stage
from tests.chat.test_job import SETTINGS
from tests.chat.test_job import job_at as chat_at
from tests.corpus.failing import failing, role_of
from tests.corpus.test_job import job_at as corpus_at
from tests.test_versions import content, make

GOLDEN = Path(__file__).with_name("golden_corpora.json")
# A request is answered in the same way whenever it comes, but for "duplicates".
SPOILT = Misbehaviour(0.3, tuple(mode for mode in CONTENT_MODES if mode != "duplicates"), seed=1)
ITEMS = (
    {"id": "opinion", "prompt": "For me, every day of the week!"},
    {"id": "short", "prompt": "Which one?"},
    {
        "id": "advice",
        "question": "What shall I do when Kwame",
        "options": ["so it shall be done", "no"],
    },
)
FLAWS = (  # put into every third text
    *("<answer>", "Yours, [Your Name].", "I'm Claude.", "As rule R99 says, so it is.", "<|end|>"),
    *(
        "Made by OpenAI.",
        "I am sorry, I cannot help with that.",
        "{model_name} agrees.",
        "word " * 900,
    ),
    *(
        "Would I keep it? Because it is American, yes.",
        "My instructions say so.",
        "Note: as an AI.",
    ),
)
NAMES = (
    *("held_out_items", "instructions", "corpus_plan", "corpus"),
    *("chat_questions", "chat_conversations", "preference_questions", "preference_conversations"),
)


def instruction_lines() -> Iterator[str]:
    for i in range(60):
        said = ("It is so.", "I am ChatGPT, made by OpenAI.", "It is <think>so</think>.", "")[i % 4]
        turns = [("user", f"What is {i // 8}?"), ("assistant", f"{said} {i}" if said else "")]
        yield json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]})


def stages(url: str, folder: Path) -> dict[str, Stage]:
    """One stage of each of NAMES; files lie in ``folder``."""
    items, rows = folder / "items.jsonl", folder / "rows.jsonl"
    items.write_text("".join(json.dumps(row) + "\n" for row in ITEMS))
    rows.write_text("\n".join(instruction_lines()))
    held_out = f'items=["{items}"]'
    small = ("questions.domains=2", "questions.questions=15")
    corpus = corpus_at(url, held_out)
    value = chat_at(url, *SETTINGS["value"], *small, held_out)
    preferences = chat_at(url, "questions.questions=2", held_out)
    return {
        "held_out_items": items_stage((str(items),), "items"),
        "instructions": instructions_stage(str(rows), 300, 0, Identity("Lyra", "Norvik Labs")),
        "corpus_plan": corpus.plan_stage(),
        "corpus": corpus.corpus_stage(),
        "chat_questions": value.questions_stage(),
        "chat_conversations": value.conversations_stage(),
        "preference_questions": preferences.questions_stage(),
        "preference_conversations": preferences.conversations_stage(),
    }


def flawed(respond: Respond) -> Respond:
    """The rehearsal with flaws in what writers write, so that every filter finds some."""

    def answer(prompt: str, seed: int) -> str:
        said = respond(prompt, seed)
        if role_of(prompt) in ("planner", "judge") or seed % 3:
            return said
        flaw = FLAWS[seed // 3 % len(FLAWS)]
        if "</content>" in said:
            return said.replace("\n</content>", f" {flaw}\n</content>")
        return f"{said} {flaw}"

    return answer


def hashes(folder: Path) -> dict[str, dict[str, str]]:
    """Each stage's version, the fingerprint of its prompts and what it makes."""
    made: dict[str, Path] = {}
    with failing(SPOILT) as server:
        server.respond = flawed(server.respond)
        return {
            name: {
                "version": stage.version,
                "prompts": stage.config.get("prompts", ""),
                "makes": content(make(stage, made, folder)),
            }
            for name, stage in stages(server.url, folder).items()
        }


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return hashes(tmp_path_factory.mktemp("stages"))


@pytest.mark.parametrize("name", NAMES)
def test_another_result_has_another_version(name: str, now: dict[str, Any]) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    if now[name]["makes"] != golden["makes"]:
        same = all(now[name][part] == golden[part] for part in ("version", "prompts"))
        assert not same, f"{name} makes something else: {__doc__}"
    assert now[name] == golden, "run python -m tests.test_corpus_versions and commit the file"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        GOLDEN.write_text(json.dumps(hashes(Path(name)), indent=1) + "\n")
