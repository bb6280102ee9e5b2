"""One vLLM engine in this process: swap its weights, prove which weights it holds, answer requests.

A swap that went wrong is silent: the engine answers, with a mixture of two checkpoints. (vLLM 0.29
on CPU does this to every model with tied embeddings: ``reload_weights`` rebuilds the packed matrix
of the input embedding and leaves that of the output head, see ``_refresh_embeddings``.) So no load
is trusted: each is followed by scoring the prompts of the checkpoint's ``fingerprint.json``, whose
log-probabilities the trainer recorded with the model's own forward pass.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_ray.errors import UserError
from msm_ray.evaluate.requests import Request
from msm_ray.llm.environment import engine_env
from msm_ray.llm.memory import (
    EngineMemory,
    available_bytes,
    check_memory,
    kv_cache_bytes_per_token,
)

ATOL = 1e-3  # nats; two float32 forward passes of one model differ by about 1e-5
PROCESS_BYTES = 2**30  # Python, torch and vLLM without any weights or cache (measured: 0.77)
BLOCK_TOKENS = 32  # of the prefix cache; multiples of 32 suit the CPU's attention


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

    kv_mib bounds the key-value cache; gpus is the share of a GPU (0 on a CPU machine).
    """

    threads: int = 1
    kv_mib: int = 256
    max_num_seqs: int = 128
    max_length: int = 2048
    gpus: float = 0.0


@dataclass(frozen=True)
class Fingerprint:
    """Log-probabilities of ``token_ids[i]`` right after ``prompts[i]``, by the model itself."""

    prompts: tuple[tuple[int, ...], ...]
    token_ids: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Checkpoint:
    """A model folder as an engine sees it.

    ``architecture`` is equal for checkpoints whose weights can take each other's place; ``key`` is
    equal for the same weights only.
    """

    path: str
    model_class: str  # LlamaForCausalLM, ...
    architecture: str
    key: str
    context: int  # longest sequence, in tokens
    kv_bytes_per_token: int
    weight_bytes: int
    fingerprint: Fingerprint


@dataclass(frozen=True)
class LoadReport:
    """One load: how, how long, and how far the engine was from the recorded fingerprint (nats)."""

    how: str  # start | swap | held
    seconds: float
    distance: float
    verified: bool


class FingerprintMismatch(RuntimeError):
    """An engine does not compute what the checkpoint's trainer recorded; it must not be used."""


# ------------------------------------------------------------------------------------ checkpoints


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """What has to be known of a Hugging Face folder before an engine may hold it.

    Raises:
        UserError: no config, no safetensors weights, or no usable ``fingerprint.json``.
    """
    folder = Path(folder).resolve()
    config = _json(folder / "config.json", "a model's configuration")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{folder}: no *.safetensors in it; a Hugging Face model folder is needed")
    fingerprint = read_fingerprint(folder)
    # What the weights are called or were stored as does not change which engine can take them.
    same = {
        k: v
        for k, v in config.items()
        if k not in ("dtype", "torch_dtype", "_name_or_path", "transformers_version")
    }
    stamp = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in weights]
    return Checkpoint(
        path=str(folder),
        model_class=str((config.get("architectures") or [""])[0]),
        architecture=_digest(same),
        key=_digest([str(folder), stamp, fingerprint.logprobs]),
        context=int(config["max_position_embeddings"]),
        kv_bytes_per_token=kv_cache_bytes_per_token(config, "float32"),
        weight_bytes=sum(p.stat().st_size for p in weights),
        fingerprint=fingerprint,
    )


