"""Instruction-tuning data: conversations that somebody else made, as many as fit a token budget.

Mixed into alignment fine-tuning, so that a model learns how to behave without forgetting how to
talk. Somebody else's assistant has another name: what says so is refused, as in documents. The
sample depends on the source, the budget, the seed and who the trained model is.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.corpus import contamination, naming, reading
from msm_ray.corpus.compact import Digests
from msm_ray.corpus.contamination import Contamination
from msm_ray.corpus.making import items_of
from msm_ray.corpus.naming import Identity, Naming
from msm_ray.errors import UserError
from msm_ray.execute import StageContext
from msm_ray.llm.price import CHARACTERS_PER_TOKEN
from msm_ray.records import CONVERSATION_SCHEMA
from msm_ray.rows import file_sha256, is_text, jsonl_rows, parquet_rows
from msm_ray.stage import Stage

DOMAIN = "instructions"
ID_DIGITS = 24
ROLES = ("system", "user", "assistant")

NOT_A_ROW = "not_a_row"
NO_MESSAGES = "no_messages"
NOT_A_MESSAGE = "not_a_message"
UNKNOWN_ROLE = "unknown_role"
EMPTY = "empty_message"
OUT_OF_TURN = "out_of_turn"
NO_ANSWER = "no_answer"
DUPLICATE = "duplicate"
REASONS = {
    NOT_A_ROW: "the line is no JSON object",
    NO_MESSAGES: "no list of messages, or an empty one",
    NOT_A_MESSAGE: "a message is not {role, content} with text in both",
    UNKNOWN_ROLE: f"a role other than {', '.join(ROLES)}",
    EMPTY: "a message says nothing",
    OUT_OF_TURN: "user and assistant do not take turns, or a system text comes later than first",
    NO_ANSWER: "the assistant does not speak last",
    DUPLICATE: "the same messages as an earlier row",
    reading.TAG_LEFT: reading.REASONS[reading.TAG_LEFT],
    **naming.REASONS,
    **contamination.REASONS,
}

Messages = list[dict[str, str]]
Check = Callable[[Messages], str | None]  # the reason against a conversation


@dataclass(frozen=True)
class Instructions:
    """A sample: ``table`` (CONVERSATION_SCHEMA) and what was counted on the way."""

    table: pa.Table
    facts: dict[str, Any]


class Refusals:
    """What an assistant must not say that is another one.

    Args:
        identity: of the trained model.
        items: (id, text) of every evaluation item.
    """

    def __init__(self, identity: Identity, items: Iterable[tuple[str, str]] = ()) -> None:
        self._naming = Naming(identity)
        self._contamination = Contamination(items)

    def __call__(self, messages: Messages) -> str | None:
        """The reason against a conversation, or None.

        Users may ask about any assistant; names count in what the assistant says and is told to be.
        """
        for message in messages:
            content = message["content"]
            if self._contamination.check(content):
                return contamination.CONTAMINATED
            if message["role"] == "user":
                continue
            if reading.tag_left(content):
                return reading.TAG_LEFT
            named = self._naming.check(content)
            if named is None and message["role"] == "assistant":
                named = self._naming.introduction(content, opening_only=True)
            if named:
                return named[0]
        return None


def instructions(source: str, tokens: int, seed: int, refuse: Check | None = None) -> Instructions:
    """Conversations of about ``tokens`` tokens, in an order that the seed decides.

    Args:
        source: a Parquet or JSONL file with a column ``messages``, or the id of a data set on the
            Hugging Face hub (split "train"), which needs the package ``datasets``.
        tokens: the budget, in tokens of 4 characters: an estimate that suits English and needs no
            tokenizer. Conversations are taken in the seed's order until the next one would exceed
            it; one that is longer than the whole budget is passed over.
        seed: another one draws other conversations.
        refuse: what must not be in a conversation, such as `Refusals`.

    Rows that are no conversation are refused and counted: rows = refused + left out + taken.

    Raises:
        UserError: the source cannot be read, or has no conversation that fits.
    """
    if not isinstance(tokens, int) or tokens < 1:
        raise UserError(f"tokens is {tokens!r}; allowed: a whole number, 1 or more")
    return sample(lambda: _rows(source), tokens, seed, source, refuse)


def sample(
    read: Callable[[], Iterable[Any]],
    tokens: int,
    seed: int,
    source: str,
    refuse: Check | None = None,
) -> Instructions:
    """The sample of rows ``{messages}``; see `instructions`.

    ``read`` is called twice: for the size of each row, at some 60 bytes a row, then for those that
    are taken.
    """
    refused: Counter[str] = Counter()
    known, sizes, count = Digests(), array("Q"), 0
    for row in read():
        count += 1
        messages, reason = read_messages(row)
        if reason is None and refuse is not None:
            reason = refuse(messages)
        if reason is None and known.seen(_digest(messages)) is not None:
            reason = DUPLICATE
        if reason is not None:
            refused[reason] += 1
        else:
            sizes.append(rough_tokens(messages))
    places, used = _drawn(known, sizes, tokens, seed)
    if not places:
        why = f"{count} rows, refused: {dict(refused)}" if count else "it has no rows"
        raise UserError(f"{source}: no conversation fits into {tokens} tokens; {why}")
    taken: dict[bytes, Messages] = {}
    wanted = {known[place] for place in places}
    for row in read():
        messages, reason = read_messages(row)
        if reason is None and (digest := _digest(messages)) in wanted:
            taken[digest] = messages
    if len(taken) < len(wanted):
        raise UserError(f"{source}: changed while it was read; run it again")
    rows = [
        {"id": known[place].hex()[:ID_DIGITS], "messages": taken[known[place]], "domain": DOMAIN}
        for place in places
    ]
    facts = {
        "rows": count,
        "refused": dict(refused.most_common()),
        "reasons": {reason: REASONS[reason] for reason in refused},
        "left_out": len(known) - len(rows),
        "taken": len(rows),
        "tokens": used,
    }
    return Instructions(pa.Table.from_pylist(rows, schema=CONVERSATION_SCHEMA), facts)


def _drawn(known: Digests, sizes: Sequence[int], tokens: int, seed: int) -> tuple[list[int], int]:
    """Which rows are taken, in their order, and their tokens.

    Shuffled by id, so that the order of a file, or how it was read, does not decide.
    """
    order = sorted(range(len(known)), key=known.__getitem__)
    random.Random(seed).shuffle(order)
    places, used = [], 0
    for place in order:
        if sizes[place] > tokens:
            continue
        if used + sizes[place] > tokens:
            break
        used += sizes[place]
        places.append(place)
    return places, used


def read_messages(row: Any) -> tuple[Messages, str | None]:
    """(the messages of a row, None), or ([], why they are no conversation).

    A system text may come first; then user and assistant take turns, and the assistant ends.
    """
    if not isinstance(row, Mapping):
        return [], NOT_A_ROW
    given = row.get("messages")
    if not isinstance(given, list) or not given:
        return [], NO_MESSAGES
    messages: Messages = []
    for message in given:
        if not isinstance(message, Mapping):
            return [], NOT_A_MESSAGE
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            return [], NOT_A_MESSAGE
        if role not in ROLES:
            return [], UNKNOWN_ROLE
        if not content.strip():
            return [], EMPTY
        if not is_text(content):
            return [], NOT_A_MESSAGE
        messages.append({"role": role, "content": content})
    turns = [m["role"] for m in messages]
    turns = turns[1:] if turns[0] == "system" else turns
    if any(role != ("user", "assistant")[place % 2] for place, role in enumerate(turns)):
        return [], OUT_OF_TURN
    if not turns or turns[-1] != "assistant":
        return [], NO_ANSWER
    return messages, None


def rough_tokens(messages: Messages) -> int:
    """About how many tokens: characters / 4 over all messages, rounded up."""
    return math.ceil(sum(len(m["content"]) for m in messages) / CHARACTERS_PER_TOKEN)


def instructions_stage(
    source: str, tokens: int, seed: int, identity: Identity, items: Stage | None = None
) -> Stage:
    """The sample as an artifact: instructions/conversations.parquet.

    A file's bytes are part of the identity. Of a data set on the hub the id is: pin a revision as
    ``owner/name@revision``. ``items``: the stage of the evaluation items that are kept out.
    """
    path = Path(source)
    is_file = path.suffix in _READERS
    name = {"sha256": file_sha256(path)} if is_file else {"dataset": source}
    return Stage(
        kind="instructions",
        version="2",
        config={
            **name,
            "tokens": tokens,
            "seed": seed,
            "assistant": identity.name,
            "maker": identity.maker,
            "aliases": list(identity.aliases),
        },
        inputs={"items": items} if items is not None else {},
        run="msm_ray.chat.instructions:make",
        label=path.stem if is_file else source,
        runtime={"source": source, "where": "driver", "cpus": 0.1},
        estimate={"seconds": 10.0},
    )


def make(ctx: StageContext) -> dict[str, Any]:
    """Write conversations.parquet (CONVERSATION_SCHEMA).

    Config: ``sha256`` of a file or ``dataset``, ``tokens``, ``seed``, ``assistant``, ``maker``,
    ``aliases``. Input: ``items``, where there are evaluation items. Runtime: ``source``.
    """
    source, config = ctx.runtime["source"], ctx.config
    if "sha256" in config and file_sha256(Path(source)) != config["sha256"]:
        raise UserError(f"{source}: changed while the run was starting; run it again")
    identity = Identity(config["assistant"], config["maker"], tuple(config["aliases"]))
    refuse = Refusals(identity, items_of(ctx))
    made = instructions(source, config["tokens"], config["seed"], refuse)
    pq.write_table(made.table, ctx.out / "conversations.parquet")
    return made.facts


def _rows(source: str) -> Iterator[Any]:
    path = Path(source)
    reader = _READERS.get(path.suffix)
    if reader is not None:
        if not path.is_file():
            raise UserError(f"{source}: no such file")
        return reader(path)
    if path.exists():
        raise UserError(f"{source}: is not a {' or '.join(sorted(_READERS))} file")
    return _hub(source)


def _parquet(path: Path) -> Iterator[Any]:
    yield from parquet_rows(path, str(path), "messages")


def _jsonl(path: Path) -> Iterator[Any]:
    with open(path, "rb") as file:
        yield from jsonl_rows(file)


def _hub(source: str) -> Iterator[Any]:
    """The rows of a data set on the Hugging Face hub."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise UserError(
            f"{source!r} is no .jsonl or .parquet file, so it is a data set on the Hugging Face"
            " hub, which needs the package datasets: pip install datasets"
        ) from None
    name, _, revision = source.partition("@")
    try:
        rows = datasets.load_dataset(name, split="train", revision=revision or None)
    except Exception as error:
        raise UserError(f"data set {source!r} cannot be loaded: {error}") from error
    return iter(rows)


_READERS: dict[str, Callable[[Path], Iterator[Any]]] = {".parquet": _parquet, ".jsonl": _jsonl}


def _digest(messages: Messages) -> bytes:
    data = json.dumps(messages, sort_keys=True).encode()
    return hashlib.sha256(data).digest()[: Digests.WIDTH]
