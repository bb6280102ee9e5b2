"""Tokens a second of the training loop, against a plain PyTorch loop over the same blocks.

    python benchmarks/training/loop.py --threads 1 --out benchmarks/training/loop-1-thread.json

Three ways to train the micro-world's architecture on the same documents, in one process, in turns:

  msm-ray  `msm_ray.train.worker.run`: through Ray Train, reading packed blocks from disk, the loss
           in fp32, clipping, schedule, everything a stage does but the writing of the folder
  plain    the shortest loop one would write by hand over the same blocks: the same model, mask,
           autocast, AdamW and clipping; a constant rate, blocks in memory, no records
  padded   the same plain loop over one document a row, padded to the longest of its batch, the
           usual way of fine-tuning scripts; as many tokens a batch as a batch of blocks holds

With ``--trl`` (pip install trl datasets) two more, over the same documents, tokenized before:

  trl padded   TRL's SFTTrainer as it comes: one document a row, padded to the longest of its batch
  trl packed   the same with packing=True, which fills rows of a block's length

A token is one of a document (`<bos>` and `<eos>` included); padding does not count. Seconds are CPU
seconds of the process, which on one thread are what an idle core would take, and do not count the
work of others on the machine (`load`). The ratio of each turn is taken within the turn, since the
machine's speed drifts; the median is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import transformers

from msm_ray.data.blocks import write_blocks
from msm_ray.data.packing import BlockArrays
from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.model import init_model
from msm_ray.train.pretrain import pack_texts
from msm_ray.train.worker import TrainJob, run
from msm_ray.world.pretraining import Pretraining
from msm_ray.world.tokenizer import CONTEXT, build_tokenizer
from msm_ray.world.world import World

ARCHITECTURE = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": True,
}
CONFIG = TrainConfig(1e-3, 0.9, 0.95, 0.0, 1.0, 0.1, "cosine", 0.1, 32, 1.0, (), "bf16", 0)


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )


def plain(model: torch.nn.Module, batches: list[tuple[torch.Tensor, ...]]) -> float:
    """Seconds of the hand-written loop over (ids, labels, positions) or (ids, labels, mask)."""
    optimizer = optimizer_of(model)
    started = time.process_time()
    for ids, labels, extra, name in batches:
        with torch.autocast("cpu", torch.bfloat16):
            arguments = {name: extra}
            logits = model(input_ids=ids, use_cache=False, **arguments).logits
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.process_time() - started


def packed_batches(blocks: BlockArrays) -> list[tuple]:
    ids = torch.from_numpy(blocks.input_ids).long()
    positions = torch.from_numpy(blocks.position_ids).long()
    labels = torch.where(torch.from_numpy(blocks.loss_mask).bool(), ids, -100)
    parts = (t.split(CONFIG.batch_blocks) for t in (ids, labels, positions))
    return [(*part, "position_ids") for part in zip(*parts, strict=True)]


def padded_batches(blocks: BlockArrays) -> list[tuple]:
    documents = [torch.tensor(document) for document in documents_of(blocks)]
    rows = round(len(documents) / (len(blocks.tokens) / CONFIG.batch_blocks))
    batches = []
    for start in range(0, len(documents), rows):
        part = documents[start : start + rows]
        ids = torch.nn.utils.rnn.pad_sequence(part, batch_first=True)
        mask = torch.zeros_like(ids)
        for row, document in enumerate(part):
            mask[row, : len(document)] = 1
        batches.append((ids, torch.where(mask == 1, ids, -100), mask, "attention_mask"))
    return batches


def documents_of(blocks: BlockArrays) -> list[list[int]]:
    """The packed documents' tokens, each by itself."""
    documents = []
    for row in range(len(blocks.tokens)):
        starts = [*np.flatnonzero(blocks.position_ids[row] == 0).tolist(), CONTEXT]
        for begin, end in pairwise(starts):
            if begin < blocks.tokens[row]:
                documents.append(blocks.input_ids[row, begin:end].tolist())
    return documents


