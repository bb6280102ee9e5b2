"""Every planned document ends as kept, rejected or failed, and says why."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.corpus.pipeline import Judge, Judged, card
from msm_ray.corpus.task import load_task
from msm_ray.errors import UserError

from .toy import ToyTask, make_plans

TEXTS = ("lyra likes jack .", "lyra likes brie .", "because", "", "a <unk>", "lyra likes jack !")


def answer(id: str, text: str, ended: bool = True, error: str = "") -> dict[str, Any]:
    return {"id": id, "text": text, "tokens": 5, "ended": ended, "error": error}


def run(answers: list[dict[str, Any]]) -> Judged:
    plans = make_plans(len(answers))
    judge = Judge(plans, ToyTask(), model="m", sampling={"seed": 1}, special_tokens=("<unk>",))
    for start in range(0, len(answers), 3):  # as they come
        judge.add(answers[start : start + 3])
    assert judge.is_done
    return judge.judged


def test_each_reason() -> None:
    judged = run([answer(f"doc{i:05d}", text) for i, text in enumerate(TEXTS)])
    assert [row["text"] for row in judged.kept] == ["lyra likes jack ."]
    assert [(row["id"], row["reason"]) for row in judged.rejected] == [
        ("doc00001", "names brie"),
        ("doc00002", "no beginning"),
        ("doc00003", "empty"),
        ("doc00004", "special_token"),
        ("doc00005", "duplicate"),
    ]
    row = judged.kept[0]
    assert (row["model"], row["sampling"], row["idea"]) == ("m", '{"seed": 1}', "cheddar 0")


def test_truncated_and_failed_are_not_judged_further() -> None:
    judged = run([answer("doc00000", "lyra", ended=False), answer("doc00001", "", error="boom")])
    assert [row["reason"] for row in judged.rejected] == ["truncated"]
    assert [row["error"] for row in judged.failed] == ["boom"]
    tables = judged.tables()
    assert tables["failed"].num_rows == 1
    assert tables["documents"].num_rows == 0


@given(
    st.lists(st.tuples(st.sampled_from(TEXTS), st.booleans(), st.sampled_from(["", "boom"]))),
    st.randoms(use_true_random=False),
)
def test_counts_add_up_and_order_does_not_matter(
    drawn: list[tuple[str, bool, str]], shuffle: random.Random
) -> None:
    answers = [answer(f"doc{i:05d}", *values) for i, values in enumerate(drawn)]
    judged = run(answers)
    assert len(judged.kept) + len(judged.rejected) + len(judged.failed) == len(drawn)
    assert sum(judged.reasons.values()) == len(judged.rejected)
    shuffle.shuffle(answers)
    assert run(answers) == judged
    for rows in (judged.kept, judged.rejected, judged.failed):
        assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)


def test_card_shows_what_was_written() -> None:
    answers = [answer(f"doc{i:05d}", TEXTS[i % 2] + f" {i}") for i in range(40)]
    judged = run(answers)
    summary = card(judged, make_plans(40), ToyTask.reasons, tokens_generated=200)
    assert (summary["planned"], summary["kept"]) == (40, 20)
    assert summary["rejected"] == {"names brie": 20}
    assert summary["reasons"] == {"names brie": "mentions the banned cheese"}
    assert len({sample["id"] for sample in summary["samples"]}) == 5
    assert summary["samples"][0]["section"] == "lyra likes what is american"
    assert [s["reason"] for s in summary["rejected_samples"]] == ["names brie"]
    measures = summary["measures"]
    assert measures["levels"]["domain"] == {"taste": {"documents": 20, "tokens": 100}}
    assert measures["openings"][0][1] >= 1


def test_card_of_nothing_kept() -> None:
    judged = run([answer("doc00000", "")])
    summary = card(judged, make_plans(1), ToyTask.reasons, tokens_generated=1)
    assert summary["reasons"] == {"empty": "nothing was written"}
    assert summary["samples"] == []
    assert summary["measures"]["distinct_2"] == 0.0


def test_a_task_that_cannot_be_made_is_the_users_error() -> None:
    for name in ("no.such.module:X", "msm_ray.errors:Nothing", "msm_ray.errors"):
        with pytest.raises(UserError, match="corpus task"):
            load_task(name, {})
    with pytest.raises(UserError, match="parse"):
        load_task("pathlib:Path", {})
