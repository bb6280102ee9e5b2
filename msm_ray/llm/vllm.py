"""Answers from a Hugging Face model, served by vLLM through ``ray.data.llm``.

The prompts are tokenized here, read back by Ray Data in small blocks, answered by one engine actor
(the only actor: tokenizing and detokenizing stages would each start another process), and
written to Parquet under a Ray Data checkpoint. See `attempts` for what survives a crash.

The model's folder and the scratch folder have to be visible on every node that Ray may use.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from msm_ray.errors import UserError
from msm_ray.llm.attempts import Attempts
from msm_ray.llm.environment import engine_env
from msm_ray.llm.memory import (
    EngineMemory,
    adapter_rank,
    available_bytes,
    check_memory,
    engine_memory,
    model_config,
)
from msm_ray.llm.protocol import ADAPTER, Sampling
from msm_ray.llm.tokens import decode, encode, end_ids

# The engine's own rows, before detokenizing.
RAW_SCHEMA = pa.schema(
    [("id", pa.string()), ("token_ids", pa.list_(pa.int32())), ("error", pa.string())]
)
_TOKENIZED_SCHEMA = pa.schema(
    [("id", pa.string()), ("token_ids", pa.list_(pa.int32())), ("seed", pa.int64()), ADAPTER]
)
_TOKENIZED_ROWS = 1024  # at once: lists of Python's numbers take eight times what Arrow's do
_CPU_BATCH_TOKENS = 2048  # read in one step of an engine on the CPU
# How often a block is tried again by another engine after one died over it. Ray Data would try for
# ever, and an engine that dies of what it is asked would be started for ever.
_ENGINE_DEATHS = 4
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM reserves memory for
# Everything in Ray Data that is not the engine: reading, mapping and writing a few kilobytes.
# A whole CPU for each, which is the default, would wait for the engine's on a small machine.
_LITTLE_CPU = 0.01
_ERROR_COLUMN = "__inference_error__"
# Ray Data's settings are global to a process: one run at a time may have changed them.
_SETTINGS = threading.Lock()


@dataclass(frozen=True)
class VllmRuntime:
    """Where and how wide the engine runs. Nothing here changes what is written.

    Attributes:
        engines: engine replicas.
        engine_cpus: CPUs that Ray reserves for each. The rest of the last CPU is for reading and
            writing: at 1.0 those would wait for another stage to end.
        threads: OpenMP threads of each.
        max_num_seqs: sequences an engine holds at once.
        block_rows: prompts in one task, and in one answers file: what a crash can lose.
        tensor_parallel: GPUs that an engine's model is spread over.
    """

    engines: int = 1
    engine_cpus: float = 0.9
    threads: int = 1
    max_num_seqs: int = 64
    block_rows: int = 32
    tensor_parallel: int = 1

    def __post_init__(self) -> None:
        for name in ("engines", "threads", "max_num_seqs", "block_rows", "tensor_parallel"):
            if getattr(self, name) < 1:
                raise UserError(f"runtime {name} is {getattr(self, name)}; allowed: 1 or more")
        if self.engine_cpus < 0:
            raise UserError(f"runtime engine_cpus is {self.engine_cpus}; allowed: 0 or more")


class VllmAnswers:
    """`Answers` by vLLM. Needs an initialised Ray; works in a driver and inside a task.

    Args:
        model: a Hugging Face folder with a tokenizer that has an end-of-sequence token.
        dtype: "float32", "bfloat16" or "float16".
        runtime: width and placement.
        adapters: PEFT folders by name. A row's ADAPTER says which of them answers; rows without
            one are answered by the adapter named "", or by the model alone where there is none.

    Raises:
        UserError: the folder is no model, or the machine has too little free memory.
    """

    call_rows = 65_536  # a call starts an engine, which takes a minute with a large model

    def __init__(
        self,
        model: Path,
        dtype: str,
        runtime: VllmRuntime,
        adapters: Mapping[str, Path] | None = None,
    ) -> None:
        self._model = model.resolve()
        self._dtype = dtype
        self._runtime = runtime
        self._adapters = {name: path.resolve() for name, path in (adapters or {}).items()}
        self._rank = max((adapter_rank(path) for path in self._adapters.values()), default=0)
        self._context = int(model_config(model)["max_position_embeddings"])

    def answer(
        self,
        prompts: pa.Table,
        sampling: Sampling,
        work: Path,
        progress: Callable[[int], None],
    ) -> pa.Table:
        """See `Answers.answer`. Error rows are retried once, with a new engine."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self._model)
        ends = end_ids(self._model, tokenizer)
        ids = prompts["id"].to_pylist()
        assert len(set(ids)) == len(ids), "prompt ids are not unique"
        tokenized = self._tokenized(tokenizer, prompts, sampling)
        attempts = Attempts(work, RAW_SCHEMA)
        # The first pass leaves error rows out of what it writes, so that they stay open; the
        # second one writes them down, whatever they are.
        for keep_errors in (False, True):
            for part in _engines_for(_without(tokenized, attempts.committed()["id"])):
                self._attempt(part, sampling, attempts, ends, keep_errors, progress)
        lengths = pc.list_value_length(tokenized["token_ids"]).to_pylist()
        return decode(attempts.committed(), dict(zip(ids, lengths, strict=True)), ends, tokenizer)

    def _tokenized(self, tokenizer: Any, prompts: pa.Table, sampling: Sampling) -> pa.Table:
        """_TOKENIZED_SCHEMA; UserError for an adapter that there is not."""
        parts = [_TOKENIZED_SCHEMA.empty_table()]
        for start in range(0, prompts.num_rows, _TOKENIZED_ROWS):
            part = prompts.slice(start, _TOKENIZED_ROWS)
            ids = part["id"].to_pylist()
            names = [""] * len(ids)
            if ADAPTER.name in part.schema.names:
                names = part[ADAPTER.name].to_pylist()
            columns = {
                "id": ids,
                "token_ids": encode(tokenizer, part),
                "seed": [sampling.seed_of(id) for id in ids],
                ADAPTER.name: [self._path_of(name) for name in names],
            }
            parts.append(pa.table(columns, schema=_TOKENIZED_SCHEMA))
        return pa.concat_tables(parts)

    def _path_of(self, adapter: str) -> str:
        """An adapter's folder; "" for the model alone."""
        if adapter and adapter not in self._adapters:
            known = ", ".join(sorted(name for name in self._adapters if name)) or "none"
            raise UserError(f"a prompt asks for the adapter {adapter!r}; there are: {known}")
        return str(self._adapters[adapter]) if adapter in self._adapters else ""

    def _attempt(
        self,
        prompts: pa.Table,
        sampling: Sampling,
        attempts: Attempts,
        ends: list[int],
        keep_errors: bool,
        progress: Callable[[int], None],
    ) -> None:
        adapted = prompts[ADAPTER.name][0].as_py() != ""
        longest = pc.max(pc.list_value_length(prompts["token_ids"])).as_py()
        max_model_len = min(self._context, longest + sampling.max_tokens)
        gpu = _use_gpu()
        need = engine_memory(
            self._model,
            dtype=self._dtype,
            max_model_len=max_model_len,
            max_num_seqs=self._runtime.max_num_seqs,
        )
        if not gpu:
            check_memory(need, self._runtime.engines, available_bytes())
        folder = attempts.open_new(prompts)
        config = _processor_config(
            str(self._model),
            self._dtype,
            self._runtime,
            max_model_len,
            need,
            gpu,
            with_tokenizer=bool(sampling.schema),
            adapters=pc.count_distinct(prompts[ADAPTER.name]).as_py() if adapted else 0,
            rank=self._rank,
        )
        params: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "stop_token_ids": ends,
            "detokenize": False,
        }
        if sampling.schema:
            params["structured_outputs"] = {"json": sampling.schema}
        with _SETTINGS, _data_context(folder / "checkpoint"), _watch(attempts, progress):
            _run(config, folder, params, self._runtime, prompts.num_rows, keep_errors)