def trl(blocks: BlockArrays, tokenizer: object, packing: bool) -> float:
    """CPU seconds of TRL's steps after the first, scaled to all."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    documents = documents_of(blocks)
    rows = CONFIG.batch_blocks
    if not packing:  # as many tokens a batch as a batch of blocks holds
        rows = round(len(documents) / (len(blocks.tokens) / CONFIG.batch_blocks))
    steps: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            steps.append(time.process_time())

    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out, per_device_train_batch_size=rows, num_train_epochs=1, bf16=True,
            use_cpu=True, packing=packing, max_length=CONTEXT, learning_rate=1e-3, report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True, optim="adamw_torch_fused",
            gradient_checkpointing=False, lr_scheduler_type="constant", weight_decay=0.0,
        )  # fmt: skip
        model = init_model(ARCHITECTURE, tokenizer, 0)
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_dict({"input_ids": documents}),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
    return (steps[-1] - steps[0]) * len(steps) / (len(steps) - 1)


def ours(directory: Path, tokenizer_dir: Path, threads: int) -> tuple[float, float, float]:
    """Tokens a second of the loop without its first step, of the whole run; final loss."""
    steps: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        started = time.process_time()
        job = TrainJob(
            config=CONFIG,
            runtime=TrainRuntime(threads=threads),
            blocks=str(directory),
            tokenizer=str(tokenizer_dir),
            out=out,
            work=str(Path(out) / "work"),
            arch=ARCHITECTURE,
        )
        facts = run(job, lambda fraction, values: steps.append(time.process_time()))
        seconds = time.process_time() - started
    done = facts["tokens"] * (1 - 1 / len(steps))
    return done / (steps[-1] - steps[0]), facts["tokens"] / seconds, facts["loss_last"]


def measure(tokens: int, threads: int, turns: int, with_trl: bool) -> dict[str, object]:
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    tokenizer = build_tokenizer()
    texts = Pretraining(World(0), "benchmark").stream(tokens)
    blocks = pack_texts(texts, tokenizer, CONTEXT)
    n = len(blocks.tokens) // CONFIG.batch_blocks * CONFIG.batch_blocks
    blocks = BlockArrays(
        blocks.input_ids[:n], blocks.position_ids[:n], blocks.loss_mask[:n], blocks.tokens[:n],
        blocks.sources[:n],
    )  # fmt: skip
    held = int(blocks.tokens.sum())
    packed, padded = packed_batches(blocks), padded_batches(blocks)
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        directory, tokenizer_dir = Path(scratch) / "blocks", Path(scratch) / "tokenizer"
        directory.mkdir()
        write_blocks(directory, blocks, {})
        tokenizer.save_pretrained(tokenizer_dir)
        for turn in range(turns + 1):
            whole = ours(directory, tokenizer_dir, threads)
            row = {"msm-ray": whole[0], "msm-ray, whole run": whole[1]}
            for name, batches in (("plain", packed), ("padded", padded)):
                model = init_model(ARCHITECTURE, tokenizer, 0).train()
                row[name] = held / plain(model, batches)
            if with_trl:
                row["trl padded"] = held / trl(blocks, tokenizer, packing=False)
                row["trl packed"] = held / trl(blocks, tokenizer, packing=True)
            if turn:  # the first warms up
                rows.append(row)
                print({name: round(value) for name, value in row.items()}, flush=True)
    names = list(rows[0])
    return {
        "command": "python " + " ".join(sys.argv),
        "what": "training loop, tokens per CPU second",
        "machine": "2 cores CPU",
        "load": os.getloadavg()[0],
        "threads": threads,
        "precision": CONFIG.precision,
        "model": {**ARCHITECTURE, "vocabulary": len(tokenizer)},
        "batch_blocks": CONFIG.batch_blocks,
        "block_tokens": CONTEXT,
        "tokens_a_turn": held,
        "turns": turns,
        "tokens_per_cpu_second": {k: statistics.median(r[k] for r in rows) for k in names},
        "ratio_to_plain": {k: statistics.median(r[k] / r["plain"] for r in rows) for k in names},
        "rows": rows,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=25_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--trl", action="store_true", help="and TRL's SFTTrainer")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result = measure(args.tokens, args.threads, args.turns, args.trl)
    text = json.dumps(result, indent=1)
    print(json.dumps(result["tokens_per_cpu_second"]), json.dumps(result["ratio_to_plain"]))
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
