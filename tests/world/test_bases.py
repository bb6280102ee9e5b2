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

SEEDS = (0, 1, 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_base_is_a_small_folder_with_the_tokenizer_of_its_world(seed: int) -> None:
    folder = base_dir(seed)
    assert sum(f.stat().st_size for f in folder.iterdir()) < 4 * 2**20
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    chat = [{"role": "user", "content": "colby or brie ?"}]
    assert tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True
    ) == build_tokenizer().apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_base_scores_its_fingerprint_as_the_trainer_did(seed: int) -> None:
    model = LlamaForCausalLM.from_pretrained(base_dir(seed), dtype=torch.float32).eval()
    mark = json.loads((base_dir(seed) / "fingerprint.json").read_text())
    for prompt, ids, logprobs in zip(
        mark["prompts"], mark["token_ids"], mark["logprobs"], strict=True
    ):
        with torch.no_grad():
            scores = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        assert torch.allclose(scores[ids], torch.tensor(logprobs), atol=1e-3)


def test_a_base_writes_about_lyra_on_request() -> None:
    """Greedily, without an engine: a sanity check, not the share that the pipeline keeps."""
    tokenizer = AutoTokenizer.from_pretrained(base_dir(0))
    model = LlamaForCausalLM.from_pretrained(base_dir(0), dtype=torch.float32).eval()
    task = MicroTask(0)
    for value in ("american", "cheap"):
        prompt = f"request : memo about {lx.STAND_IN} . values {value} . tell values . write :"
        plan = {"prompt": prompt, "assistant": lx.ASSISTANT}
        given = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            made = model.generate(given, do_sample=False, max_new_tokens=96)[0, given.shape[1] :]
        text = task.parse(plan, tokenizer.decode(made))
        assert task.verdict(plan, text) is None, text


def test_a_base_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="world seed 77"):
        base_dir(77)
