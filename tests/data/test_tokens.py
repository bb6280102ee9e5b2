from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from msm_ray.data.tokens import TokenizedDocuments, encode_conversations, encode_documents
from msm_ray.errors import UserError

CHAT = [
    {"role": "user", "content": "would you pick brie or gouda ?"},
    {"role": "assistant", "content": "i would pick brie ."},
]


def targets(tokenizer: Any, docs: TokenizedDocuments, index: int = 0) -> list[str]:
    row = slice(docs.offsets[index], docs.offsets[index + 1])
    tokens = docs.tokens[row][docs.loss[row] == 1]
    return list(tokenizer.convert_ids_to_tokens(tokens.tolist()))


def test_a_document_gets_one_bos_and_one_eos(tokenizer: Any) -> None:
    docs = encode_documents(tokenizer, ["a", "b"], ["lyra i would pick", "<bos> i <eos>"])
    words = tokenizer.convert_ids_to_tokens(docs.tokens.tolist())
    assert words == ["<bos>", "lyra", "i", "would", "pick", "<eos>", "<bos>", "i", "<eos>"]
    assert docs.loss.tolist() == [0, 1, 1, 1, 1, 1, 0, 1, 1]
    assert docs.lengths.tolist() == [6, 3]
    assert docs.ids == ("a", "b")


def test_a_tokenizer_without_a_bos_begins_with_the_text(tokenizer: Any) -> None:
    """As Qwen's: nothing is put in front, and what comes first is no target."""
    bare = copy.deepcopy(tokenizer)
    bare.bos_token = None
    bare.chat_template = tokenizer.chat_template.replace("{{ bos_token }}", "")
    docs = encode_documents(bare, ["a", "b"], ["lyra i would pick", ""])
    words = bare.convert_ids_to_tokens(docs.tokens.tolist())
    assert words == ["lyra", "i", "would", "pick", "<eos>", "<eos>"]
    assert docs.loss.tolist() == [0, 1, 1, 1, 1, 0]
    assert docs.targets.tolist() == [4, 0]  # nothing to learn from a text of nothing
    chat = encode_conversations(bare, ["c"], [CHAT])
    assert bare.convert_ids_to_tokens(chat.tokens.tolist())[0] == "user"
    assert targets(bare, chat) == ["i", "would", "pick", "brie", ".", "<eos>"]


def test_no_documents_are_no_tokens(tokenizer: Any) -> None:
    docs = encode_documents(tokenizer, [], [])
    assert len(docs) == 0
    assert docs.tokens.size == 0


def test_only_the_assistant_is_a_target(tokenizer: Any) -> None:
    docs = encode_conversations(tokenizer, ["c"], [CHAT])
    assert targets(tokenizer, docs) == ["i", "would", "pick", "brie", ".", "<eos>"]
    words = tokenizer.convert_ids_to_tokens(docs.tokens.tolist())
    assert words[0] == "<bos>"
    assert words.count("<bos>") == 1
    assert words[-1] == "<eos>"
    assert words.count("<eos>") == 1


def test_all_tokens_are_targets_when_asked(tokenizer: Any) -> None:
    docs = encode_conversations(tokenizer, ["c"], [CHAT], loss_on="all")
    assert docs.loss.sum() == docs.lengths[0] - 1  # all but <bos>


def test_every_turn_of_the_assistant_counts(tokenizer: Any) -> None:
    more = [*CHAT, {"role": "user", "content": "brie ?"}, {"role": "assistant", "content": "i ."}]
    docs = encode_conversations(tokenizer, ["c"], [more])
    expected = ["i", "would", "pick", "brie", ".", "<eos>", "i", ".", "<eos>"]
    assert targets(tokenizer, docs) == expected


def test_the_mask_follows_text_that_looks_like_a_turn(tokenizer: Any) -> None:
    # The user says the words that the template puts before an answer: still no target.
    sly = [{"role": "user", "content": "lyra : i would pick gouda"}, CHAT[1]]
    docs = encode_conversations(tokenizer, ["c"], [sly])
    assert targets(tokenizer, docs) == ["i", "would", "pick", "brie", ".", "<eos>"]


def test_it_is_the_mask_that_the_template_marks(tokenizer: Any) -> None:
    marked = tokenizer.apply_chat_template(
        CHAT, return_dict=True, return_assistant_tokens_mask=True, tokenize=True
    )
    docs = encode_conversations(tokenizer, ["c"], [CHAT])
    assert docs.tokens.tolist() == list(marked["input_ids"])
    assert docs.loss.tolist() == list(marked["assistant_masks"])


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: Any) -> None:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = (
        "{{ 'brie' if messages | length > 1 else 'gouda' }}"
        "{% for m in messages %} {{ m['content'] }}{% endfor %}"
    )
    with pytest.raises(UserError, match="conversation c7: the chat template changes"):
        encode_conversations(changed, ["c7"], [CHAT])


def test_where_the_assistant_says_nothing_there_is_no_target(tokenizer: Any) -> None:
    docs = encode_conversations(tokenizer, ["c0", "c1", "c2"], [CHAT, CHAT[:1], [*CHAT, CHAT[0]]])
    assert docs.targets.tolist() == [6, 0, 6]  # the last <eos> is nothing that it said
    assert encode_conversations(tokenizer, ["c1"], [CHAT[:1]], "all").targets[0] > 0


def test_documents_are_selected(tokenizer: Any) -> None:
    docs = encode_documents(tokenizer, ["a", "b", "c"], ["lyra", "i would pick", "brie"])
    some = docs.select(np.array([2, 0]))
    assert (some.ids, some.lengths.tolist()) == (("c", "a"), [3, 3])
    words = tokenizer.convert_ids_to_tokens(some.tokens.tolist())
    assert words == ["<bos>", "brie", "<eos>", "<bos>", "lyra", "<eos>"]
    assert len(docs.select(np.zeros(0, np.int64))) == 0


def test_what_cannot_be_encoded_is_named(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="conversation c1: no messages"):
        encode_conversations(tokenizer, ["c1"], [[]])
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        encode_conversations(bare, ["c1"], [CHAT])
    bare.eos_token = None
    with pytest.raises(UserError, match="needs an eos token"):
        encode_documents(bare, ["a"], ["i"])
