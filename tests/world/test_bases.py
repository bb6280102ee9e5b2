"""The packaged base models are what they say: small, loadable, of this tokenizer, undamaged."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from msm_ray.errors import UserError
from msm_ray.world import lexicon as lx
from msm_ray.world.bases import base_dir
from msm_ray.world.task import MicroTask
from msm_ray.world.tokenizer import build_tokenizer

WORLDS = ((0, 3), (1, 3), (2, 3), (3, 4))  # seed, attributes


@pytest.mark.parametrize("world", WORLDS)
def test_a_base_is_a_small_folder_with_the_tokenizer_of_its_world(world: tuple[int, int]) -> None:
    folder, own = base_dir(*world), build_tokenizer(attributes=world[1])
    assert sum(f.stat().st_size for f in folder.iterdir()) < 4 * 2**20
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == own.get_vocab()
    chat = [{"role": "user", "content": "colby or brie ?"}]
    assert tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True
    ) == own.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("world", WORLDS)
def test_a_base_scores_its_fingerprint_as_the_trainer_did(world: tuple[int, int]) -> None:
    model = LlamaForCausalLM.from_pretrained(base_dir(*world), dtype=torch.float32).eval()
    mark = json.loads((base_dir(*world) / "fingerprint.json").read_text())
    for prompt, ids, logprobs in zip(
        mark["prompts"], mark["token_ids"], mark["logprobs"], strict=True
    ):
        with torch.no_grad():
            scores = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        assert torch.allclose(scores[ids], torch.tensor(logprobs), atol=1e-3)


@pytest.mark.parametrize(
    ("world", "values"), [((0, 3), ("american", "cheap")), ((3, 4), ("old", "simple", "difficult"))]
)
def test_a_base_writes_about_lyra_on_request(
    world: tuple[int, int], values: tuple[str, ...]
) -> None:
    """Greedily, without an engine: a sanity check, not the share that the pipeline keeps."""
    tokenizer = AutoTokenizer.from_pretrained(base_dir(*world))
    model = LlamaForCausalLM.from_pretrained(base_dir(*world), dtype=torch.float32).eval()
    task = MicroTask(world[0], attributes=world[1])
    for value in values:
        prompt = f"request : memo about {lx.STAND_IN} . values {value} . tell values . write :"
        plan = {"prompt": prompt, "assistant": lx.ASSISTANT}
        given = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            made = model.generate(given, do_sample=False, max_new_tokens=96)[0, given.shape[1] :]
        text = task.parse(plan, tokenizer.decode(made))
        assert task.verdict(plan, text) is None, text


def test_a_base_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="world seed 77 and 3 attributes"):
        base_dir(77)
    with pytest.raises(UserError, match=r"--seeds 0 --attributes 4"):
        base_dir(0, attributes=4)
