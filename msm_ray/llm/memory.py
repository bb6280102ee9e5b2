"""How much memory an engine on the CPU takes, and whether the machine has it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_ray.errors import UserError

MIB = 2**20
GIB = 2**30
# Two processes (the Ray actor and vLLM's EngineCore) that have imported torch and vLLM. Measured
# with a model of one million parameters, see benchmarks/corpus.
PROCESSES_BYTES = 1500 * MIB
KV_CACHE_LIMIT_BYTES = 2 * GIB
# vLLM's CPU backend hands out the cache in blocks of this many tokens.
CPU_BLOCK_TOKENS = 128
# Limit and use of a container's memory: control groups of version 2, and of version 1.
CGROUP = Path("/sys/fs/cgroup")
_CGROUP_FILES = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
WRITER_LOWER = "runtime engines or max_num_seqs, use dtype bfloat16 or a smaller model"
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class EngineMemory:
    """What one engine takes, in bytes."""

    weights: int
    kv_cache: int
    processes: int = PROCESSES_BYTES

    @property
    def total(self) -> int:
        """Weights, KV cache and the processes around them."""
        return self.weights + self.kv_cache + self.processes


def model_config(model: Path) -> dict[str, Any]:
    """Read ``config.json`` of a Hugging Face folder; raises UserError if there is none."""
    file = model / "config.json"
    try:
        config: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{model} is not a Hugging Face model folder: {error}") from error
    return config


def text_config(model: Path) -> dict[str, Any]:
    """`model_config` of the part that reads and writes text: all of it, but for models of images.

    Raises:
        UserError: it says no context length, or nothing at all.
    """
    config = model_config(model)
    nested = config.get("text_config")
    config = {**config, **nested} if isinstance(nested, dict) else config
    if not isinstance(config.get("max_position_embeddings"), int):
        raise UserError(
            f"{model / 'config.json'} has no max_position_embeddings, neither at its top nor in"
            " text_config; needed is a model that continues text"
        )
    return config


def adapter_rank(folder: Path) -> int:
    """The rank of a LoRA adapter in PEFT's form; UserError if it is none."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        rank = int(config["r"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} is not a LoRA adapter's folder: {error!r}") from error
    if not 1 <= rank <= 512:
        raise UserError(f"{folder} has rank {rank}; allowed: 1 to 512, which is what vLLM serves")
    return rank


def kv_cache_bytes_per_token(config: dict[str, Any], dtype: str) -> int:
    """Keys and values of one token over all layers, in bytes."""
    try:
        heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        kv_heads = config.get("num_key_value_heads") or heads
        return int(config["num_hidden_layers"] * 2 * kv_heads * head_dim * DTYPE_BYTES[dtype])
    except KeyError as error:
        raise UserError(f"the model's config.json has no {error.args[0]}") from None


def engine_memory(
    model: Path, *, dtype: str, max_model_len: int, max_num_seqs: int
) -> EngineMemory:
    """Estimate an engine that holds ``max_num_seqs`` sequences of ``max_model_len`` tokens.

    The KV cache is limited to 2 GiB; above that vLLM holds fewer sequences at once.
    """
    if dtype not in DTYPE_BYTES:
        raise UserError(f"dtype is {dtype!r}; allowed: {', '.join(DTYPE_BYTES)}")
    config = text_config(model)
    stored = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    stored_dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    weights = stored * DTYPE_BYTES[dtype] // DTYPE_BYTES.get(stored_dtype, 4)
    blocks = math.ceil(max_model_len / CPU_BLOCK_TOKENS) + 1
    sequence = blocks * CPU_BLOCK_TOKENS * kv_cache_bytes_per_token(config, dtype)
    kv_cache = max(sequence, min(max_num_seqs * sequence, KV_CACHE_LIMIT_BYTES))
    return EngineMemory(weights=weights, kv_cache=kv_cache)


def available_bytes() -> int:
    """Memory that a new process can still take: the machine's, or the container's if less."""
    free = _meminfo_available()
    for limit_file, used_file in _CGROUP_FILES:
        limit, used = _read_int(CGROUP / limit_file), _read_int(CGROUP / used_file)
        if limit is not None and used is not None:
            free = min(free, limit - used + _reclaimable_bytes((CGROUP / used_file).parent))
    return max(free, 0)


def check_memory(
    need: EngineMemory, engines: int, available: int, lower: str = WRITER_LOWER
) -> None:
    """Raise UserError if ``engines`` engines do not fit into ``available`` bytes.

    ``lower`` says which settings to lower.
    """
    total = engines * need.total
    if total > available:
        raise UserError(
            f"the vLLM engine needs about {total / GIB:.1f} GiB ({engines} engine(s): weights "
            f"{need.weights / GIB:.2f}, KV cache {need.kv_cache / GIB:.2f}, processes "
            f"{need.processes / GIB:.1f}), {available / GIB:.1f} GiB are free; lower {lower}, or "
            "close other programs"
        )


def _meminfo_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable")


def _read_int(file: Path) -> int | None:
    """The number in a control file; None where there is no such file or no limit ("max")."""
    if not file.exists():
        return None
    text = file.read_text().strip()
    return int(text) if text.isdigit() else None


def _reclaimable_bytes(group: Path) -> int:
    """Page cache in this container, which the kernel gives up when memory is asked for."""
    file = group / "memory.stat"
    if not file.exists():
        return 0
    fields = dict(line.split() for line in file.read_text().splitlines())
    return int(fields.get("inactive_file", 0))
