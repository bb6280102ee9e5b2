"""Models: from a Hugging Face folder or a fresh start, and back to a Hugging Face folder."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from msm_ray.errors import UserError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_model(directory: Path) -> Any:
    """The causal language model of a Hugging Face folder, in fp32."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # one bar for each load would drown the run's own
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation=_attention(_config_of(directory))
    )


def bare_model(directory: Path) -> Any:
    """The model of a Hugging Face folder in fp32 without its weights."""
    from transformers import AutoModelForCausalLM

    config = _config_of(directory)
    return AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=_attention(config)
    )


def meta_model(directory: Path) -> Any:
    """The model of a Hugging Face folder in fp32, its parameters on the meta device.

    Buffers (rotary frequencies, scales) are not stored in a folder: they are made here.
    """
    with torch.device("meta"):
        model = bare_model(directory)
    for module in model.modules():
        buffers = dict(module.named_buffers(recurse=False))
        for name, buffer in buffers.items():
            setattr(module, name, torch.empty_like(buffer, device="cpu"))
        if buffers:
            model._init_weights(module)
    return model


def _config_of(directory: Path) -> Any:
    from transformers import AutoConfig

    if not (directory / "config.json").is_file():
        raise UserError(f"{directory}: not a Hugging Face model folder (config.json is missing)")
    config = AutoConfig.from_pretrained(directory)
    if config.get_text_config() is not config:
        raise UserError(
            f"{directory}: a {config.model_type} model takes more than text; a causal language "
            "model by itself is needed (its text part, saved as such)"
        )
    return config


def _attention(config: Any) -> str:
    """SDPA, but where attention scores have a soft cap (Gemma 2), which SDPA leaves out."""
    return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"


def decoder_layers(model: Any) -> Any:
    """The blocks of a causal language model, by which it is sharded."""
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None:
        raise UserError(f"training: a {model.config.model_type} model has no list of layers")
    return layers


def init_model(arch: Mapping[str, Any], tokenizer: Any, seed: int) -> Any:
    """A Llama-shaped model with fresh weights that depend on ``arch`` and ``seed`` alone.

    ``arch`` are keywords of ``LlamaConfig``; vocabulary size and special tokens come from the
    tokenizer. Projections into the residual stream start smaller by ``1/sqrt(2 * layers)``
    (Radford et al. 2019, section 2.3).
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **{
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "attn_implementation": "sdpa",
            **arch,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).float()
    scale = 1 / math.sqrt(2 * config.num_hidden_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_(scale)
    return model


def freeze(model: Any, groups: tuple[str, ...]) -> None:
    """Switch off the gradients of the named groups (``config.FREEZABLE``)."""
    if "embeddings" in groups:
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            if module is not None:
                module.weight.requires_grad_(False)


def decay_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: matrices decay, vectors (norms, biases) do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise UserError("training: every parameter is frozen; there is nothing to train")
    # ZeRO-3 makes every parameter flat and keeps its shape beside it.
    matrix = {p: len(getattr(p, "ds_shape", p.shape)) >= 2 for p in trained}
    groups = [
        {"params": [p for p in trained if matrix[p]], "weight_decay": weight_decay},
        {"params": [p for p in trained if not matrix[p]], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def dtype_of(save_dtype: str) -> torch.dtype:
    """The type of saved weights by its name in ``DTYPES``."""
    if save_dtype not in DTYPES:
        raise UserError(f"save_dtype is {save_dtype!r}, allowed is {' | '.join(DTYPES)}")
    return DTYPES[save_dtype]


def save_model(
    state: Mapping[str, torch.Tensor],
    config: Any,
    tokenizer_dir: Path,
    out: Path,
    *,
    architecture: str,
    generation_config: Any,
    save_dtype: str,
) -> None:
    """Write a Hugging Face folder: safetensors, config, generation config, tokenizer, template.

    ``state`` are full weights under their plain names, so the folder is the same whichever backend
    trained them. ``architecture`` is the name of the model's class. Tokenizer files are copied byte
    by byte.
    """
    from huggingface_hub import save_torch_state_dict
    from transformers import GenerationConfig

    dtype = dtype_of(save_dtype)
    # Copies: a sharding backend hands out views of larger storages, which safetensors refuses.
    weights = {
        name: value.to(dtype).clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    out.mkdir(parents=True, exist_ok=True)
    # Not model.save_pretrained: it imports accelerate and DeepSpeed, which takes seconds.
    save_torch_state_dict(weights, out, metadata={"format": "pt"})
    config = copy.deepcopy(config)
    config.architectures = [architecture]
    config.dtype = dtype
    config.save_pretrained(out)
    # Generation stops at <eos> by default in transformers and vLLM alike.
    generation = generation_config or GenerationConfig.from_model_config(config)
    if generation.eos_token_id is None:
        generation.eos_token_id = config.eos_token_id
    generation.save_pretrained(out)
    copy_tokenizer(tokenizer_dir, out)


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy the tokenizer's files and its chat template."""
    found = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not found:
        raise UserError(f"{source}: no tokenizer there")
    for name in found:
        shutil.copyfile(source / name, out / name)
