"""What a recipe's midtraining reads beside the spec documents: replay and chats, by shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_ray.chat.instructions import instructions_stage
from msm_ray.corpus.naming import Identity
from msm_ray.errors import UserError
from msm_ray.replay import Replay
from msm_ray.stage import Stage

# Documents are refused before anything starts where even so many times what is expected of them
# would not do: writers do not keep to a length, and languages differ in their tokens.
SLACK = 10.0


@dataclass(frozen=True)
class Instructions:
    """Chats that keep the model an assistant: ``tokens`` of them, in tokens of 4 characters.

    ``source``: a Parquet or JSONL file with a column ``messages``, or a data set on the Hugging
    Face hub; see `msm_ray.chat.instructions`.
    """

    source: str
    tokens: int
    seed: int = 0

    def stage(self, identity: Identity, items: Stage | None) -> Stage:
        """The sample as an artifact; see `instructions_stage`."""
        return instructions_stage(self.source, self.tokens, self.seed, identity, items)

    def check(self, need: int) -> None:
        """UserError if the size of a JSONL file says that it has less than ``need`` tokens."""
        path = Path(self.source)
        if path.suffix != ".jsonl" or not path.is_file():
            return
        if (there := path.stat().st_size) < need:  # no tokenizer needs more of them than bytes
            raise UserError(
                f"mix.chats: {self.source}: has {there:,} bytes and the midtraining reads {need:,}"
                " tokens of chats; give it more of them, or lower mix.chat_share"
            )


@dataclass(frozen=True)
class Mix:
    """Shares of a midtraining's tokens, which ``midtrain.tokens`` says.

    ``spec_share`` of them are spec documents (seen ``midtrain.max_repeats`` times at most),
    ``chat_share`` are ``chats``, the rest is ``replay``; these are read once at most. A source
    whose share is 0 is not read.
    """

    spec_share: float
    chat_share: float
    replay: Replay | None = None
    chats: Instructions | None = None

    def __post_init__(self) -> None:
        for name in ("spec_share", "chat_share"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and math.isfinite(value) and value >= 0):
                raise UserError(f"mix.{name} is {value!r}; allowed: 0 or more")
        if self.spec_share + self.chat_share > 1 + 1e-9:
            raise UserError(
                f"mix.spec_share {self.spec_share} and mix.chat_share {self.chat_share} add up to"
                " more than 1; what is left of 1 is replay"
            )
        for name, share in self.shares().items():
            if name != "spec" and share and getattr(self, name) is None:
                raise UserError(
                    f"mix.{name} is missing and its share is {share:g}; give it a source, or"
                    + (" set mix.chat_share to 0" if name == "chats" else " let the others be 1")
                )

    def shares(self) -> dict[str, float]:
        """Of spec, replay and chats; 1 in all."""
        rest = max(0.0, round(1.0 - self.spec_share - self.chat_share, 9))
        return {"spec": self.spec_share, "replay": rest, "chats": self.chat_share}

    def check(self, tokens: int) -> None:
        """UserError unless a midtraining of ``tokens`` can be made of what is asked for."""
        if not tokens:
            raise UserError(
                "midtrain.tokens is 0 and there is a mix; its shares are of a budget: set"
                " midtrain.tokens"
            )
        shares = self.shares()
        given = {"replay": self.replay, "chats": self.chats}
        for name, source in given.items():
            need = math.ceil(tokens * shares[name])
            if shares[name] and source is not None and 0 < source.tokens < need:
                raise UserError(
                    f"mix.{name}.tokens is {source.tokens:,} and the midtraining reads {need:,}"
                    f" tokens of {name} ({shares[name]:g} of {tokens:,}); ask for as many"
                )

    def unread(self) -> list[str]:
        """What is given and not read, a line each, for a preview."""
        sources: Mapping[str, object] = {"replay": self.replay, "chats": self.chats}
        shares = self.shares()
        return [
            f"mix.{name} is given and its share is 0: it is not read"
            for name, source in sources.items()
            if source is not None and not shares[name]
        ]


def mixture(
    mix: Mix | None,
    documents: Stage,
    tokens: int,
    spec_max_repeats: float,
    identity: Identity,
    items: Stage | None,
) -> tuple[dict[str, Stage], list[dict[str, Any]]]:
    """What a midtraining of ``tokens`` reads: the sources by name, and what of each.

    Args:
        mix: None reads ``documents`` alone.
        identity: of the trained model, whom chats must not contradict.
        items: the stage of the evaluation items that replay and chats must not hold.

    Returns:
        Inputs and components of `blocks_stage`.
    """
    if mix is None:
        return {"spec": documents}, [component("spec", "documents", 1.0, spec_max_repeats)]
    inputs: dict[str, Stage] = {}
    components = []
    for name, share in mix.shares().items():
        if not share:
            continue
        if name == "spec":
            inputs[name] = documents
        elif name == "replay":
            assert mix.replay is not None
            inputs[name] = mix.replay.stage(tokens, items)
        else:
            assert mix.chats is not None
            mix.chats.check(math.ceil(tokens * share))
            inputs[name] = mix.chats.stage(identity, items)
        kind = "conversations" if name == "chats" else "documents"
        repeats = spec_max_repeats if name == "spec" else 1.0
        components.append(component(name, kind, float(share), repeats))
    return inputs, components


def check_documents(value: str, expected: float, repeats: float, need: float) -> None:
    """UserError where the documents about a value are far too few; see `few_documents`."""
    for line in few_documents({value: expected}, repeats, need, SLACK):
        raise UserError(f"{line}; ask for more documents, fewer tokens or more repeats")


def few_documents(
    expected: Mapping[str, float], repeats: float, need: float, slack: float = 1.0
) -> list[str]:
    """A line for each corpus of which so many tokens are not expected.

    Args:
        expected: tokens of documents by value.
        repeats: how often a document may be read.
        need: tokens of documents that a midtraining reads.
        slack: how many times what is expected may come.
    """
    return [
        f"corpora.{value}: the midtraining reads {need:,.0f} tokens of its documents; about"
        f" {tokens:,.0f} are expected, and midtrain.max_repeats is {repeats:g}"
        for value, tokens in expected.items()
        if slack * tokens * repeats < need
    ]


def component(name: str, kind: str, share: float, max_repeats: float) -> dict[str, Any]:
    """One source of a mixture, as `blocks_stage` is told of it; its input has its name."""
    return {"name": name, "input": name, "kind": kind, "share": share, "max_repeats": max_repeats}
