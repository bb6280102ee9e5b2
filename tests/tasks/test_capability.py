"""Knowledge and held-out loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from msm_ray.errors import UserError
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.evaluate.requests import Request
from msm_ray.recipe import Pretrained
from msm_ray.tasks.capability import QUESTION, Capability, ask_capability
from tests.tasks.asked import subject
from tests.tasks.test_calibration import facts, knows

CONFIG = {"names": ["capability:x", "heldout_loss:y"], "prompt": QUESTION}


def test_every_letter_is_right_as_often() -> None:
    asked, seen = subject(lambda text, request: [-0.1, -3.0, -3.0, -3.0])  # always (A)
    made = ask_capability(asked, {"items": facts(8)}, {**CONFIG, "names": ["capability:x"]})
    entry = made.evals["capability:x"]
    assert entry["rate"] == entry["chance"] == 0.25
    assert entry["by_order"] == {
        str(place): {"rate": float(place == 0), "n": 2} for place in range(4)
    }
    assert [seen.tokens.decode([t]) for t in seen.requests[0].candidates] == list("ABCD")
    clever, _ = subject(knows(even=True, sure=True))
    made = ask_capability(clever, {"items": facts(8)}, {**CONFIG, "names": ["capability:x"]})
    assert made.evals["capability:x"]["rate"] == 1.0
    assert {r["answer"] for r in made.rows} == {f"right{i}" for i in range(8)}


def test_loss_is_weighted_by_tokens() -> None:
    def one(text: str, request: Request) -> Sequence[float]:
        if request.kind == "next":
            return [-1.0] * 4
        return [-2.0 if "long" in text else -1.0] * (len(request.prompt) - 1)

    asked, _ = subject(one)
    texts = [
        {"id": "a", "domain": "prose", "text": "short"},
        {"id": "b", "domain": "prose", "text": "long " * 20},
    ]
    made = ask_capability(asked, {"items": facts(2), "texts": texts}, CONFIG)
    entry = made.evals["heldout_loss:y"]
    a, b = (r["weight"] for r in made.rows if r["eval"] == "heldout_loss:y")
    assert entry["rate"] == pytest.approx((a + 2 * b) / (a + b))
    assert entry["tokens"] == a + b
    # Four letters as likely as each other are no answer.
    assert made.evals["capability:x"]["undecided"] == {"tie": 2}
    assert made.evals["capability:x"]["rate"] == 0


def test_what_is_given_is_what_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "texts_prose.jsonl"
    path.write_text(json.dumps({"id": "a", "domain": "prose", "text": "Once."}))
    both, only = Capability("general", str(path)), Capability("", str(path))
    assert both.evals == ("capability:general", "heldout_loss:prose")
    assert only.evals == ("heldout_loss:prose",)
    model = {"model": Pretrained("owner/name", 8e9).stage()}
    made = only.stage(model, "base", EngineSettings())
    assert (set(made.inputs), made.estimate["calls"]) == ({"model", "texts"}, 1)
    assert both.stage(model, "base", EngineSettings()).estimate["calls"] > 100
    with pytest.raises(UserError, match="neither items nor texts"):
        Capability("")