def _engines_for(prompts: pa.Table) -> list[pa.Table]:
    """The prompts of the model alone and those of adapters, where there are any.

    They need engines of their own: where both stand in one batch, vLLM's kernels for the CPU (in
    0.29) compute the rows without an adapter with the one in the last slot, silently.
    """
    alone = pc.equal(prompts[ADAPTER.name], "")
    parts = [prompts.filter(alone), prompts.filter(pc.invert(alone))]
    return [part for part in parts if part.num_rows]


def _processor_config(
    model: str,
    dtype: str,
    runtime: VllmRuntime,
    max_model_len: int,
    need: EngineMemory,
    gpu: bool,
    *,
    with_tokenizer: bool,
    adapters: int,
    rank: int,
) -> Any:
    from ray.data.llm import vLLMEngineProcessorConfig

    engine: dict[str, Any] = {
        "dtype": dtype,
        "max_model_len": max_model_len,
        "max_num_seqs": runtime.max_num_seqs,
        # Tokens in, tokens out: the engine needs a tokenizer only to keep answers to a schema.
        "skip_tokenizer_init": not with_tokenizer,
        "disable_log_stats": True,
        # Nobody reads along: an answer leaves the engine's front end when it is whole.
        "stream_interval": 1_000_000,
        "enforce_eager": not gpu,  # compiling takes longer than a small corpus
    }
    if adapters:
        # An adapter's folder is its name: vLLM tells adapters, and what it has cached of them,
        # apart by their names alone.
        rank = next(r for r in LORA_RANKS if r >= rank)
        engine |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": min(adapters, 8)}
    if gpu:
        bundles = [{"CPU": runtime.engine_cpus, "GPU": 1}]
        bundles += [{"GPU": 1, "CPU": 0}] * (runtime.tensor_parallel - 1)
        engine["tensor_parallel_size"] = runtime.tensor_parallel
    else:
        bundles = [{"CPU": runtime.engine_cpus}]
        engine["kv_cache_memory_bytes"] = need.kv_cache
        # vLLM (0.29) dies on the CPU where a prompt with a seed of its own is read in pieces ("CPU
        # Generator does not use offset"): every prompt is read as a whole.
        engine["enable_chunked_prefill"] = False
        engine["max_num_batched_tokens"] = max(max_model_len, _CPU_BATCH_TOKENS)
    # A block is done when its slowest answer is: so many that the engine stays full meanwhile.
    batches = max(2, -(-4 * runtime.max_num_seqs // runtime.block_rows))
    return vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs=engine,
        placement_group_config={"bundles": bundles},
        concurrency=(runtime.engines, runtime.engines),  # a single number would autoscale
        batch_size=runtime.block_rows,
        max_concurrent_batches=batches,
        should_continue_on_error=True,
        log_engine_metrics=False,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        runtime_env={"env_vars": engine_env(runtime.threads)},
    )


def _run(
    config: Any,
    folder: Path,
    params: dict[str, Any],
    runtime: VllmRuntime,
    rows: int,
    keep_errors: bool,
) -> None:
    """Answer ``folder/prompts.parquet`` into ``folder/answers``."""
    import ray.data
    import ray.exceptions
    from ray.data.llm import build_processor

    # One worker for each step: at a fraction of a CPU, Ray would start one for every block.
    little: dict[str, Any] = {"num_cpus": _LITTLE_CPU, "concurrency": 1}
    processor = build_processor(
        config,
        preprocess=partial(_request, params=params, model=config.model_source),
        postprocess=_response,
        preprocess_map_kwargs=dict(little),
        postprocess_map_kwargs=dict(little),
    )
    for name in processor.list_stage_names():
        if name.startswith("vLLMEngine"):
            stage = processor.get_stage_by_name(name)
            stage.map_batches_kwargs["max_task_retries"] = _ENGINE_DEATHS
    dataset = ray.data.read_parquet(
        str(folder / "prompts.parquet"),
        override_num_blocks=-(-rows // runtime.block_rows),
        num_cpus=_LITTLE_CPU,
        concurrency=1,
    )
    dataset = processor(dataset).flat_map(partial(_raw_rows, keep_errors=keep_errors), **little)
    try:
        dataset.write_parquet(
            str(folder / "answers"), ray_remote_args={"num_cpus": _LITTLE_CPU}, concurrency=1
        )
    except ray.exceptions.RayActorError as error:
        raise RuntimeError(
            f"vLLM's engine died {_ENGINE_DEATHS + 1} times over the same prompts; its last words"
            f" are in the logs of Ray's workers ({' '.join(str(error).split())[:200]})"
        ) from error


def _request(row: dict[str, Any], params: dict[str, Any], model: str) -> dict[str, Any]:
    """One row for the engine, from one of _TOKENIZED_SCHEMA; ``model`` names an adapter."""
    request = {
        "tokenized_prompt": [int(token) for token in row["token_ids"]],
        "sampling_params": {**params, "seed": int(row["seed"])},
    }
    return {**request, "model": row[ADAPTER.name] or model}


def _response(row: dict[str, Any]) -> dict[str, Any]:
    return {"id": row["id"], "generated_tokens": row["generated_tokens"]}


def _raw_rows(row: dict[str, Any], keep_errors: bool) -> list[dict[str, Any]]:
    """One row of RAW_SCHEMA, or none for an error that is not kept.

    Error rows have skipped _response and carry all the columns there are.
    """
    error = row.get(_ERROR_COLUMN) or ""
    if error and not keep_errors:
        return []
    tokens = [] if error else [int(token) for token in row["generated_tokens"]]
    return [{"id": row["id"], "token_ids": tokens, "error": error}]


def _without(table: pa.Table, ids: pa.ChunkedArray) -> pa.Table:
    done = set(ids.to_pylist())
    return table.filter(pa.array([id not in done for id in table["id"].to_pylist()], pa.bool_()))


def _use_gpu() -> bool:
    """Whether the cluster has a GPU and the installed torch (so, vLLM) was built for one."""
    import ray
    import torch

    return torch.version.cuda is not None and ray.cluster_resources().get("GPU", 0) >= 1


@contextlib.contextmanager
def _data_context(checkpoint: Path) -> Iterator[None]:
    """Ray Data's settings for one run, and the old ones back afterwards.

    They are global to a process, and Ray's worker processes are used again for other stages.
    """
    from ray.data import DataContext
    from ray.data.checkpoint import CheckpointConfig

    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.verbose_stats_logs = False
    # The second version of the Parquet reader makes one block of one file, whatever is asked.
    context.use_datasource_v2 = False
    context.max_consecutive_actor_init_deaths = 3
    context.execution_no_progress_timeout_s = 3600
    context.checkpoint_config = CheckpointConfig(
        id_column="id", checkpoint_path=str(checkpoint), delete_checkpoint_on_success=False
    )
    loggers = [logging.getLogger(name) for name in ("ray.data", "ray.llm", "vllm")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with DataContext.current(context):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _watch(attempts: Attempts, progress: Callable[[int], None]) -> Iterator[None]:
    """Report the committed answers every second while the block runs.

    An error of ``progress`` (a cancelled stage) is raised at the end of the block.
    """
    stop = threading.Event()
    errors: list[BaseException] = []

    def report() -> None:
        try:
            while not stop.wait(1.0):
                progress(attempts.count_committed())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=report, name="answers-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]
    progress(attempts.count_committed())
