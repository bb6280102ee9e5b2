"""The environment of every vLLM engine's processes, set before vLLM is imported."""

from __future__ import annotations


def engine_env(threads: int) -> dict[str, str]:
    """Few threads, no process more than needed, no network."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # engines and trainers share cores
        # vLLM's CPU platform otherwise puts the model into a process of its own, which has to
        # import everything again: 5 s and 500 MiB for nothing at this size.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
