"""Answers from a Hugging Face model, served by vLLM through ``ray.data.llm``.

The prompts are tokenized here, read back by Ray Data in small blocks, answered by one engine actor
(the only actor: tokenizing and detokenizing stages would each start another process), and
written to Parquet under a Ray Data checkpoint. See `attempts` for what survives a crash.

The model's folder and the scratch folder have to be visible on every node that Ray may use.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from msm_ray.errors import UserError
from msm_ray.llm.attempts import Attempts
from msm_ray.llm.memory import (
    adapter_rank,
    available_bytes,
    check_memory,
    engine_memory,
    text_config,
)
from msm_ray.llm.protocol import ADAPTER, Sampling
from msm_ray.llm.ray_pass import RAW_SCHEMA, VllmRuntime, processor_config, run_pass, use_gpu
from msm_ray.llm.tokens import decode, encode, end_ids

_TOKENIZED_SCHEMA = pa.schema(
    [("id", pa.string()), ("token_ids", pa.list_(pa.int32())), ("seed", pa.int64()), ADAPTER]
)
_TOKENIZED_ROWS = 1024  # at once: lists of Python's numbers take eight times what Arrow's do


class VllmAnswers:
    """`Answers` by vLLM. Needs an initialised Ray; works in a driver and inside a task.

    Args:
        model: a Hugging Face folder with a tokenizer that has an end-of-sequence token.
        dtype: "float32", "bfloat16" or "float16".
        runtime: width and placement.
        adapters: PEFT folders by name. A row's ADAPTER says which of them answers; rows without
            one are answered by the adapter named "", or by the model alone where there is none.
        arrived: called with rows of ANSWER_SCHEMA soon after they are committed, in the order in
            which they are, from another thread; each row once. Rows with an error may be left out.

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
        arrived: Callable[[list[dict[str, Any]]], None] | None = None,
    ) -> None:
        self._model = model.resolve()
        self._dtype = dtype
        self._runtime = runtime
        self._arrived = arrived
        self._adapters = {name: path.resolve() for name, path in (adapters or {}).items()}
        self._rank = max((adapter_rank(path) for path in self._adapters.values()), default=0)
        self._context = int(text_config(model)["max_position_embeddings"])

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
        lengths = dict(
            zip(ids, pc.list_value_length(tokenized["token_ids"]).to_pylist(), strict=True)
        )

        def report(done: int) -> None:
            if self._arrived is not None and (new := attempts.unread()).num_rows:
                known = {id: lengths[id] for id in new["id"].to_pylist()}
                self._arrived(decode(new, known, ends, tokenizer).to_pylist())
            progress(done)

        # The first pass leaves error rows out of what it writes, so that they stay open; the
        # second one writes them down, whatever they are.
        for keep_errors in (False, True):
            for part in _engines_for(_without(tokenized, attempts.committed()["id"])):
                self._attempt(part, sampling, attempts, ends, keep_errors, report)
        return decode(attempts.committed(), lengths, ends, tokenizer)

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
        gpu, need = use_gpu(), None
        if not gpu:  # on a GPU vLLM takes a share of the device instead
            need = engine_memory(
                self._model,
                dtype=self._dtype,
                max_model_len=max_model_len,
                max_num_seqs=self._runtime.max_num_seqs,
            )
            check_memory(need, self._runtime.engines, available_bytes())
        folder = attempts.open_new(prompts)
        config = processor_config(
            str(self._model),
            self._dtype,
            self._runtime,
            max_model_len,
            need,
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
        with _watch(attempts, progress):
            run_pass(config, folder, params, self._runtime, prompts.num_rows, keep_errors)


def _engines_for(prompts: pa.Table) -> list[pa.Table]:
    """The prompts of the model alone and those of adapters, where there are any.

    They need engines of their own: where both stand in one batch, vLLM's kernels for the CPU (in
    0.29) compute the rows without an adapter with the one in the last slot, silently.
    """
    alone = pc.equal(prompts[ADAPTER.name], "")
    parts = [prompts.filter(alone), prompts.filter(pc.invert(alone))]
    return [part for part in parts if part.num_rows]


def _without(table: pa.Table, ids: pa.ChunkedArray) -> pa.Table:
    done = set(ids.to_pylist())
    return table.filter(pa.array([id not in done for id in table["id"].to_pylist()], pa.bool_()))


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
