"""Prompts to token ids, and token ids to answers: what an engine of tokens needs of a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from msm_ray.errors import UserError
from msm_ray.llm.protocol import ANSWER_SCHEMA


def encode(tokenizer: Any, prompts: pa.Table) -> list[list[int]]:
    """The token ids of each row of PROMPT_SCHEMA.

    A prompt without a system message is text to be continued. One with a system message becomes a
    chat of two turns in the tokenizer's own template, open at the place where the assistant speaks.
    Where the template refuses system messages, as some models' do, that text begins the user's
    turn, with two newlines after it.
    """
    texts = prompts["prompt"].to_pylist()
    systems = prompts["system"].to_pylist()
    ids: list[list[int]] = [[] for _ in texts]
    plain = [row for row, system in enumerate(systems) if not system]
    if plain:
        encoded = tokenizer([texts[row] for row in plain])["input_ids"]
        for row, tokens in zip(plain, encoded, strict=True):
            ids[row] = tokens
    chats = [row for row, system in enumerate(systems) if system]
    if chats:
        rendered = [_render(tokenizer, systems[row], texts[row]) for row in chats]
        # The template has written the special tokens itself.
        encoded = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        for row, tokens in zip(chats, encoded, strict=True):
            ids[row] = tokens
    return ids


def _render(tokenizer: Any, system: str, prompt: str) -> str:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer in {tokenizer.name_or_path} has no chat template; prompts with a "
            "system message need a model that was trained to chat"
        )
    with_system = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
    folded = [{"role": "user", "content": f"{system}\n\n{prompt}"}]
    for messages in (with_system, folded):
        try:
            return str(
                tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            )
        except TemplateError as error:
            failure = error
    raise UserError(
        f"the chat template in {tokenizer.name_or_path} takes neither a system message and a"
        f" user's nor a user's alone: {failure}"
    ) from failure


def end_ids(model: Path, tokenizer: Any) -> list[int]:
    """The tokens that end an answer, the tokenizer's end-of-sequence token first.

    A chat model has more than one, and names the others in ``generation_config.json``; vLLM stops
    at those as well.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer in {model} has no end-of-sequence token")
    file = model / "generation_config.json"
    named = json.loads(file.read_text()).get("eos_token_id") if file.exists() else None
    others = named if isinstance(named, list) else [] if named is None else [named]
    return list(dict.fromkeys(int(token) for token in [tokenizer.eos_token_id, *others]))


def decode(
    raw: pa.Table, prompt_tokens: Mapping[str, int], ends: list[int], tokenizer: Any
) -> pa.Table:
    """ANSWER_SCHEMA from generated ids.

    Args:
        raw: columns ``id``, ``token_ids`` and ``error``, in any order.
        prompt_tokens: the length of every prompt by its id, in the order of the answers.
        ends: of `end_ids`.
        tokenizer: the model's.
    """
    rows = {row["id"]: row for row in raw.to_pylist()}
    answers = []
    for id, length in prompt_tokens.items():
        row = rows.get(id)
        if row is None:
            row = {"token_ids": [], "error": "the engine returned nothing"}
        tokens = list(row["token_ids"])
        ended = bool(tokens) and tokens[-1] in ends
        answers.append(
            {
                "id": id,
                # Special tokens inside stay visible: a filter has to see them.
                "text": tokenizer.decode(tokens[:-1] if ended else tokens),
                "prompt_tokens": 0 if row["error"] else length,
                "tokens": len(tokens),
                "ended": ended,
                "error": row["error"],
            }
        )
    return pa.Table.from_pylist(answers, schema=ANSWER_SCHEMA)
