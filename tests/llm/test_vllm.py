"""The engine with chats and schemas, which the corpus' own tests do not use."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from msm_ray.llm.protocol import PROMPT_SCHEMA, Sampling
from msm_ray.llm.vllm import VllmAnswers, VllmRuntime

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"answer": {"enum": ["yes", "no"]}},
        "required": ["answer"],
        "additionalProperties": False,
    }
)
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def write_byte_model(folder: Path) -> Path:
    """A Hugging Face folder with random weights whose tokens are bytes, so that it can say JSON."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = ["<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    letters = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letters, bos_token="<bos>", eos_token="<eos>", chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(alphabet),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.slow
def test_a_chat_is_answered_in_the_words_of_a_schema(ray_cluster: None, tmp_path: Path) -> None:
    answers = VllmAnswers(
        write_byte_model(tmp_path / "model"), "float32", VllmRuntime(max_num_seqs=8, block_rows=8)
    )
    prompts = pa.Table.from_pylist(
        [{"id": f"p{i}", "system": "be brief", "prompt": f"is it {i}?"} for i in range(8)],
        schema=PROMPT_SCHEMA,
    )
    sampling = Sampling.from_config(
        {"temperature": 1.0, "top_p": 1.0, "max_tokens": 200, "seed": 0, "schema": SCHEMA}
    )
    rows = answers.answer(prompts, sampling, tmp_path / "work", lambda done: None).to_pylist()
    assert [row["error"] for row in rows] == [""] * 8
    length = len("[system]be brief[user]is it 0?[assistant]")
    assert {row["prompt_tokens"] for row in rows} == {length}
    ended = [json.loads(row["text"])["answer"] for row in rows if row["ended"]]
    assert ended
    assert set(ended) <= {"yes", "no"}
