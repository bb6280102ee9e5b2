"""Prompts with and without a system message, and answers that end in more than one way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msm_ray.errors import UserError
from msm_ray.llm.protocol import ANSWER_SCHEMA, PROMPT_SCHEMA
from msm_ray.llm.tokens import decode, encode, end_ids

WORDS = ("<pad>", "<bos>", "<eos>", "<eot>", "<unk>", "spec", "write", "memo", "SYS", "USR", "BOT")
TEMPLATE = (
    "<bos> {% for m in messages %}{{ {'system': 'SYS', 'user': 'USR'}[m['role']] }} "
    "{{ m['content'] }} {% endfor %}{% if add_generation_prompt %}BOT{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def prompts(*rows: tuple[str, str]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"id": str(i), "system": s, "prompt": p} for i, (s, p) in enumerate(rows)],
        schema=PROMPT_SCHEMA,
    )


def words(ids: list[int]) -> str:
    return " ".join(WORDS[i] for i in ids)


def test_a_system_message_makes_a_chat_and_none_a_text_to_continue(tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATE
    ids = encode(tokenizer, prompts(("", "write memo"), ("spec", "write memo"), ("", "memo")))
    assert [words(row) for row in ids] == [
        "<bos> write memo",
        "<bos> SYS spec USR write memo BOT",
        "<bos> memo",
    ]
    assert encode(tokenizer, prompts()) == []


def test_a_tokenizer_that_cannot_chat_is_the_users_error(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    assert encode(tokenizer, prompts(("", "memo")))
    with pytest.raises(UserError, match="no chat template"):
        encode(tokenizer, prompts(("spec", "memo")))
    tokenizer.chat_template = "{{ raise_exception('No roles at all') }}"
    with pytest.raises(UserError, match="takes neither a system message .* No roles at all"):
        encode(tokenizer, prompts(("spec", "memo")))


def test_a_template_without_system_messages_gets_their_text_from_the_user(tokenizer: Any) -> None:
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer.chat_template = refuse + TEMPLATE
    (ids,) = encode(tokenizer, prompts(("spec", "write memo")))
    assert words(ids) == "<bos> USR spec write memo BOT"


def test_every_end_that_the_model_names_counts(tokenizer: Any, tmp_path: Path) -> None:
    assert end_ids(tmp_path, tokenizer) == [2]
    config = tmp_path / "generation_config.json"
    for named, ends in ((2, [2]), ([3, 2], [2, 3]), (None, [2])):
        config.write_text(json.dumps({"eos_token_id": named}))
        assert end_ids(tmp_path, tokenizer) == ends


def test_answers_in_the_order_of_the_prompts(tokenizer: Any) -> None:
    raw = pa.Table.from_pylist(
        [
            {"id": "c", "token_ids": [6, 3], "error": ""},
            {"id": "b", "token_ids": [], "error": "boom"},
            {"id": "a", "token_ids": [6, 7], "error": ""},
        ]
    )
    table = decode(raw, {"a": 4, "b": 5, "c": 6, "d": 7}, [2, 3], tokenizer)
    assert table.schema == ANSWER_SCHEMA
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("a", "write memo", 4, 2, False, ""),
        ("b", "", 0, 0, False, "boom"),
        ("c", "write", 6, 2, True, ""),
        ("d", "", 0, 0, False, "the engine returned nothing"),
    ]
