"""One pass of Ray Data with vLLM: tokenized prompts in a Parquet file in, token ids in others out.

The only place that knows ``ray.data.llm``, and what has to be set there.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from msm_ray.errors import UserError
from msm_ray.llm.environment import engine_env
from msm_ray.llm.memory import EngineMemory
from msm_ray.llm.protocol import ADAPTER

# The engine's own rows, before detokenizing.
RAW_SCHEMA = pa.schema(
    [("id", pa.string()), ("token_ids", pa.list_(pa.int32())), ("error", pa.string())]
)
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


def processor_config(
    model: str,
    dtype: str,
    runtime: VllmRuntime,
    max_model_len: int,
    need: EngineMemory | None,
    *,
    with_tokenizer: bool,
    adapters: int,
    rank: int,
) -> Any:
    """Ray's configuration of the engines: ``adapters`` of rank ``rank`` at most, 0 for none.

    ``need``: what an engine takes of the machine's memory; None where it runs on GPUs.
    """
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
        "enforce_eager": need is not None,  # compiling takes longer than a small corpus
    }
    if adapters:
        # An adapter's folder is its name: vLLM tells adapters, and what it has cached of them,
        # apart by their names alone.
        rank = next(r for r in LORA_RANKS if r >= rank)
        engine |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": min(adapters, 8)}
    if need is None:
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


def run_pass(
    config: Any,
    folder: Path,
    params: dict[str, Any],
    runtime: VllmRuntime,
    rows: int,
    keep_errors: bool,
) -> None:
    """Answer the ``rows`` of ``folder/prompts.parquet`` into ``folder/answers``.

    ``config`` is that of `processor_config`, ``params`` vLLM's sampling parameters without the
    seed. Rows with an error are written down only where ``keep_errors`` says so.
    """
    import ray.exceptions

    try:
        with _SETTINGS, _data_context(folder / "checkpoint"):
            _answers(config, folder, params, runtime, rows, keep_errors).write_parquet(
                str(folder / "answers"), ray_remote_args={"num_cpus": _LITTLE_CPU}, concurrency=1
            )
    except ray.exceptions.RayActorError as error:
        raise RuntimeError(
            f"vLLM's engine died {_ENGINE_DEATHS + 1} times over the same prompts; its last words"
            f" are in the logs of Ray's workers ({' '.join(str(error).split())[:200]})"
        ) from error


def _answers(
    config: Any,
    folder: Path,
    params: dict[str, Any],
    runtime: VllmRuntime,
    rows: int,
    keep_errors: bool,
) -> Any:
    """The pass as a data set of RAW_SCHEMA that nobody has asked for yet."""
    import ray.data
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
    return processor(dataset).flat_map(partial(_raw_rows, keep_errors=keep_errors), **little)


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


def use_gpu() -> bool:
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
