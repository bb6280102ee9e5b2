"""Pairs and opinions: both orders, bias of position, and answers that decide nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.errors import UserError
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.evaluate.requests import Request
from msm_ray.recipe import Pretrained
from msm_ray.records import TASK_ROW_SCHEMA
from msm_ray.tasks.asking import row
from msm_ray.tasks.pairs import PROMPTS, Opinions, Pairs, ask_forced, summary
from tests.tasks.asked import says, subject, tokenizer

ITEMS = [
    {"id": "a", "domain": "cars", "aligned": "Ford {x}", "other": "Opel"},
    {"id": "b", "domain": "tea", "aligned": "sencha", "other": "matcha"},
]
OPINIONS = [{"id": "o", "domain": "law", "question": "Which?", "aligned": "Yes.", "other": "No."}]
LIKELY, UNLIKELY = -0.1, -3.0


def config(form: str, **more: Any) -> dict[str, Any]:
    return {"name": f"{form}:x", "prompts": PROMPTS[form], "text": True, "max_tokens": 90, **more}


def test_a_model_that_knows_what_it_wants_has_no_bias() -> None:
    tokens = tokenizer()

    def one(text: str, request: Request) -> Sequence[float]:
        if request.kind == "generate":
            return says(tokens, "Ford {x}!" if "Opel" in text else "Matcha")
        return [LIKELY, UNLIKELY] if "Opel" in text else [UNLIKELY, LIKELY]

    asked, seen = subject(one)
    made = ask_forced(asked, ITEMS, config("pairs"))
    assert [e["rate"] for e in made.evals.values()] == [0.5, pytest.approx(0.5), 0.5]
    for name in ("pairs:x", "pairs:x:text"):
        entry = made.evals[name]
        assert (entry["n"], entry["first_listed"]["rate"]) == (4, 0.5)
        assert entry["by_domain"] == {"cars": {"rate": 1.0, "n": 2}, "tea": {"rate": 0.0, "n": 2}}
        assert entry["by_order"] == {"0": {"rate": 0.5, "n": 2}, "1": {"rate": 0.5, "n": 2}}
        assert (entry["undecided"], entry["unparsed"]) == ({}, 0)
    assert pa.Table.from_pylist(made.rows, TASK_ROW_SCHEMA).num_rows == 12
    # Both orders of every item, in words and by probability.
    assert [t.count("Ford {x} or Opel") for t in seen.texts] == [1, 0, 0, 0, 1, 0, 0, 0]
    assert [t.count("Opel or Ford {x}") for t in seen.texts] == [0, 1, 0, 0, 0, 1, 0, 0]


def test_a_model_that_takes_what_comes_first_is_seen_through() -> None:
    tokens = tokenizer()

    def one(text: str, request: Request) -> Sequence[float]:
        if request.kind == "generate":
            return says(tokens, "(A)")
        return [LIKELY, UNLIKELY] if "(A) Yes." in text else [UNLIKELY, LIKELY]

    asked, seen = subject(one)
    made = ask_forced(asked, OPINIONS, config("opinions"))
    for name in ("opinions:x", "opinions:x:text"):
        assert made.evals[name]["rate"] == 0.5
        assert made.evals[name]["first_listed"] == {"rate": 1.0, "n": 2}
        assert made.evals[name]["by_order"]["1"]["rate"] == 0.0
    # The letters, and the aligned answer's first in each order.
    words = [[tokens.decode([t]) for t in r.candidates] for r in seen.requests[:2]]
    assert words == [["A", "B"], ["B", "A"]]


def test_undecided_is_counted_and_never_guessed() -> None:
    tokens = tokenizer()
    answers = iter(["I prefer sencha to matcha.", "Neither, thanks.", "Ford {x}", "Opel."])

    def one(text: str, request: Request) -> Sequence[float]:
        return [-1.0, -1.0] if request.kind == "next" else says(tokens, next(answers))

    asked, _ = subject(one)
    made = ask_forced(asked, [ITEMS[1], ITEMS[0]], config("pairs"))
    text = made.evals["pairs:x:text"]
    assert (text["rate"], text["n"]) == (0.25, 4)
    assert text["decided"] == {"rate": 0.5, "n": 2}
    assert text["undecided"] == {"names_both": 1, "names_neither": 1}
    assert text["unparsed"] == 2
    assert [r["status"] for r in made.rows if r["eval"] == "pairs:x:text"] == [
        *("names_both", "names_neither", "ok", "ok")
    ]
    tied = made.evals["pairs:x"]
    assert (tied["rate"], tied["undecided"]) == (0.0, {"tie": 4})
    assert tied["decided"] == tied["first_listed"] == {"rate": None, "n": 0}


def test_in_plain_text_an_answer_is_its_first_line() -> None:
    tokens = tokenizer(chat=False)

    def one(text: str, request: Request) -> Sequence[float]:
        return [0.0, -1.0] if request.kind == "next" else says(tokens, " sencha\nor matcha")

    asked, _ = subject(one, chat=False)
    made = ask_forced(asked, ITEMS[1:], config("pairs"))
    assert made.evals["pairs:x:text"]["rate"] == 1.0


statuses = st.sampled_from(["ok", "names_neither", "names_both", "tie"])


@given(st.lists(st.tuples(st.booleans(), statuses, st.sampled_from(["x", "y"])), min_size=1))
def test_the_counts_add_up(drawn: list[tuple[bool, str, str]]) -> None:
    rows = [
        row(
            {"id": str(i), "domain": domain},
            "e",
            float(aligned and status == "ok"),
            prompt="",
            status=status,
            order=i % 2,
        )
        for i, (aligned, status, domain) in enumerate(drawn)
    ]
    entry = summary(rows)
    assert entry["n"] == len(rows) == entry["decided"]["n"] + sum(entry["undecided"].values())
    assert entry["rate"] <= (entry["decided"]["rate"] or 0) + 1e-12
    aligned = sum(r["value"] for r in rows)
    assert entry["rate"] * entry["n"] == pytest.approx(aligned)
    assert sum(d["n"] for d in entry["by_domain"].values()) == len(rows)


def test_each_task_is_a_stage_of_its_own() -> None:
    model = {"model": Pretrained("owner/name", 8e9).stage()}
    engine = EngineSettings()
    one = Pairs("america").stage(model, "base", engine)
    assert (
        one.id == Pairs("america").stage(model, "other label", EngineSettings(threads=2, gpus=1)).id
    )
    others = [
        Pairs("america", max_tokens=8),
        Pairs("america", text=False),
        Pairs("novelty"),
        Opinions("america"),
    ]
    assert len({one.id, *(task.stage(model, "base", engine).id for task in others)}) == 5
    assert one.inputs["items"].id == others[0].stage(model, "base", engine).inputs["items"].id
    assert others[1].evals == ("pairs:america", "pairs:america:soft")
    items = one.inputs["items"].estimate["items"]
    assert one.estimate["calls"] == 4 * items  # two orders, two ways of asking
    assert one.estimate["tokens"] == 16 * items
    assert others[1].stage(model, "base", engine).estimate["tokens"] == 0


def test_a_limit_that_leaves_no_answer() -> None:
    with pytest.raises(UserError, match="pairs: max_tokens is 0"):
        Pairs("america", max_tokens=0)


def test_the_name_of_a_file(tmp_path: Path) -> None:
    assert Pairs(str(tmp_path / "pairs_tea.jsonl")).name == "pairs:tea"
