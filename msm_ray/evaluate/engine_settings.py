"""How an engine runs, what memory that takes, and the environment of its process. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from msm_ray.errors import UserError
from msm_ray.evaluate.checkpoints import Checkpoint
from msm_ray.llm.environment import engine_env
from msm_ray.llm.memory import DTYPE_BYTES, EngineMemory, available_bytes, check_memory
from msm_ray.llm.ray_pass import LORA_RANKS

# Nats that an engine may be off from the recorded fingerprint. In float32 two forward passes of one
# model differ by about 1e-5. In bfloat16 by up to 0.25 (measured: the packaged bases, copies with
# noise, adapters). Its limit finds another model (13 nats), weights that are off by 3 % of their
# spread (0.8) and an adapter that is missing where it moves some log-probability by more than half
# a nat; what is finer than that only float32 finds.
ATOL = {"float32": 1e-3, "bfloat16": 0.5}
PROCESS_BYTES = 2**30  # Python, torch and vLLM without any weights or cache (measured: 0.77)
START_SECONDS = 15.0  # until a small model's engine answers (measured on two cores: 13)
BLOCK_TOKENS = 32  # of the prefix cache; multiples of 32 suit the CPU's attention
WORKER_EXTENSION = "msm_ray.evaluate.worker_extension.WorkerExtension"


def environment(threads: int) -> dict[str, str]:
    """The environment of an engine's process before vLLM is imported there."""
    return {
        **engine_env(threads),  # one process: weights in reach, no child to orphan
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOOPBACK_IP": "127.0.0.1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "DO_NOT_TRACK": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TORCHDYNAMO_DISABLE": "1",  # vLLM compiles one small counting function: 2 s for nothing
    }


@dataclass(frozen=True)
class EngineSettings:
    """How an engine runs; nothing here changes an answer beyond rounding.

    kv_mib bounds the key-value cache; gpus is the share of a GPU (0 on a CPU machine), or how many
    of them the model is spread over; max_adapters is how many adapters stand in one batch; dtype is
    "float32" or "bfloat16", and "" is the former on a CPU and the latter on GPUs.
    """

    threads: int = 1
    kv_mib: int = 256
    max_num_seqs: int = 128
    max_length: int = 2048
    gpus: float = 0.0
    max_adapters: int = 8
    dtype: str = ""

    def __post_init__(self) -> None:
        if self.dtype not in ("", *ATOL):
            raise UserError(f"engine dtype is {self.dtype!r}; allowed: {', '.join(ATOL)}")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise UserError(f"engine gpus is {self.gpus}; allowed: 0 to 1, or a whole number")
        if self.max_adapters < 1:
            raise UserError(f"engine max_adapters is {self.max_adapters}; allowed: 1 or more")

    @property
    def precision(self) -> str:
        """The dtype that weights and activations have in the engine."""
        return self.dtype or ("bfloat16" if self.gpus else "float32")

    @property
    def atol(self) -> float:
        """Nats that an engine may be off from a fingerprint."""
        return ATOL[self.precision]


def kv_cache_bytes(checkpoint: Checkpoint, settings: EngineSettings) -> int:
    """Room for every sequence at full length, bounded by ``kv_mib``, in whole blocks."""
    length = min(checkpoint.context, settings.max_length)
    token = checkpoint.kv_bytes_per_token * DTYPE_BYTES[settings.precision] // 4
    block = BLOCK_TOKENS * token
    # One block more than the sequences need: vLLM keeps the first as a null block.
    blocks = settings.max_num_seqs * -(-length // BLOCK_TOKENS) + 1
    least = -(-length // BLOCK_TOKENS) + 1
    return max(least, min(blocks, settings.kv_mib * 2**20 // block)) * block


def check_fits(checkpoint: Checkpoint, settings: EngineSettings) -> None:
    """Raise UserError if a new engine would not fit: what it needs, what is free, what to lower."""
    if settings.gpus:
        return  # vLLM itself knows what a GPU has
    # bf16 files double in float32; packing copies
    weights = 2 * 2 * (checkpoint.base or checkpoint).weight_bytes
    if checkpoint.base is not None:
        weights += 2 * 2 * settings.max_adapters * checkpoint.weight_bytes
    need = EngineMemory(
        weights=weights, kv_cache=kv_cache_bytes(checkpoint, settings), processes=PROCESS_BYTES
    )
    check_memory(need, 1, available_bytes(), "the number of engines, kv_mib or max_num_seqs")


def rank_reserved(rank: int) -> int:
    """The rank that vLLM reserves memory for, for adapters up to ``rank``; 0 for none."""
    return next(r for r in (0, *LORA_RANKS) if r >= rank)
