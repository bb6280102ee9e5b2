"""Pretraining from a fresh start: the same loop, from texts to a Hugging Face folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from msm_ray.data.blocks import write_blocks
from msm_ray.data.packing import BlockArrays, pack
from msm_ray.data.tokens import encode_documents
from msm_ray.errors import UserError
from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.loop import OnStep
from msm_ray.train.worker import TrainJob, run


def pack_texts(texts: Iterable[str], tokenizer: Any, block_tokens: int) -> BlockArrays:
    """Pack texts, each a document of its own, in the order given (see ``data.packing.place``)."""
    rows = list(texts)
    if not rows:
        raise UserError("pretraining: there are no texts")
    docs = encode_documents(tokenizer, [str(i) for i in range(len(rows))], rows)
    pad = tokenizer.pad_token_id
    return pack(
        [("pretraining", docs)],
        np.zeros(len(rows), dtype=np.int64),
        np.arange(len(rows)),
        block_tokens,
        tokenizer.eos_token_id if pad is None else pad,
    )


def pretrain(
    arch: Mapping[str, Any],
    blocks: Iterable[str] | BlockArrays | Path,
    config: TrainConfig,
    *,
    tokenizer_dir: Path,
    block_tokens: int,
    out: Path,
    runtime: TrainRuntime,
    save_dtype: str = "fp32",
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Train a new model and leave a Hugging Face folder in ``out``.

    Args:
        arch: keywords of ``LlamaConfig``; vocabulary and special tokens come from the tokenizer,
            ``max_position_embeddings`` from ``block_tokens`` unless it is given.
        blocks: texts (one document each), blocks that are packed already, or a directory of them.
        config: the run's literals; ``config.seed`` also draws the first weights.
        tokenizer_dir: a folder with the tokenizer's files, which are copied to ``out``.
        block_tokens: tokens of a block.
        out: where the folder goes; made if it is not there.
        runtime: backend, workers, threads, compile.
        save_dtype: "fp32" or "bf16", of the weights as they are saved.
        on_step: called as ``on_step(step, steps, facts)`` after each step.

    Returns:
        The facts of the train stage: tokens, steps, tokens_per_second, loss_first, loss_last,
        curve, ...
    """
    from transformers import AutoTokenizer

    def progress(fraction: float, facts: dict[str, Any]) -> None:
        if on_step is not None:
            on_step(facts["step"], facts["steps"], facts)

    with tempfile.TemporaryDirectory(prefix="msm-pretrain-") as scratch:
        directory = blocks if isinstance(blocks, Path) else Path(scratch) / "blocks"
        if not isinstance(blocks, Path):
            directory.mkdir()
            if not isinstance(blocks, BlockArrays):
                tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
                blocks = pack_texts(blocks, tokenizer, block_tokens)
            write_blocks(directory, blocks, {"blocks": len(blocks.tokens)})
        job = TrainJob(
            config=config,
            runtime=runtime,
            blocks=str(directory.absolute()),
            tokenizer=str(Path(tokenizer_dir).absolute()),
            out=str(Path(out).absolute()),
            work=str(Path(scratch) / "train"),
            arch={"max_position_embeddings": block_tokens, **arch},
            save_dtype=save_dtype,
        )
        return run(job, progress)
