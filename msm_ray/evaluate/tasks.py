"""What is asked of a model: items become token requests, answers become rows and rates. Pure.

==============  ==========================================================  ==================
eval            one item's value                                            the checkpoint's rate
==============  ==========================================================  ==================
choice          1 if options[0] is likelier than options[1] after prompt     mean
choice_soft     the same two probabilities, normalised over the two          mean
choice_text     1 if the greedy answer names options[0] and not the other    mean; an answer that
                                                                             names none or both is
                                                                             *unparsed*, value 0
facts           as choice; options[0] is the correct one                     mean
heldout_loss    nats per token of a text, its end included                   mean over all tokens
==============  ==========================================================  ==================
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from msm_ray.errors import UserError
from msm_ray.evaluate.requests import Request
from msm_ray.evaluate.scorers import forced_choice, mean_loss, named_option

# Which rows of the items table an eval reads.
ITEMS_OF = {
    "choice": "choice",
    "choice_soft": "choice",
    "choice_text": "choice",
    "facts": "facts",
    "heldout_loss": "heldout",
}


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    eos_token_id: int | None
    unk_token_id: int | None

    def encode(self, text: str) -> list[int]:
        """Token ids, with whatever the tokenizer puts before a text (``<bos>``)."""

    def decode(self, ids: list[int], skip_special_tokens: bool = ...) -> str:
        """The text of token ids."""


@dataclass(frozen=True)
class Item:
    """One row of the items table; see ``EVAL_ITEM_SCHEMA``."""

    id: str
    eval: str
    domain: str
    pair: str
    order: int
    prompt: str
    open_prompt: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """An item under one eval, with the requests whose answers it needs (positions in the batch)."""

    item: Item
    kind: str  # options | text | loss
    requests: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """All that is asked of one checkpoint in one go."""

    questions: tuple[Question, ...]
    requests: tuple[Request, ...]
    unknown_tokens: int  # tokens of prompts and texts that the vocabulary does not have


def ask(
    items: Sequence[Item],
    evals: Sequence[str],
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    max_length: int,
) -> Batch:
    """The requests for ``evals`` over ``items``.

    Args:
        max_tokens: longest greedy answer, for choice_text.
        max_length: the model's context in tokens.

    Raises:
        UserError: an unknown eval, an eval without items, an item without two options, an option
            outside the vocabulary, or an item longer than the context.
    """
    unknown = sorted(set(evals) - set(ITEMS_OF))
    if unknown or not evals:
        raise UserError(f"evals: {', '.join(unknown) or 'none'}; allowed: {', '.join(ITEMS_OF)}")
    asked: list[Question] = []
    builder = _Requests(tokenizer, max_length)
    for kind, source in _passes(evals):
        chosen = [item for item in items if item.eval == source]
        if not chosen:
            raise UserError(f"evals: the items hold none of {source!r}, which {kind!r} needs")
        for item in chosen:
            if kind == "options":
                requests = builder.options(item)
            elif kind == "text":
                requests = builder.text(item, max_tokens)
            else:
                requests = builder.loss(item)
            asked.append(Question(item, kind, requests))
    return Batch(tuple(asked), tuple(builder.requests), builder.unknown)


def _passes(evals: Sequence[str]) -> list[tuple[str, str]]:
    """(kind of question, items it is asked of): hard and soft choice share one."""
    passes = []
    if {"choice", "choice_soft"} & set(evals):
        passes.append(("options", "choice"))
    if "choice_text" in evals:
        passes.append(("text", "choice"))
    if "facts" in evals:
        passes.append(("options", "facts"))
    if "heldout_loss" in evals:
        passes.append(("loss", "heldout"))
    return passes


class _Requests:
    """Collects requests; equal requests are computed once."""

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        self.requests: list[Request] = []
        self.unknown = 0
        self._at: dict[Request, int] = {}
        self._tokenizer = tokenizer
        self._max_length = max_length

    def options(self, item: Item) -> tuple[int, ...]:
        """The two options' log-probabilities.

        The prompt with each option behind it is tokenised as a whole, and the options' tokens are
        those after the longest beginning that prompt and both wholes have in common: right also
        where a tokenizer merges across the border. Two single tokens need one request (exact and
        cheap); else each whole is scored, and an option's value is the sum over its tokens, so a
        longer name bears the cost of its length.
        """
        if len(item.options) != 2 or item.options[0] == item.options[1]:
            raise UserError(f"item {item.id}: two different options are needed, not {item.options}")
        prompt = self._tokenizer.encode(item.prompt)
        wholes = [self._tokenizer.encode(f"{item.prompt} {option}") for option in item.options]
        start = common_length([prompt, *wholes])
        tails = [whole[start:] for whole in wholes]
        for option, tail in zip(item.options, tails, strict=True):
            if not tail or self._tokenizer.unk_token_id in tail:
                raise UserError(
                    f"item {item.id}: option {option!r} is not in the model's vocabulary"
                )
        if start == 0:
            raise UserError(f"item {item.id}: its options have no prompt before them")
        self._count_unknown(prompt)
        if len(tails[0]) == len(tails[1]) == 1:
            candidates = (tails[0][0], tails[1][0])
            self._fits(item, start + 1)
            return (self._add(Request("next", tuple(wholes[0][:start]), candidates)),)
        for whole in wholes:
            self._fits(item, len(whole) + 1)
        return tuple(self._add(Request("sequence", tuple(w), start=start)) for w in wholes)

    def text(self, item: Item, max_tokens: int) -> tuple[int, ...]:
        """The greedy answer to the open prompt."""
        prompt = self._tokenizer.encode(item.open_prompt)
        self._fits(item, len(prompt) + max_tokens)
        return (self._add(Request("generate", tuple(prompt), max_tokens=max_tokens)),)

    def loss(self, item: Item) -> tuple[int, ...]:
        """Every token of the text but its first, and the end token, as in training."""
        ids = self._tokenizer.encode(item.prompt)
        self._count_unknown(ids)
        end = self._tokenizer.eos_token_id
        if end is not None and ids[-1:] != [end]:
            ids = [*ids, end]
        if len(ids) < 2:
            raise UserError(f"item {item.id}: a text of one token has no loss")
        # The engine samples one token behind what it scores, so the end is left one place free.
        self._fits(item, len(ids) + 1)
        return (self._add(Request("sequence", tuple(ids), start=1)),)

    def _add(self, request: Request) -> int:
        if request not in self._at:
            self._at[request] = len(self.requests)
            self.requests.append(request)
        return self._at[request]

    def _count_unknown(self, ids: Sequence[int]) -> None:
        if self._tokenizer.unk_token_id is not None:
            self.unknown += list(ids).count(self._tokenizer.unk_token_id)

    def _fits(self, item: Item, length: int) -> None:
        if length > self._max_length:
            raise UserError(
                f"item {item.id}: {length} tokens with its answer, but the model's context is"
                f" {self._max_length}"
            )


def common_length(sequences: Sequence[Sequence[int]]) -> int:
    """Length of the longest beginning that all sequences share."""
    length = 0
    for column in zip(*sequences, strict=False):
        if any(token != column[0] for token in column):
            break
        length += 1
    return length


# ------------------------------------------------------------------------------------------- rows


def rows(
    batch: Batch, answers: Sequence[Sequence[float]], tokenizer: Tokenizer, evals: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per item and eval (``EVAL_ROW_SCHEMA``), in the order of the questions.

    Args:
        answers: what the engine returned for each of ``batch.requests``.
    """
    assert len(answers) == len(batch.requests), "the engine answered another number of requests"
    made: list[dict[str, Any]] = []
    for question in batch.questions:
        item, got = question.item, [answers[i] for i in question.requests]
        if question.kind == "options":
            made.extend(_option_rows(item, got, evals))
        elif question.kind == "text":
            text = tokenizer.decode([int(t) for t in got[0]], skip_special_tokens=True)
            named = named_option(text, item.options)
            status = "unparsed" if named is None else "ok"
            made.append(_row(item, "choice_text", float(named == 0), answer=text, status=status))
        else:
            tokens = len(got[0])
            made.append(_row(item, "heldout_loss", mean_loss(got[0]), weight=float(tokens)))
    return made


