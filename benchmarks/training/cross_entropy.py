"""Peak memory and time of the chunked cross-entropy against the plain one.

    python benchmarks/training/cross_entropy.py --out benchmarks/training/cross_entropy.json

Two questions, each in processes of their own with one thread:

  memory  from hidden states [T, H] and a head [V, H] to the loss and both gradients, all T
          positions targets: how far the process's peak rises above what it held before (hidden
          states, head); the gradients, which both ways end with, are given for comparison
  speed   forward and backward of the micro-world's architecture (V 1019, 8 blocks of 256) with the
          loss as it was (logits, one sum), as `LossModel` takes it at this size (the model's own
          logits, nats by target) and forced through chunks of a quarter of the batch

Seconds are CPU seconds, the way of each turn changes, the median of the turns' ratios is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
import transformers

from msm_ray.train.cross_entropy import Treatment, chunked_nats
from msm_ray.train.objective import Batch, LossModel, next_token, packed_logits

VOCABULARY, POSITIONS, HIDDEN = 128_256, 2048, 512
CHUNKS_MIB = (32, 128, 512)
MIB = 2**20


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(way: str) -> dict[str, float]:
    """One measurement: call it in a fresh process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = torch.randn(POSITIONS, HIDDEN, requires_grad=True)
    weight = torch.randn(VOCABULARY, HIDDEN).mul_(0.02).requires_grad_()
    labels = torch.randint(0, VOCABULARY, (POSITIONS,))
    before, started = psutil.Process().memory_info().rss / MIB, time.process_time()
    if way == "plain":
        loss = F.cross_entropy((hidden @ weight.t()).float(), labels, reduction="sum")
    else:
        chunk = int(way) * MIB // 4 // VOCABULARY
        loss = chunked_nats(hidden, weight, labels, Treatment(), chunk)[0].sum()
    loss.backward()
    return {
        "peak_mib": peak_mib() - before,
        "cpu_seconds": time.process_time() - started,
        "loss": loss.item(),
        "gradient_norm": weight.grad.norm().item(),
    }


def speed(turns: int) -> dict[str, float]:
    """CPU seconds of each way, and their ratio to the first, medians."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1019,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).train()
    ids = torch.randint(0, 1019, (8, 256))
    positions = torch.arange(256).expand(8, 256) % 32
    batch = Batch(ids, positions, torch.where(positions.roll(-1, 1) > 0, ids.roll(-1, 1), -100))
    chunked = LossModel(model)
    chunked.limit = ids.numel() * 1019 // 4

    def as_it_was() -> torch.Tensor:
        logits = packed_logits(model, batch.input_ids_BT, batch.position_ids_BT)
        return F.cross_entropy(
            logits.float().flatten(0, 1), batch.labels_BT.flatten(), reduction="sum"
        )

    ways = {
        "as it was": as_it_was,
        "LossModel": lambda: next_token(LossModel(model), batch).total,
        "chunked": lambda: next_token(chunked, batch).total,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 2):
        for name, way in ways.items():
            started = time.process_time()
            for _ in range(3):
                model.zero_grad()
                way().backward()
            if turn > 1:  # the first two warm up
                seconds[name].append((time.process_time() - started) / 3)
    first = seconds["as it was"]
    return {
        **{f"{n}, seconds": statistics.median(s) for n, s in seconds.items()},
        **{
            f"{n}, ratio": statistics.median(a / b for a, b in zip(s, first, strict=True))
            for n, s in seconds.items()
        },
    }


def alone(*arguments: str) -> dict[str, float]:
    command = [sys.executable, __file__, *arguments]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(made.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--speed", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory or args.speed:
        print(json.dumps(memory(args.memory) if args.memory else speed(args.turns)))
        return
    result = {
        "command": "python " + " ".join(sys.argv),
        "what": "cross-entropy with the output head: memory above the inputs, time of a step",
        "machine": "2 cores CPU",
        "load": os.getloadavg()[0],
        "memory": {
            "vocabulary": VOCABULARY,
            "positions": POSITIONS,
            "hidden_size": HIDDEN,
            "gradients_mib": 4 * HIDDEN * (VOCABULARY + POSITIONS) / MIB,
            "logits_mib": 4 * VOCABULARY * POSITIONS / MIB,
            "plain": alone("--memory", "plain"),
            **{f"chunks of {c} MiB": alone("--memory", str(c)) for c in CHUNKS_MIB},
        },
        "speed": alone("--speed", "--turns", str(args.turns)),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
