"""The command that serves one checkpoint over vLLM's OpenAI-compatible API."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from msm_ray.llm.memory import available_bytes, check_memory, engine_memory, model_config

SEQUENCES = 16  # answered at once; more wait in line
CONTEXT_LIMIT = 8192  # tokens; models with a longer context are served up to this

ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # other programs share the cores
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}


def serve_command(
    folder: Path, names: Sequence[str], host: str, port: int
) -> tuple[list[str], dict[str, str]]:
    """The words of the command, and what it needs in its environment.

    Args:
        folder: a Hugging Face model folder.
        names: what clients may call the model.

    Raises:
        UserError: no model, or too little memory (how much, and what to lower).
    """
    length = min(int(model_config(folder).get("max_position_embeddings", 2048)), CONTEXT_LIMIT)
    # Not `vllm serve`: that asks for a distribution called vllm, and the CPU build is vllm-cpu.
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    words += ["--host", host, "--port", str(port), "--served-model-name", *names]
    words += ["--max-model-len", str(length), "--max-num-seqs", str(SEQUENCES)]
    if _cpu_build():
        need = engine_memory(folder, dtype="float32", max_model_len=length, max_num_seqs=SEQUENCES)
        check_memory(need, 1, available_bytes())
        # Without a bound vLLM takes 4 GiB of cache; compiling takes longer than small models do.
        words += ["--dtype", "float32", "--enforce-eager"]
        words += ["--kv-cache-memory-bytes", str(need.kv_cache)]
    return words, dict(ENVIRONMENT)


def _cpu_build() -> bool:
    """Whether the vLLM that is installed is the CPU build."""
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True