def _option_rows(
    item: Item, got: Sequence[Sequence[float]], evals: Sequence[str]
) -> Iterable[dict[str, Any]]:
    logprobs = list(got[0]) if len(got) == 1 else [math.fsum(tail) for tail in got]
    chosen, share = forced_choice(logprobs)
    hard = _row(item, item.eval, float(chosen == 0), answer=item.options[chosen])
    if item.eval == "facts":
        return [hard]
    soft = _row(item, "choice_soft", share, answer=item.options[chosen])
    return [row for row in (hard, soft) if row["eval"] in evals]


def _row(
    item: Item,
    name: str,
    value: float,
    *,
    weight: float = 1.0,
    answer: str = "",
    status: str = "ok",
) -> dict[str, Any]:
    return {
        "id": item.id,
        "eval": name,
        "domain": item.domain,
        "pair": item.pair,
        "order": item.order,
        "value": value,
        "weight": weight,
        "answer": answer,
        "status": status,
    }


def summary(
    made: Sequence[Mapping[str, Any]], items: Sequence[Item], evals: Sequence[str]
) -> dict[str, Any]:
    """Per eval: ``{rate, n, by_domain, by_order, unparsed?, unparsed_share?, tokens?}``.

    Every item must have exactly one row under each eval: a number over fewer items than were
    declared would not be the number that was asked for.
    """
    result = {}
    for name in evals:
        own = [row for row in made if row["eval"] == name]
        expected = sorted(item.id for item in items if item.eval == ITEMS_OF[name])
        assert sorted(row["id"] for row in own) == expected, f"{name}: not every item has one row"
        entry: dict[str, Any] = {
            **_mean(own),
            "by_domain": _grouped(own, "domain"),
            "by_order": {str(k): v for k, v in _grouped(own, "order").items()},
        }
        if name == "choice_text":
            entry["unparsed"] = sum(row["status"] == "unparsed" for row in own)
            entry["unparsed_share"] = entry["unparsed"] / len(own)
        if name == "heldout_loss":
            entry["tokens"] = int(sum(row["weight"] for row in own))
        result[name] = entry
    return result


def _mean(own: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    weight = math.fsum(row["weight"] for row in own)
    rate = math.fsum(row["value"] * row["weight"] for row in own) / weight
    return {"rate": rate, "n": len(own)}


def _grouped(own: Sequence[Mapping[str, Any]], key: str) -> dict[Any, dict[str, Any]]:
    groups: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in own:
        if row[key] != "":  # held-out texts belong to no domain
            groups[row[key]].append(row)
    return {name: _mean(groups[name]) for name in sorted(groups)}
