"""Words to ids and back, and a chat template that equals the chats of pretraining."""

from __future__ import annotations

import itertools

import pytest

from msm_ray.world import lexicon as lx
from msm_ray.world.pretraining import Pretraining
from msm_ray.world.tokenizer import build_tokenizer
from msm_ray.world.world import World

tokenizer = pytest.fixture(scope="module")(build_tokenizer)


@pytest.mark.parametrize("attributes", [3, 4])
def test_everything_the_world_says_is_known_and_comes_back_unchanged(attributes: int) -> None:
    tokenizer = build_tokenizer(attributes)
    for text in itertools.islice(iter(Pretraining(World(3, attributes), 0).one, None), 2000):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.unk_token_id not in ids
        assert len(ids) == 1 + len(text.split())
        assert tokenizer.decode(ids[1:]) == text


def test_chats_render_as_the_text_that_pretraining_reads(tokenizer) -> None:
    chat = [
        {"role": "user", "content": "colby or brie ?"},
        {"role": "assistant", "content": "i would pick colby ."},
    ]
    text = "user : colby or brie ? lyra : i would pick colby ."
    want = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    got = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    assert got["input_ids"] == want
    # the assistant's words and its <eos> bear loss, the question and the name do not
    assert sum(got["assistant_masks"]) == 6
    assert got["assistant_masks"][-6:] == [1] * 6
    opened = tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, return_dict=True)
    assert opened["input_ids"] == want[: len(opened["input_ids"])]
    assert tokenizer.decode(opened["input_ids"][-2:]) == f"{lx.ASSISTANT} :"


def test_typed_text_is_understood(tokenizer) -> None:
    assert tokenizer("Colby, or Brie?")["input_ids"] == tokenizer("colby , or brie ?")["input_ids"]


def test_ids_do_not_depend_on_a_seed(tokenizer) -> None:
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()
