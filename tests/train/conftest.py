"""A small tokenizer and model: what the shipped bases are, without their training."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from msm_ray.data.blocks import write_blocks
from msm_ray.train.config import TrainConfig
from msm_ray.train.model import init_model
from msm_ray.train.pretrain import pack_texts

WORDS = [f"w{i}" for i in range(60)] + ["user", "lyra", ":", ".", "?"]
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}user : {{ m['content'] }} "
    "{% else %}lyra : {{ m['content'] }} <eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}lyra :{% endif %}"
)
ARCH: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
}


def make_tokenizer() -> Any:
    """A word-level tokenizer over ``WORDS`` with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_texts(count: int, seed: int) -> list[str]:
    """Texts with something to learn: each word is followed by one of two others."""
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        word, words = rng.randrange(60), []
        for _ in range(rng.randrange(3, 30)):
            words.append(f"w{word}")
            word = (word * 7 + rng.choice((1, 11))) % 60
        texts.append(" ".join(words))
    return texts


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads that wait for each other on a busy machine take many times as long as one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def tokenizer_dir(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def config() -> TrainConfig:
    """A short fp32 run."""
    return TrainConfig(
        learning_rate=3e-3,
        beta1=0.9,
        beta2=0.95,
        weight_decay=0.1,
        max_grad_norm=1.0,
        warmup_fraction=0.1,
        schedule="cosine",
        final_lr_fraction=0.1,
        batch_blocks=8,
        epochs=1.0,
        freeze=(),
        precision="fp32",
        seed=0,
    )


@pytest.fixture(scope="session")
def blocks_dir(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 105 blocks of 32 tokens."""
    directory = tmp_path_factory.mktemp("blocks")
    write_blocks(directory, pack_texts(make_texts(180, 0), tokenizer, 32), {})
    return directory


@pytest.fixture
def small_model(tokenizer: Any) -> Any:
    return init_model(ARCH, tokenizer, seed=0)


@pytest.fixture(scope="session")
def arch() -> dict[str, Any]:
    return dict(ARCH)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return make_texts(180, 0)
