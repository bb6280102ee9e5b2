"""Small random models with their fingerprints, and items about words that mean nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.records import EVAL_ITEM_SCHEMA

WORDS = 696
BOS, EOS = 1, 2


def make_model(folder: Path, seed: int, *, tied: bool = True, hidden: int = 128) -> Path:
    """A random Llama in float32 with a word-level tokenizer ("w0 w1 ...") and fingerprint.json."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate([*special, *(f"w{i}" for i in range(WORDS))])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", BOS)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=hidden,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=128,
            tie_word_embeddings=tied,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=0,
            initializer_range=0.15,
        )
    ).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_fingerprint(folder, model)
    return folder


def write_fingerprint(folder: Path, model: Any) -> None:
    """By the model's own forward pass; the last prompt is longer than a block of the cache."""
    import torch

    generator = torch.Generator().manual_seed(7)
    prompts, token_ids, logprobs = [], [], []
    for length in (3, 11, 70):
        prompt = [BOS, *torch.randint(4, WORDS, (length,), generator=generator).tolist()]
        ids = torch.randint(4, WORDS, (16,), generator=generator).tolist()
        prompts.append(prompt)
        token_ids.append(ids)
        logprobs.append(forward(model, prompt)[-1][ids].tolist())
    made = {"prompts": prompts, "token_ids": token_ids, "logprobs": logprobs}
    (folder / "fingerprint.json").write_text(json.dumps(made))


def forward(model: Any, ids: list[int]) -> Any:
    """Log-probabilities of the next token after each position, shape (tokens, vocabulary)."""
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)


def item_row(name: str, **fields: Any) -> dict[str, Any]:
    """One row of an items table, with what is not given left plain."""
    row = {
        "id": name,
        "eval": "choice",
        "domain": "cars",
        "pair": name,
        "order": 0,
        "prompt": "w1 w2 w3",
        "open_prompt": "w1 w2",
        "options": ["w4", "w5"],
    }
    return {**row, **fields}


def write_items(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """An items folder as the world writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, EVAL_ITEM_SCHEMA), folder / "items.parquet")
    return folder
