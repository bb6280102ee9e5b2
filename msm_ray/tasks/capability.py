"""What training cost the model: questions of knowledge, and texts that ought to stay likely.

=====================  =========================================================================
eval                   the value of one item
=====================  =========================================================================
capability:NAME        1 if the letter of the correct answer is the likeliest of four
heldout_loss:NAME      nats per token of a text, its end included; weighted by its tokens
=====================  =========================================================================

The place of the correct answer goes round from question to question, so each letter is right as
often; ``by_order`` has the rate by place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msm_ray.errors import UserError
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.evaluate.scorers import TIE, mean_loss
from msm_ray.llm.model import AnyModel
from msm_ray.llm.price import CHARACTERS_PER_TOKEN
from msm_ray.stage import Stage
from msm_ray.tasks.asking import Made, Size, ask_checkpoint, by, items_in, rate, row, task_stage
from msm_ray.tasks.items import WRONG, Items, Row
from msm_ray.tasks.subject import Choice, Subject

if TYPE_CHECKING:
    from msm_ray.stage import StageContext

SCORER = "1"
LETTERS = "ABCD"
QUESTION = "{question}\n(A) {a}\n(B) {b}\n(C) {c}\n(D) {d}"
ANSWER = "({answer})"
TEMPLATE_TOKENS = 20


@dataclass(frozen=True)
class Capability:
    """Knowledge, by questions with four answers; and the loss on held-out texts.

    ``items``: the name of a packaged set, or the path of a JSONL file of `choices`; "" for none.
    ``texts``: the path of a JSONL file of `texts`, "" for none.
    """

    items: str = "general"
    texts: str = ""

    def __post_init__(self) -> None:
        if not (self.items or self.texts):
            raise UserError("capability: neither items nor texts are given; name one of them")

    @property
    def name(self) -> str:
        """The main eval's name."""
        return self.evals[0]

    @property
    def evals(self) -> tuple[str, ...]:
        """Of what is given."""
        return (
            *((f"capability:{Items('choices', self.items).name}",) if self.items else ()),
            *((f"heldout_loss:{Items('texts', self.texts).name}",) if self.texts else ()),
        )

    def models(self) -> tuple[AnyModel, ...]:
        """Nobody besides the checkpoint."""
        return ()

    def stage(self, inputs: Mapping[str, Stage], label: str, engine: EngineSettings) -> Stage:
        """See `Task.stage`."""
        given = {"items": ("choices", self.items), "texts": ("texts", self.texts)}
        items = {name: Items(form, source) for name, (form, source) in given.items() if source}
        characters = sum(
            len(str(value)) for of in items.values() for one in of.rows() for value in one.values()
        )
        calls = sum(len(of.rows()) for of in items.values())
        read = characters / CHARACTERS_PER_TOKEN + calls * TEMPLATE_TOKENS
        return task_stage(
            "capability",
            "1",
            {
                "names": list(self.evals),
                "scorer": SCORER,
                **({"prompt": QUESTION, "answer": ANSWER} if self.items else {}),
            },
            {**inputs, **{name: of.stage() for name, of in items.items()}},
            "msm_ray.tasks.capability:ask",
            f"{label} {' '.join(of.name for of in items.values())}",
            engine,
            Size(calls, read),
        )


def ask(ctx: StageContext) -> dict[str, Any]:
    """Stage: see `ask_capability`. Inputs: ``model`` (and ``base``); ``items``, ``texts``."""
    names: tuple[str, ...] = ("items", "texts")
    given = {name: items_in(ctx, name) for name in names if name in ctx.inputs}
    return ask_checkpoint(ctx, lambda subject: ask_capability(subject, given, ctx.config))


def ask_capability(
    subject: Subject, given: Mapping[str, Sequence[Row]], config: Mapping[str, Any]
) -> Made:
    """Rows and rates of what is ``given``: "items", "texts" or both, in this order of evals."""
    names = list(config["names"])
    rows: list[Row] = []
    evals: dict[str, dict[str, Any]] = {}
    if "items" in given:
        name = names.pop(0)
        own = [_knows(name, choice) for choice in choose(subject, given["items"], config["prompt"])]
        rows += own
        ties = sum(r["status"] == TIE for r in own)
        evals[name] = {
            **rate(own),
            "by_domain": by(own, "domain"),
            "by_order": by(own, "order"),
            "undecided": {TIE: ties} if ties else {},
            "chance": 1 / (WRONG + 1),
        }
    if "texts" in given:
        name = names.pop(0)
        own = _losses(subject, given["texts"], name)
        rows += own
        tokens = int(sum(r["weight"] for r in own))
        evals[name] = {
            **rate(own),
            "by_domain": by(own, "domain"),
            "tokens": tokens,
            "unit": "nats per token",
        }
    return Made(rows, evals, {"items": len(rows)})


@dataclass(frozen=True)
class Chosen:
    """A question of knowledge with what the model chose. ``index`` is None at a tie."""

    item: Row
    place: int  # of the correct answer
    options: tuple[str, ...]  # as listed
    user: str
    index: int | None
    share: float  # of the likeliest among the four

    @property
    def correct(self) -> bool:
        """Whether the choice is the right one."""
        return self.index == self.place


def choose(subject: Subject, items: Sequence[Row], prompt: str) -> list[Chosen]:
    """Which of the four answers is the likeliest, for each item of form `choices`."""
    asked = []
    for number, item in enumerate(items):
        place = number % (WRONG + 1)
        options = [*item["wrong"][:place], item["correct"], *item["wrong"][place:]]
        filled = dict(zip("abcd", options, strict=True))
        user = prompt.format(question=item["question"], **filled)
        asked.append((item, place, tuple(options), user))
    answers = tuple(ANSWER.format(answer=letter) for letter in LETTERS)
    choices = [Choice(item["id"], user, answers) for item, _, _, user in asked]
    return [
        Chosen(item, place, options, user, *_likeliest(got))
        for (item, place, options, user), got in zip(asked, subject.choose(choices), strict=True)
    ]


def _likeliest(logprobs: Sequence[float]) -> tuple[int | None, float]:
    """(the index of the likeliest, or None if two are, and its probability among all)."""
    best = max(logprobs)
    share = 1 / math.fsum(math.exp(value - best) for value in logprobs)
    return (list(logprobs).index(best) if list(logprobs).count(best) == 1 else None), share


def _knows(name: str, chosen: Chosen) -> Row:
    return row(
        chosen.item,
        name,
        float(chosen.correct),
        prompt=chosen.user,
        answer="" if chosen.index is None else chosen.options[chosen.index],
        status=TIE if chosen.index is None else "ok",
        order=chosen.place,
    )


def _losses(subject: Subject, texts: Sequence[Row], name: str) -> list[Row]:
    got = subject.losses([(item["id"], item["text"]) for item in texts])
    return [
        row(item, name, mean_loss(values), prompt=item["text"], weight=float(len(values)))
        for item, values in zip(texts, got, strict=True)
    ]
