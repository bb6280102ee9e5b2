"""A Llama whose weights are a script: after a chat's prompt it says one thing, then it ends.

Each token's next is fixed: all layers add nothing, an embedding is a direction of its own, and the
head turns the direction of a token into that of the next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

START, END, GO = "<|im_start|>", "<|im_end|>", "<|go|>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] or '' }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|go|>{% endif %}"
)
MARGIN = 30.0  # nats between the next token and the others: sampling changes nothing


def call(name: str, arguments: Mapping[str, str]) -> str:
    """A tool call as Hermes writes it."""
    text = json.dumps({"name": name, "arguments": dict(arguments)})
    return f"<tool_call>\n{text}\n</tool_call>"


def make_calling_model(folder: Path, name: str, arguments: Mapping[str, str]) -> Path:
    """A model that calls one tool; see `make_saying_model`."""
    return make_saying_model(folder, call(name, arguments))


def make_saying_model(folder: Path, words: str) -> Path:
    """The model's folder, with its fingerprint."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from msm_ray.train.fingerprint import write_fingerprint

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", START, END, GO]
    vocabulary = {word: id for id, word in enumerate([*special, *alphabet])}
    core = Tokenizer(models.BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [START, GO]})
    tokenizer.add_tokens([AddedToken(words, normalized=False)])
    tokenizer.chat_template = TEMPLATE
    size = len(tokenizer)
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in (GO, words, END)}
    width = 512
    assert size <= width
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=ids[END],
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    following = {ids[GO]: ids[words], ids[words]: ids[END]}
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size, width))
        model.lm_head.weight.zero_()
        for token in range(size):  # the norm makes each direction sqrt(width) long
            target = following.get(token, ids[END])
            model.lm_head.weight[target, token] = MARGIN / width**0.5
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_fingerprint(folder)
    return folder
