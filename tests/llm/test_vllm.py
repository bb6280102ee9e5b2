"""The engine with chats and schemas, which the corpus' own tests do not use."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from msm_ray.errors import UserError
from msm_ray.llm.protocol import ADAPTER, PROMPT_SCHEMA, Sampling
from msm_ray.llm.ray_pass import VllmRuntime
from msm_ray.llm.vllm import VllmAnswers

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


def write_byte_model(folder: Path, context: int = 512) -> Path:
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
            max_position_embeddings=context,
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


def write_adapter(model: Path, folder: Path, seed: int) -> Path:
    """A PEFT folder of rank 4 with random weights, strong enough to change what is said."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    adapted.save_pretrained(folder)
    return folder


def greedy(model: Path, adapter: Path | None, prompt: str, tokens: int) -> str:
    """What transformers says, the adapter laid over the model by PEFT."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model)
    if adapter is not None:
        network = PeftModel.from_pretrained(network, adapter)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    said = network.generate(
        input_ids=ids, max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=1
    )
    return str(tokenizer.decode(said[0, ids.shape[1] :]))


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.slow
def test_each_row_is_answered_by_its_own_adapter(ray_cluster: None, tmp_path: Path) -> None:
    model = write_byte_model(tmp_path / "model")
    adapters = {name: write_adapter(model, tmp_path / name, i) for i, name in enumerate("ab", 1)}
    answers = VllmAnswers(model, "float32", VllmRuntime(max_num_seqs=6, block_rows=3), adapters)
    rows = [
        {"id": f"{name}{i}", "system": "", "prompt": f"say {i}", "adapter": name}
        for i in range(3)
        for name in ("", "a", "b")
    ]
    prompts = pa.Table.from_pylist(rows, schema=PROMPT_SCHEMA.append(ADAPTER))
    sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=12, seed=0)
    wrong = prompts.set_column(3, ADAPTER, [["c"] * 9])
    with pytest.raises(UserError, match="asks for the adapter 'c'; there are: a, b"):
        answers.answer(wrong, sampling, tmp_path / "none", lambda done: None)
    found = answers.answer(prompts, sampling, tmp_path / "work", lambda done: None).to_pylist()
    assert [row["error"] for row in found] == [""] * 9
    texts = {}
    for asked, row in zip(rows, found, strict=True):
        said = greedy(model, adapters.get(asked["adapter"]), asked["prompt"], 12)
        assert said.startswith(row["text"]), asked  # the engine may end earlier
        texts[asked["id"]] = row["text"]
    assert len({texts["0"], texts["a0"], texts["b0"]}) == 3, "the adapters change nothing"
