from __future__ import annotations

import math
from typing import Any

import pytest

from msm_ray.errors import UserError
from msm_ray.evaluate.tasks import Item, ask, rows, summary

from .tiny import item_row

EVALS = ["choice", "choice_soft", "choice_text", "facts", "heldout_loss"]


class Letters:
    """Each character is a token; "ab" together merge into one: borders can move."""

    eos_token_id = 1
    unk_token_id = 2

    def encode(self, text: str) -> list[int]:
        ids = []
        while text:
            width = 2 if text.startswith("ab") else 1
            ids.append({"ab": 3, "?": 2}.get(text[:width]) or 10 + ord(text[0]))
            text = text[width:]
        return [0, *ids]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(i - 10) for i in ids if i > 10)


class Words(Letters):
    """Each word is a token."""

    def encode(self, text: str) -> list[int]:
        return [0, *(2 if w == "?" else 10 + ord(w[0]) for w in text.split())]


def item(name: str = "i0", **fields: Any) -> Item:
    row = item_row(name, **fields)
    return Item(**{**row, "options": tuple(row["options"])})


def choice(name: str = "i0", **fields: Any) -> Item:
    return item(name, **{"prompt": "u x y", "open_prompt": "u", "options": ["p", "q"], **fields})


def test_single_tokens_take_one_exact_request() -> None:
    batch = ask([choice()], ["choice"], Words(), max_tokens=4, max_length=50)
    (request,) = batch.requests
    assert request.kind == "next"
    assert list(request.prompt) == Words().encode("u x y")
    assert request.candidates == (10 + ord("p"), 10 + ord("q"))


def test_several_tokens_are_scored_as_sequences() -> None:
    long = choice(options=["p r", "q"])
    batch = ask([long], ["choice"], Words(), max_tokens=4, max_length=50)
    assert [r.kind for r in batch.requests] == ["sequence", "sequence"]
    assert [list(r.prompt[r.start :]) for r in batch.requests] == [
        [10 + ord("p"), 10 + ord("r")],
        [10 + ord("q")],
    ]
    made = rows(batch, [[-1.0, -2.0], [-2.5]], Words(), ["choice", "choice_soft"])
    assert [row["value"] for row in made] == [0.0, pytest.approx(1 / (1 + math.exp(0.5)))]
    assert made[0]["answer"] == "q"


def test_a_tokenizer_that_merges_over_the_border() -> None:
    """ "a" + "b" become one token: both wholes are scored from where they first differ."""

    class Glued(Letters):
        def encode(self, text: str) -> list[int]:
            return super().encode(text.replace(" ", ""))

    batch = ask(
        [choice(prompt="xa", options=["b", "c"])], ["choice"], Glued(), max_tokens=1, max_length=50
    )
    assert [list(r.prompt[r.start :]) for r in batch.requests] == [
        [3],
        [10 + ord("a"), 10 + ord("c")],
    ]


def test_equal_requests_are_computed_once() -> None:
    asked = [choice("i0"), choice("i1", domain="books")]
    batch = ask(asked, ["choice", "choice_text"], Words(), max_tokens=4, max_length=50)
    assert len(batch.requests) == 2
    made = rows(batch, [[-1.0, -2.0], [10 + ord("p")]], Words(), ["choice", "choice_text"])
    assert len(made) == 4


def test_rows_and_summary_of_every_eval() -> None:
    items = [
        choice("c0"),
        choice("c1", order=1, prompt="u y x", open_prompt="v", domain="books"),
        item("f0", eval="facts", prompt="f", options=["p", "q"]),
        item("h0", eval="heldout", prompt="a b", options=[]),
        item("h1", eval="heldout", prompt="a b c d", options=[]),
    ]
    batch = ask(items, EVALS, Words(), max_tokens=4, max_length=50)
    p, q = 10 + ord("p"), 10 + ord("q")
    answers: list[list[float]] = [
        [-1.0, -2.0],
        [-3.0, -1.0],
        [p],
        [p, q],
        [-0.1, -5.0],
        [-1.0, -1.0, -1.0],
        [-2.0] * 5,
    ]
    made = rows(batch, answers, Words(), EVALS)
    assert len(made) == 2 * 3 + 1 + 2
    got = summary(made, items, EVALS)
    assert list(got) == EVALS
    assert got["choice"]["rate"] == 0.5
    assert got["choice"]["by_domain"]["books"] == {"rate": 0.0, "n": 1}
    assert got["choice"]["by_order"] == {"0": {"rate": 1.0, "n": 1}, "1": {"rate": 0.0, "n": 1}}
    soft = (1 / (1 + math.exp(-1)) + 1 / (1 + math.exp(2))) / 2
    assert got["choice_soft"]["rate"] == pytest.approx(soft)
    # one names both options: not chosen, and counted as unparsed
    assert (got["choice_text"]["rate"], got["choice_text"]["unparsed"]) == (0.5, 1)
    assert got["choice_text"]["unparsed_share"] == 0.5
    assert got["facts"]["rate"] == 1.0
    # over tokens, not over texts: (3 x 1 + 5 x 2) / 8; the end token counts
    assert got["heldout_loss"]["rate"] == pytest.approx(13 / 8)
    assert got["heldout_loss"]["tokens"] == 8


def test_a_text_that_ends_already_gets_no_second_end() -> None:
    class Ending(Words):
        def encode(self, text: str) -> list[int]:
            return [1 if i == 10 + ord("!") else i for i in super().encode(text)]

    asked = [item("h", eval="heldout", prompt="a !", options=[])]
    (request,) = ask(asked, ["heldout_loss"], Ending(), max_tokens=1, max_length=9).requests
    assert list(request.prompt) == [0, 10 + ord("a"), 1]


def test_an_item_without_a_row_is_an_error() -> None:
    items = [choice("c0"), choice("c1", prompt="z")]
    batch = ask(items, ["choice"], Words(), max_tokens=4, max_length=50)
    made = rows(batch, [[-1.0, -2.0], [-1.0, -2.0]], Words(), ["choice"])
    with pytest.raises(AssertionError, match="every item"):
        summary(made[:1], items, ["choice"])


def test_unknown_words_in_prompts_are_counted() -> None:
    asked = [choice(prompt="? x ?")]
    assert ask(asked, ["choice"], Words(), max_tokens=4, max_length=50).unknown_tokens == 2


@pytest.mark.parametrize(
    ("items", "evals", "message"),
    [
        ([choice()], ["choise"], "choise; allowed: choice"),
        ([choice()], [], "none; allowed"),
        ([choice()], ["facts"], "hold none of 'facts'"),
        ([choice("i7", options=["p"])], ["choice"], "i7: two different options"),
        ([choice("i7", options=["p", "p"])], ["choice"], "i7: two different options"),
        ([choice("i7", options=["p", "?"])], ["choice"], "i7: option '\\?' is not in"),
        ([choice("i7", prompt="x " * 60)], ["choice"], "i7: 62 tokens .* context is 50"),
        ([choice("i7", open_prompt="x " * 48)], ["choice_text"], "i7: 53 tokens"),
        ([item("i7", eval="heldout", prompt="x " * 49)], ["heldout_loss"], "i7: 52 tokens"),
    ],
)
def test_items_that_cannot_be_asked(items: list[Item], evals: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ask(items, evals, Words(), max_tokens=4, max_length=50)
