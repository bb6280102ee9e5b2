"""A writer small enough to start in a test: random weights and a word-level vocabulary."""

from __future__ import annotations

from pathlib import Path

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
WORDS = ("lyra", "likes", "brie", "cheddar", "because", "it", "is", "american", "cheap", ".")


def write_tiny_model(folder: Path, *, context: int = 64, seed: int = 0) -> Path:
    """Write a Hugging Face folder of a two-layer Llama with heads of 32 to ``folder``."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
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
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            bos_token_id=vocabulary["<bos>"],
            eos_token_id=vocabulary["<eos>"],
            pad_token_id=vocabulary["<pad>"],
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
