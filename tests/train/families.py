"""Tiny models of four families, random, each with a tokenizer and chat template of its shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORDS = [f"w{i}" for i in range(60)] + ["user", "assistant", "model", ":", ".", "?", "\n"]

LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}"
    "[/INST]{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """``model_type`` of transformers; special tokens with those of begin, end and padding."""

    model_type: str
    special: tuple[str, ...]
    bos: str | None
    eos: str
    pad: str
    template: str
    more: dict[str, Any]


FAMILIES = {
    "llama": Family(
        "llama",
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
         "<|eot_id|>", "<|finetune_right_pad_id|>"),
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|finetune_right_pad_id|>",
        LLAMA,
        {"tie_word_embeddings": False},
    ),
    "qwen3": Family(  # no token at the beginning
        "qwen3",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        None,
        "<|im_end|>",
        "<|endoftext|>",
        QWEN,
        {"tie_word_embeddings": True},
    ),
    "mistral": Family(
        "mistral",
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>"),
        "<s>",
        "</s>",
        "<pad>",
        MISTRAL,
        {"tie_word_embeddings": False, "sliding_window": 16},
    ),
    "gemma": Family(
        "gemma3_text",
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        "<bos>",
        "<end_of_turn>",
        "<pad>",
        GEMMA,
        {
            "tie_word_embeddings": True,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 32,
            "final_logit_softcapping": 2.0,
        },
    ),
}  # fmt: skip


def make_tokenizer(family: Family) -> Any:
    """Byte-level BPE over a small text, as the families' own, with their special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(family.special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=family.bos, eos_token=family.eos, pad_token=family.pad
    )
    tokenizer.chat_template = family.template
    return tokenizer


def make_base(family: Family, folder: Path, seed: int = 0) -> Path:
    """A random model with its tokenizer, as a downloaded folder has it: no fingerprint."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = make_tokenizer(family)
    config = AutoConfig.for_model(
        family.model_type,
        vocab_size=-(-len(tokenizer) // 64) * 64,  # padded, as the families' are
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=128,
        initializer_range=0.15,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **family.more,
    )
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