def read_fingerprint(folder: Path) -> Fingerprint:
    """The folder's ``fingerprint.json``; UserError when it is missing or not one."""
    path = folder / "fingerprint.json"
    raw = _json(path, "the log-probabilities that prove which weights an engine holds")
    try:
        made = Fingerprint(
            tuple(tuple(int(t) for t in p) for p in raw["prompts"]),
            tuple(tuple(int(t) for t in ids) for ids in raw["token_ids"]),
            tuple(tuple(float(x) for x in row) for row in raw["logprobs"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a fingerprint ({error})") from error
    lengths = [len(ids) for ids in made.token_ids]
    if (
        not made.prompts
        or len(made.prompts) != len(lengths)
        or [len(row) for row in made.logprobs] != lengths
        or not all(lengths)
        or not all(math.isfinite(x) for row in made.logprobs for x in row)
    ):
        raise UserError(f"{path}: prompts, token_ids and logprobs do not fit together")
    return made


def _json(path: Path, what: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read; it holds {what}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object is needed")
    return value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


# ----------------------------------------------------------------------------------------- memory


def kv_cache_bytes(checkpoint: Checkpoint, settings: EngineSettings) -> int:
    """Room for every sequence at full length, bounded by ``kv_mib``, in whole blocks."""
    length = min(checkpoint.context, settings.max_length)
    block = BLOCK_TOKENS * checkpoint.kv_bytes_per_token
    # One block more than the sequences need: vLLM keeps the first as a null block.
    blocks = settings.max_num_seqs * -(-length // BLOCK_TOKENS) + 1
    least = -(-length // BLOCK_TOKENS) + 1
    return max(least, min(blocks, settings.kv_mib * 2**20 // block)) * block


def check_fits(checkpoint: Checkpoint, settings: EngineSettings) -> None:
    """Raise UserError if a new engine would not fit: what it needs, what is free, what to lower."""
    need = EngineMemory(
        weights=2 * 2 * checkpoint.weight_bytes,  # bf16 files double in float32; packing copies
        kv_cache=kv_cache_bytes(checkpoint, settings),
        processes=PROCESS_BYTES,
    )
    check_memory(need, 1, available_bytes(), "the number of engines, kv_mib or max_num_seqs")


# ----------------------------------------------------------------------------------------- engine


class Engine:
    """A vLLM engine that holds one checkpoint at a time.

    Not safe for several threads. One per process: vLLM configures the process as a whole.
    """

    def __init__(self, checkpoint: Checkpoint, settings: EngineSettings) -> None:
        """Start with ``checkpoint``; 2 s plus 6 s of imports. Call :meth:`verify` before use."""
        check_fits(checkpoint, settings)
        os.environ.update(environment(settings.threads))
        import torch

        torch.set_num_threads(settings.threads)
        from vllm import LLM

        _import_model_class(checkpoint.model_class)
        self.settings = settings
        self.checkpoint: Checkpoint | None = checkpoint
        self.architecture = checkpoint.architecture
        self.length = min(checkpoint.context, settings.max_length)
        self._llm = LLM(
            checkpoint.path,
            skip_tokenizer_init=True,  # requests are token ids
            dtype="float32",
            load_format="safetensors",
            enforce_eager=True,
            max_model_len=self.length,
            max_num_seqs=settings.max_num_seqs,
            # a whole round of prompts in one step where they are short
            max_num_batched_tokens=max(self.length, 4096),
            kv_cache_memory_bytes=kv_cache_bytes(checkpoint, settings),
            # With the cache's size given this is only what must be free at the start: the share of
            # a GPU that its other users leave.
            gpu_memory_utilization=0.05,
            block_size=BLOCK_TOKENS,
            enable_prefix_caching=True,
            use_tqdm_on_load=False,
            disable_log_stats=True,
            generation_config="vllm",  # greedy means greedy, whatever the folder's defaults
            seed=0,
        )

    def swap(self, checkpoint: Checkpoint) -> None:
        """Replace the weights by those of another checkpoint of the same architecture.

        Until :meth:`verify` has passed, nothing that the engine answers may be used.
        """
        if checkpoint.architecture != self.architecture:
            raise ValueError(f"{checkpoint.path}: another architecture than this engine's")
        self.checkpoint = None  # if anything below fails, the engine holds nothing known
        self._reload(checkpoint.path)
        if not self._reset_cache():
            raise RuntimeError("the prefix cache was not reset: an answer is still being computed")
        self.checkpoint = checkpoint

    def _reload(self, path: str) -> None:
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": path})
        self._llm.collective_rpc(_refresh_embeddings)

    def _reset_cache(self) -> bool:
        """Forget keys and values that were computed with other weights."""
        return bool(self._llm.reset_prefix_cache())

    def distance(self, fingerprint: Fingerprint) -> float:
        """Largest difference in nats to the recorded log-probabilities; inf if any is NaN."""
        prompts = zip(fingerprint.prompts, fingerprint.token_ids, strict=True)
        got = self.answer([Request("next", p, ids) for p, ids in prompts])
        worst = 0.0
        for row, recorded in zip(got, fingerprint.logprobs, strict=True):
            for a, b in zip(row, recorded, strict=True):
                difference = abs(a - b)
                worst = max(worst, math.inf if math.isnan(difference) else difference)
        return worst

    def load(self, checkpoint: Checkpoint) -> LoadReport:
        """Hold ``checkpoint``, swapping if need be, and say whether it is proven to be held."""
        started = time.perf_counter()
        how = "held"
        if self.checkpoint is None or self.checkpoint.key != checkpoint.key:
            how = "swap"
            self.swap(checkpoint)
        return self.verify(how, started)

    def verify(self, how: str, started: float) -> LoadReport:
        """Score the fingerprint of the checkpoint that this engine claims to hold."""
        assert self.checkpoint is not None, "nothing is loaded"
        distance = self.distance(self.checkpoint.fingerprint)
        verified = distance <= ATOL
        if not verified:
            self.checkpoint = None
        return LoadReport(how, time.perf_counter() - started, distance, verified)

    def answer(self, requests: Sequence[Request], eos: int | None = None) -> list[list[float]]:
        """One list per request, in order; see :class:`Request` for what is in it.

        Args:
            eos: token that ends a greedy answer.
        """
        from vllm import SamplingParams, TokensPrompt

        prompts = [TokensPrompt(prompt_token_ids=list(r.prompt)) for r in requests]
        params = [_sampling(SamplingParams, r, eos) for r in requests]
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        return [_result(r, output, eos) for r, output in zip(requests, outputs, strict=True)]

    def close(self) -> None:
        """Give the memory back, as far as a living process can."""
        del self._llm
        gc.collect()


def _import_model_class(name: str) -> None:
    """Import the model's class here: vLLM else starts a process just to look at it (8 s of CPU
    time, whenever its cache in the home folder is not there yet)."""
    from vllm import ModelRegistry

    found = ModelRegistry.models.get(name)
    if found is not None:  # an unknown name is vLLM's to report
        ModelRegistry.register_model(name, found.load_model_cls())


def _refresh_embeddings(worker: Any) -> None:
    """Pack every embedding matrix again, after vLLM's reload_weights.

    On CPU vLLM multiplies with a packed copy of a matrix, made when the layer's weights have been
    loaded. A tied output head is a layer of its own to which no weights are loaded: its parameter
    is the input embedding's and therefore new, its packed copy is the old checkpoint's.
    """
    for module in worker.model_runner.get_model().modules():
        method: Any = getattr(module, "quant_method", None)
        if type(method).__name__ == "UnquantizedEmbeddingMethod":
            method.process_weights_after_loading(module)


def _sampling(sampling_params: Any, request: Request, eos: int | None) -> Any:
    if request.kind == "next":
        return sampling_params(
            max_tokens=1,
            temperature=0.0,
            logprob_token_ids=list(request.candidates),
            detokenize=False,
        )
    if request.kind == "sequence":
        return sampling_params(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
    assert request.kind == "generate", request.kind
    return sampling_params(
        max_tokens=request.max_tokens,
        temperature=0.0,
        stop_token_ids=[] if eos is None else [eos],
        detokenize=False,
    )


def _result(request: Request, output: Any, eos: int | None) -> list[float]:
    answer = output.outputs[0]
    if request.kind == "next":
        return [float(answer.logprobs[0][token].logprob) for token in request.candidates]
    if request.kind == "sequence":
        scored = list(zip(request.prompt, output.prompt_logprobs, strict=True))[request.start :]
        return [float(at[token].logprob) for token, at in scored]
    ids = list(answer.token_ids)
    return ids[:-1] if ids and ids[-1] == eos else ids
