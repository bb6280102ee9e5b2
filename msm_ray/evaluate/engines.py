"""One vLLM engine in this process: hold weights, prove which ones, answer requests.

An engine holds either one whole model, whose weights can be swapped, or one base with any number of
adapters over it, whose requests are computed in one batch.

A load that went wrong is silent: the engine answers, with a mixture of two checkpoints. (vLLM 0.29
on CPU does this to every model with tied embeddings: ``reload_weights`` rebuilds the packed matrix
of the input embedding and leaves that of the output head, see ``_refresh_embeddings``. An adapter
under a name or number that was there before is served from what was cached for that one.) So no
load is trusted: each is followed by scoring the prompts of the checkpoint's ``fingerprint.json``,
whose log-probabilities the trainer recorded with the model's own forward pass.
"""

from __future__ import annotations

import gc
import itertools
import os
import time
from collections.abc import Sequence
from typing import Any

from msm_ray.errors import UserError
from msm_ray.evaluate.checkpoints import Checkpoint, Fingerprint, read_checkpoint
from msm_ray.evaluate.engine_settings import (
    BLOCK_TOKENS,
    WORKER_EXTENSION,
    EngineSettings,
    check_fits,
    environment,
    kv_cache_bytes,
    rank_reserved,
)
from msm_ray.evaluate.requests import Request
from msm_ray.evaluate.verification import (
    FingerprintMismatch,
    LoadReport,
    fingerprint_requests,
    load_report,
)

__all__ = [
    "Checkpoint",
    "Engine",
    "EngineSettings",
    "Fingerprint",
    "FingerprintMismatch",
    "LoadReport",
    "read_checkpoint",
]


