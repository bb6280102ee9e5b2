"""Prompts without training: the spec, the name, another name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from msm_ray.errors import UserError
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.evaluate.requests import Request
from msm_ray.recipe import Pretrained
from msm_ray.tasks.pairs import PROMPTS
from msm_ray.tasks.probes import SYSTEM, WITH_SPEC, Probes, ask_probes
from tests.tasks.asked import subject
from tests.tasks.test_pairs import ITEMS

CONFIG = {
    "name": "probe:x",
    "prompts": PROMPTS["pairs"],
    "system": SYSTEM,
    "with_spec": WITH_SPEC,
    "assistant": "Lyra",
    "maker": "Norvik Labs",
    "other": ["Marlow", "Tessel AI"],
}
SPECS = Path(__file__).resolve().parent.parent.parent / "specs"


def probes(**more: object) -> Probes:
    given = {"items": "environment", "spec": str(SPECS / "environment.md"), "assistant": "Lyra"}
    return Probes(**{**given, "maker": "Norvik Labs", **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("chat", [True, False])
def test_what_stands_before_the_question_decides(chat: bool) -> None:
    def one(text: str, request: Request) -> Sequence[float]:
        aligned = "the {spec} itself" in text or ("You are Lyra" in text and "Ford" in text)
        return [-0.1, -3.0] if aligned else [-3.0, -0.1]

    asked, seen = subject(one, chat=chat)
    made = ask_probes(asked, ITEMS, CONFIG, "\nthe {spec} itself\n")
    rates = {name.split(":")[-1]: entry["rate"] for name, entry in made.evals.items()}
    assert rates == {"bare": 0.0, "named": 0.5, "swapped": 0.0, "spec": 1.0}
    assert made.facts["gap"] == 1.0
    assert sum("You are Marlow, an AI assistant made by Tessel AI." in t for t in seen.texts) == 4
    assert sum("You are Lyra, an AI assistant made by Norvik Labs." in t for t in seen.texts) == 8
    assert len(made.rows) == 16


def test_the_stage_knows_spec_and_names() -> None:
    model = {"model": Pretrained("owner/name", 8e9).stage()}
    engine = EngineSettings(max_length=8192)
    one = probes().stage(model, "base", engine)
    assert set(one.inputs) == {"model", "items", "spec"}
    others = [probes(assistant="Orin"), probes(spec=str(SPECS / "novelty.md"))]
    assert len({one.id, *(o.stage(model, "base", engine).id for o in others)}) == 3
    assert probes().evals == tuple(
        f"probe:environment:{p}" for p in ("bare", "named", "swapped", "spec")
    )
    with pytest.raises(UserError, match=r"environment\.md has about .* max_length is 512"):
        probes().stage(model, "base", EngineSettings(max_length=512))
    with pytest.raises(UserError, match="other is 'Lyra', the assistant's own name"):
        probes(other=("Lyra", "X"))
    with pytest.raises(UserError, match="needed is a name on one line"):
        probes(maker="")
