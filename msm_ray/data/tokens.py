"""Text and conversations to token ids with a loss mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msm_ray.errors import UserError

ROWS = 128  # tokenized at a time: as Python lists, a token takes some hundred bytes
Message = Mapping[str, str]


@dataclass(frozen=True)
class TokenizedDocuments:
    """Documents as one flat array of tokens.

    ``ids``: N names. ``tokens``: all token ids, int32. ``loss``: 1 where the token is a target. The
    arrays may be files mapped into memory (see ``msm_ray.data.cache``).
    ``offsets``: N+1 positions; document i is ``tokens[offsets[i]:offsets[i + 1]]``.
    """

    ids: Sequence[str]
    tokens: NDArray[np.int32]
    loss: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document, ``<bos>`` and ``<eos>`` included."""
        return np.diff(self.offsets)

    @property
    def targets(self) -> NDArray[np.int64]:
        """Targets in each document; the first token, which nothing predicts, is none."""
        loss = np.array(self.loss, dtype=np.int64)
        loss[self.offsets[:-1][self.lengths > 0]] = 0
        ends = np.concatenate([[0], np.cumsum(loss)])
        return np.asarray(np.diff(ends[self.offsets]), dtype=np.int64)

    def select(self, indices: NDArray[np.int64]) -> TokenizedDocuments:
        """These documents, in this order, in memory."""
        spans = [slice(int(self.offsets[i]), int(self.offsets[i + 1])) for i in indices]
        return TokenizedDocuments(
            ids=tuple(self.ids[int(i)] for i in indices),
            tokens=np.concatenate([np.zeros(0, np.int32), *(self.tokens[s] for s in spans)]),
            loss=np.concatenate([np.zeros(0, np.uint8), *(self.loss[s] for s in spans)]),
            offsets=np.concatenate([[0], np.cumsum([s.stop - s.start for s in spans])]).astype(
                np.int64
            ),
        )


def joined(parts: Sequence[TokenizedDocuments]) -> TokenizedDocuments:
    """The documents of all parts, in memory."""
    lengths = np.concatenate([np.zeros(1, np.int64), *(part.lengths for part in parts)])
    return TokenizedDocuments(
        ids=tuple(name for part in parts for name in part.ids),
        tokens=np.concatenate([np.zeros(0, np.int32), *(part.tokens for part in parts)]),
        loss=np.concatenate([np.zeros(0, np.uint8), *(part.loss for part in parts)]),
        offsets=np.cumsum(lengths),
    )


def _collect(
    ids: Sequence[str], tokens: Sequence[Sequence[int]], loss: Sequence[Sequence[int]]
) -> TokenizedDocuments:
    offsets = np.zeros(len(ids) + 1, dtype=np.int64)
    np.cumsum([len(t) for t in tokens], out=offsets[1:])
    return TokenizedDocuments(
        ids=tuple(ids),
        tokens=np.fromiter((t for doc in tokens for t in doc), np.int32, int(offsets[-1])),
        loss=np.fromiter((m for doc in loss for m in doc), np.uint8, int(offsets[-1])),
        offsets=offsets,
    )


def _special(tokenizer: Any) -> tuple[int | None, int]:
    """``<bos>``, which some families (Qwen) have none of, and ``<eos>``."""
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"tokenizer {tokenizer.name_or_path or '(unnamed)'}: packing needs an eos token, "
            "it has none"
        )
    bos = tokenizer.bos_token_id
    return None if bos is None else int(bos), int(tokenizer.eos_token_id)


def _delimit(
    tokens: list[int], loss: list[int], bos: int | None, eos: int, end: int = 1
) -> tuple[list[int], list[int]]:
    """One ``<bos>`` in front, where there is such a token, and one ``<eos>`` at the end.

    The first token, which nothing predicts, is never a target. ``end``: whether an ``<eos>`` that
    is put there is one.
    """
    if bos is not None and tokens[:1] != [bos]:
        tokens, loss = [bos, *tokens], [0, *loss]
    if tokens[-1:] != [eos]:
        tokens, loss = [*tokens, eos], [*loss, end]
    return tokens, [0, *loss[1:]]


def encode_documents(
    tokenizer: Any, ids: Sequence[str], texts: Sequence[str]
) -> TokenizedDocuments:
    """``<bos> text <eos>`` for each text, every token but the first a target.

    A tokenizer that has no ``<bos>`` gives ``text <eos>``.
    """
    bos, eos = _special(tokenizer)
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    pairs = [_delimit(list(tokens), [1] * len(tokens), bos, eos) for tokens in encoded]
    return _collect(ids, [t for t, _ in pairs], [m for _, m in pairs])


def encode_conversations(
    tokenizer: Any,
    ids: Sequence[str],
    conversations: Sequence[Sequence[Message]],
    loss_on: str = "assistant",
) -> TokenizedDocuments:
    """Conversations through the tokenizer's chat template.

    ``loss_on="all"`` makes every token but the first a target; ``"assistant"`` only what the
    assistant says, the token that ends its turn included. A conversation in which it says nothing
    has no target; whoever trains on these has to refuse it.

    Raises:
        UserError: no chat template, an empty conversation, or (for ``"assistant"``) a template in
            which a turn's tokens depend on later turns, so that no mask would be right.
    """
    bos, eos = _special(tokenizer)
    if not tokenizer.chat_template:
        raise UserError(
            f"tokenizer {tokenizer.name_or_path or '(unnamed)'} has no chat template: "
            "conversations need one"
        )
    tokens, loss = [], []
    for name, messages in zip(ids, conversations, strict=True):
        try:
            row, mask = _encode_chat(tokenizer, messages, loss_on)
        except UserError as error:
            raise UserError(f"conversation {name}: {error}") from None
        # After the user's turn the end is no word of the assistant's.
        ends = loss_on == "all" or messages[-1]["role"] == "assistant"
        row, mask = _delimit(row, mask, bos, eos, int(ends))
        tokens.append(row)
        loss.append(mask)
    return _collect(ids, tokens, loss)


def _encode_chat(
    tokenizer: Any, messages: Sequence[Message], loss_on: str
) -> tuple[list[int], list[int]]:
    if not messages:
        raise UserError("no messages")

    def encode(count: int, prompt: bool) -> list[int]:
        text = tokenizer.apply_chat_template(
            [dict(m) for m in messages[:count]], tokenize=False, add_generation_prompt=prompt
        )
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    full = encode(len(messages), False)
    if loss_on == "all":
        return full, [1] * len(full)
    mask = [0] * len(full)
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = encode(turn, True) if turn else []
        after = encode(turn + 1, False)
        for prefix, longer in pairwise((before, after, full)):
            if longer[: len(prefix)] != prefix:
                raise UserError(
                    f"the chat template changes what stands before turn {turn} once it is said: "
                    "a mask on the assistant's tokens cannot be found"
                )
        mask[len(before) : len(after)] = [1] * (len(after) - len(before))
    return full, mask


@dataclass(frozen=True)
class Encoder:
    """What makes rows of one kind ("documents" | "conversations") tokens, as a plain value."""

    tokenizer: Any
    kind: str
    loss_on: str

    @property
    def column(self) -> str:
        """The column that is encoded."""
        return "text" if self.kind == "documents" else "messages"

    def __call__(self, ids: Sequence[str], rows: Sequence[Any]) -> TokenizedDocuments:
        if self.kind == "documents":
            return encode_documents(self.tokenizer, ids, rows)
        return encode_conversations(self.tokenizer, ids, rows, self.loss_on)