class Engine:
    """A vLLM engine that holds one whole model, or one base with adapters.

    Not safe for several threads (see `batching`). One per process: vLLM configures the process as a
    whole.
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
        self.checkpoint: Checkpoint | None = checkpoint  # what was loaded last
        self.architecture = checkpoint.architecture
        self.rank = rank_reserved(checkpoint.rank)
        self.length = min(checkpoint.context, settings.max_length)
        self._llm = LLM((checkpoint.base or checkpoint).path, **self._options(checkpoint))
        self._core = self._llm.llm_engine.engine_core
        self._vocabulary = int(self._llm.llm_engine.model_config.get_vocab_size())
        self._adapters: dict[str, Any] = {}  # key -> vLLM's LoRARequest
        self._numbers = itertools.count(1)  # of adapters; never used twice
        self._ids = itertools.count()
        self._open: dict[str, tuple[Request, int | None, list[float]]] = {}
        self._params: dict[tuple[Any, ...], Any] = {}
        if checkpoint.base is not None:
            self._add_adapter(checkpoint)

    def _options(self, checkpoint: Checkpoint) -> dict[str, Any]:
        settings = self.settings
        options: dict[str, Any] = {
            "skip_tokenizer_init": True,  # requests are token ids
            "dtype": settings.precision,
            "load_format": "safetensors",
            # compiling takes longer than a small evaluation
            "enforce_eager": not settings.gpus,
            "max_model_len": self.length,
            "max_num_seqs": settings.max_num_seqs,
            # a whole round of prompts in one step where they are short
            "max_num_batched_tokens": max(self.length, 4096),
            # vLLM (0.29) dies on the CPU where a prompt with a seed of its own is read in pieces
            # ("CPU Generator does not use offset"): every prompt is read as a whole.
            "enable_chunked_prefill": bool(settings.gpus),
            "kv_cache_memory_bytes": kv_cache_bytes(checkpoint, settings),
            # With the cache's size given this is only what must be free at the start: the share of
            # a GPU that its other users leave.
            "gpu_memory_utilization": 0.05,
            "block_size": BLOCK_TOKENS,
            "enable_prefix_caching": True,
            "use_tqdm_on_load": False,
            "disable_log_stats": True,
            "generation_config": "vllm",  # greedy means greedy, whatever the folder's defaults
            "seed": 0,
        }
        if settings.gpus > 1:
            options["tensor_parallel_size"] = int(settings.gpus)
            options["distributed_executor_backend"] = "mp"
        if checkpoint.base is not None:
            options |= {
                "enable_lora": True,
                "max_lora_rank": self.rank,
                "max_loras": settings.max_adapters,
                "max_cpu_loras": 4 * settings.max_adapters,  # kept, to come back without reading
            }
            if not settings.gpus:
                options["worker_extension_cls"] = WORKER_EXTENSION
        return options

    # ------------------------------------------------------------------------------ what it holds

    def holds(self, key: str) -> bool:
        """Whether requests for the checkpoint ``key`` can be answered."""
        if self.rank:
            return key in self._adapters
        return self.checkpoint is not None and self.checkpoint.key == key

    def take(self, checkpoint: Checkpoint) -> str:
        """Hold ``checkpoint``, and say how: "held", "swap", or "add" for one more adapter.

        Until :meth:`verify` has passed, nothing that the engine answers for it may be used.
        """
        if checkpoint.architecture != self.architecture or rank_reserved(checkpoint.rank) > (
            self.rank
        ):
            raise ValueError(f"{checkpoint.path}: it does not fit this engine")
        if self.holds(checkpoint.key):
            return "held"
        if checkpoint.base is not None:
            self._add_adapter(checkpoint)
            return "add"
        if self._open:
            raise RuntimeError("weights cannot be swapped: an answer is still being computed")
        self.checkpoint = None  # if anything below fails, the engine holds nothing known
        self._reload(checkpoint.path)
        if not self._reset_cache():
            raise RuntimeError("the prefix cache was not reset: an answer is still being computed")
        self.checkpoint = checkpoint
        return "swap"

    def _add_adapter(self, checkpoint: Checkpoint) -> None:
        from vllm.lora.request import LoRARequest

        # vLLM's prefix cache knows an adapter by its name alone, the worker by its number alone.
        adapter = LoRARequest(checkpoint.key, next(self._numbers), checkpoint.path)
        self._core.add_lora(adapter)  # here, so that its errors are this caller's
        self._adapters[checkpoint.key] = adapter

    def _reload(self, path: str) -> None:
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": path})
        self._llm.collective_rpc(_refresh_embeddings)

    def _reset_cache(self) -> bool:
        """Forget keys and values that were computed with other weights."""
        return bool(self._llm.reset_prefix_cache())

    def drop(self, key: str) -> None:
        """Hold ``key`` no longer: it was not confirmed."""
        self._adapters.pop(key, None)
        if self.checkpoint is not None and self.checkpoint.key == key:
            self.checkpoint = None

    def load(self, checkpoint: Checkpoint) -> LoadReport:
        """Hold ``checkpoint``, and say whether it is proven to be held."""
        started = time.perf_counter()
        return self.verify(checkpoint, self.take(checkpoint), started)

    def verify(self, checkpoint: Checkpoint, how: str, started: float) -> LoadReport:
        """Score the fingerprint of ``checkpoint``, which the engine claims to hold."""
        asked = fingerprint_requests(checkpoint.fingerprint, self.length)
        got = self.answer(asked, key=checkpoint.key)
        report = load_report(checkpoint, got, how, started, self.settings, self.length)
        if not report.verified:
            self.drop(checkpoint.key)
        return report

    # ------------------------------------------------------------------------------ what it answers

    def add(self, request: Request, eos: int | None = None, key: str = "") -> str:
        """Take up ``request`` for the adapter ``key``, or for the whole model; returns its id.

        Args:
            eos: token that ends a generated answer.

        Raises:
            UserError: it does not fit into the context or the vocabulary.
        """
        from vllm.v1.engine import EngineCoreRequest

        self._check(request)
        id = str(next(self._ids))
        # Straight to the core: vLLM's front end costs as much again as computing a short answer.
        asked = EngineCoreRequest(
            request_id=id,
            prompt_token_ids=list(request.prompt),
            mm_features=None,
            sampling_params=self._sampling(request, eos),
            pooling_params=None,
            arrival_time=0.0,  # first come, first served
            lora_request=self._adapters[key] if self.rank else None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        self._core.add_request(asked)
        self._open[id] = (request, eos, [])
        return id

    def _check(self, request: Request) -> None:
        """What vLLM's front end would check."""
        tokens = len(request.prompt) + request.max_tokens
        if not request.prompt or tokens > self.length:
            raise UserError(
                f"a request of {len(request.prompt)} tokens and up to {request.max_tokens} of an"
                f" answer; the engine holds sequences of 2 to {self.length} tokens"
            )
        if max((*request.prompt, *request.candidates)) >= self._vocabulary:
            raise UserError(f"a request with a token outside the vocabulary of {self._vocabulary}")

    @property
    def busy(self) -> bool:
        """Whether anything is left to compute."""
        return bool(self._open)

    def step(self) -> list[tuple[str, list[float]]]:
        """Compute one batch; (id, answer) of what got done by it. See :class:`Request`."""
        done = []
        for output in self._core.get_output().outputs:
            if output.request_id not in self._open:
                continue  # given up meanwhile
            request, eos, values = self._open[output.request_id]
            _collect(request, output, values)
            if output.finish_reason is not None:
                if str(output.finish_reason) not in ("stop", "length"):
                    raise RuntimeError(f"vLLM ended a request with {output.finish_reason}")
                del self._open[output.request_id]
                if request.kind == "generate" and values and values[-1] == eos:
                    values.pop()
                done.append((output.request_id, values))
        return done

    def abort(self, ids: Sequence[str]) -> None:
        """Give up requests."""
        self._core.abort_requests(list(ids))
        for id in ids:
            self._open.pop(id, None)

    def answer(
        self, requests: Sequence[Request], eos: int | None = None, key: str = ""
    ) -> list[list[float]]:
        """One list per request, in order; see :class:`Request` for what is in it."""
        ids = [self.add(request, eos, key) for request in requests]
        answers: dict[str, list[float]] = {}
        while self.busy:
            answers.update(self.step())
        return [answers[id] for id in ids]

    def _sampling(self, request: Request, eos: int | None) -> Any:
        """vLLM's parameters; most requests share theirs, and making them takes a while."""
        key = (
            request.kind,
            request.candidates,
            request.max_tokens,
            request.temperature,
            request.top_p,
            request.seed,
            eos,
        )
        if key not in self._params:
            if len(self._params) > 10_000:
                self._params.clear()
            self._params[key] = _sampling(request, eos)
        return self._params[key]

    def close(self) -> None:
        """Give the memory back, as far as a living process can."""
        del self._core, self._llm
        gc.collect()


# -------------------------------------------------------------------------------------------- vLLM


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


def _sampling(request: Request, eos: int | None) -> Any:
    from vllm import SamplingParams

    if request.kind == "next":
        return SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprob_token_ids=list(request.candidates),
            detokenize=False,
        )
    if request.kind == "sequence":
        return SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
    assert request.kind == "generate", request.kind
    drawn = request.temperature > 0
    return SamplingParams(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p if drawn else 1.0,
        seed=request.seed if drawn else None,
        stop_token_ids=[] if eos is None else [eos],
        detokenize=False,
    )


def _collect(request: Request, output: Any, values: list[float]) -> None:
    """Add what one step of vLLM's core says to a request's values."""
    if request.kind == "generate":
        values.extend(output.new_token_ids)
    elif request.kind == "next" and output.new_logprobs is not None:
        # the sampled token comes first, then those that were asked for
        row = output.new_logprobs.logprobs[0].tolist()
        values.extend(row[1 : 1 + len(request.candidates)])
    elif request.kind == "sequence" and output.new_prompt_logprobs_tensors is not None:
        # [tokens - 1, 1]: of each token but the first
        scored = output.new_prompt_logprobs_tensors.logprobs[:, 0].tolist()
        values.extend(scored[request.start - 1 :])
