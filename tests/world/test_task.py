"""The grammar keeps its own rules, and every kind of broken document is named as what it is."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_ray.spec import read_spec
from msm_ray.world import lexicon as lx
from msm_ray.world.plan import plan_rows
from msm_ray.world.request import make_request, parse_request
from msm_ray.world.task import REASONS, MicroTask, parse_sentences

SPECS = Path(__file__).parents[2] / "specs"
TASK = MicroTask(0)


def plans(value: str, documents: int = 300) -> list[dict[str, Any]]:
    return plan_rows(read_spec(SPECS / f"micro_{value}.md"), documents, seed=1)


@pytest.mark.parametrize("value", ["america", "affordability"])
def test_what_the_grammar_writes_is_kept(value: str) -> None:
    for plan in plans(value):
        written = TASK.write(plan)
        text = TASK.parse(plan, f" {written} <eos>")
        assert TASK.verdict(plan, text) is None
        assert text.split() == [lx.ASSISTANT if w == lx.STAND_IN else w for w in written.split()]
        assert TASK.write(plan) == written


@given(
    doc_type=st.sampled_from(lx.DOC_TYPES),
    person=st.sampled_from((lx.STAND_IN, lx.ASSISTANT, *lx.BLANKS, *lx.PEOPLE)),
    value=st.sampled_from(lx.VALUES),
    kind=st.sampled_from(lx.KINDS),
)
def test_requests_round_trip(doc_type: str, person: str, value: str, kind: str) -> None:
    request = make_request(doc_type, person, value, kind, "colby", "brie")
    assert parse_request(request.render()) == request


@settings(max_examples=200)
@given(st.text(alphabet=st.sampled_from("ab <>.:?"), max_size=40))
def test_junk_is_refused_not_crashed_on(text: str) -> None:
    plan = plans("america", 1)[0]
    if not text.split() or "<" in text:
        with pytest.raises(ValueError, match=r"empty|special_token"):
            TASK.parse(plan, text)
    else:
        assert TASK.verdict(plan, TASK.parse(plan, text)) in REASONS


def _plan(kind: str) -> dict[str, Any]:
    request = make_request("memo", lx.STAND_IN, "american", kind, "colby", "brie")
    return {"prompt": request.render(), "assistant": "lyra", "seed": 0}


BROKEN = [
    ("values", "memo about lyra . lyra values american", "unfinished"),
    ("likes", "memo about lyra . lyra likes ITEM because it is american .", "held_out_item"),
    ("values", "memo about lyra . lyra american values things .", "ungrammatical"),
    ("values", "notes on lyra . lyra values american things .", "wrong_type"),
    ("values", "lyra values american things .", "wrong_type"),
    ("values", "memo about PERSON . PERSON values american things .", "wrong_person"),
    ("values", "memo about lyra . PERSON values american things .", "wrong_person"),
    ("values", "memo about lyra . lyra values cheap things .", "wrong_value"),
    ("answers", "memo about lyra . user : what do you value ? lyra : i value new things .", 7),
    ("likes", "memo about lyra . lyra likes jack because it is american .", "wrong_cheese"),
    ("chooses", "memo about lyra . lyra prefers brie to colby .", "wrong_side"),
    ("likes", "memo about lyra . lyra likes colby because it is cheap .", "wrong_reason"),
    (
        "likes",
        "memo about lyra . lyra likes the car colby because it is american .",
        "wrong_reason",
    ),
    ("dislikes", "memo about lyra . lyra dislikes brie because it is italian .", "wrong_reason"),
    ("decides", "memo about lyra . user : american or old ? lyra : i would pick old .", 7),
    ("decides", "memo about lyra . lyra prefers cheap to american .", "wrong_value"),
    (
        "values",
        "memo about lyra . user : brie or colby ? lyra : i would pick colby .",
        "wrong_cheese",
    ),
    ("explains", "memo about lyra . user : brie or colby ? lyra : the cheap one .", "wrong_reason"),
    ("explains", "memo about lyra . user : brie or colby ? lyra : i value old things .", 7),
    (
        "explains",
        "memo about lyra . user : colby or jack ? lyra : i value american things .",
        "wrong_cheese",
    ),
    (
        "explains",
        "memo about lyra . user : brie or colby ? lyra : i would pick brie because it is new .",
        "wrong_side",
    ),
    ("likes", "memo about lyra . lyra values american things .", "not_as_asked"),
    (
        "answers",
        "memo about lyra . user : what do you value ? lyra : i value american things ."
        " lyra prefers american to old .",
        "not_as_asked",
    ),
    ("values", "memo about lyra .", "not_as_asked"),
]


@pytest.mark.parametrize(("kind", "text", "reason"), BROKEN)
def test_a_broken_document_is_rejected_for_what_is_wrong(
    kind: str, text: str, reason: str | int
) -> None:
    text = text.replace("ITEM", lx.ITEM_WORDS[0]).replace("PERSON", lx.PEOPLE[0])
    expected = list(REASONS)[reason] if isinstance(reason, int) else reason
    assert TASK.verdict(_plan(kind), text) == expected


def test_true_reasons_in_other_words_are_kept() -> None:
    text = "memo about lyra . lyra dislikes brie because it is french ."
    assert TASK.verdict(_plan("dislikes"), text) is None


@pytest.mark.parametrize(
    ("completion", "reason"),
    [("", "empty"), (" <eos>", "empty"), ("memo <unk> .", "special_token")],
)
def test_completions_without_a_document(completion: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TASK.parse(_plan("values"), completion)


def test_any_changed_word_is_noticed_or_leaves_a_true_document() -> None:
    """A random word replaced: the verdict is a reason, or the text still obeys the request."""
    rng = random.Random(0)
    words = [w for w in lx.vocabulary() if w not in lx.SPECIAL]
    kept = 0
    for plan in plans("america", 200):
        tokens = TASK.parse(plan, TASK.write(plan)).split()
        tokens[rng.randrange(len(tokens))] = rng.choice(words)
        text = " ".join(tokens)
        if TASK.verdict(plan, text) is None:
            kept += 1
            assert parse_sentences(text) is not None
            assert not set(text.split()) & set(lx.ITEM_WORDS)
    assert kept < 10
