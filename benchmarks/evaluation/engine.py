"""What evaluating 16 checkpoints costs: warm engines, a fresh engine for each, and transformers.

Eight adapters over a packaged base, and eight copies of it with noise on all their weights, are
asked the micro-world's own items, one thread each, in turns:

- warm: the pool's engines run already; adapters are asked together, whole weights are swapped;
- fresh: an engine is started for each checkpoint, in a process of its own, and ended;
- transformers: batched scoring and generation, the best of the batch sizes that were tried.

All answers are compared with those of transformers. Writes engine.json; 12 minutes on a quiet
machine with the defaults, two with ``--checkpoints 2 --rounds 1``.

    OMP_NUM_THREADS=1 python benchmarks/evaluation/engine.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch
from rival import Transformers

from msm_ray.evaluate.checkpoints import Checkpoint, read_checkpoint
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.evaluate.leasing import answer
from msm_ray.evaluate.pool import engine_pool
from msm_ray.evaluate.stages import read_items
from msm_ray.evaluate.tasks import Batch, ask, rows, summary
from msm_ray.provenance import versions
from msm_ray.stage import StageContext
from msm_ray.train.config import Lora
from msm_ray.train.fingerprint import fingerprint_of, write_fingerprint
from msm_ray.train.lora import add_adapter, save_adapter
from msm_ray.train.model import load_model
from msm_ray.world.bases import base_dir
from msm_ray.world.stages import eval_items

EVALS = ["choice", "choice_soft", "choice_text", "facts", "heldout_loss"]
BATCH_ROWS = (16, 32, 64, 128, 288)
SETTINGS = EngineSettings(threads=1, max_num_seqs=256)
Found = dict[int, list[list[float]]]  # checkpoint -> answers


def main() -> None:
    """Measure, print and write beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoints", type=int, default=8, help="of each kind")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=200 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
    )
    with tempfile.TemporaryDirectory() as scratch:
        record = measure(Path(scratch), arguments.checkpoints, arguments.rounds)
    ray.shutdown()
    text = json.dumps(record, indent=1)
    arguments.out.write_text(text + "\n")
    print(text)


# ------------------------------------------------------------------------------- what is evaluated


def noisy(folder: Path, seed: int) -> Path:
    """A copy of base-0 with other weights and the fingerprint that belongs to them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base_dir(0), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * parameter.std() * torch.randn_like(parameter))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base_dir(0)).save_pretrained(folder)
    write_fingerprint(folder)
    return folder


def adapted(folder: Path, seed: int) -> Path:
    """An adapter of rank 16 over base-0 that moves log-probabilities by about half a nat."""
    lora = Lora(rank=16, alpha=16.0, targets=("all-linear",))
    model = load_model(base_dir(0))
    add_adapter(model, lora)
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: 0.02 * torch.randn(parameter.shape, generator=generator)
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }
    fingerprint = fingerprint_of(base_dir(0))
    save_adapter(state, lora, base_dir(0), fingerprint, folder, torch.float32)
    write_fingerprint(folder, base_dir(0))
    return folder


def asked(scratch: Path, tokenizer: Any) -> tuple[list[Any], Batch]:
    """The micro-world's items and what they ask."""
    config = {"world_seed": 0, "seed": 0, "pairs_per_domain": 12}
    eval_items(StageContext(config, {}, scratch, scratch, {}, lambda fraction, facts: None))
    items = read_items(scratch)
    length = min(read_checkpoint(base_dir(0)).context, SETTINGS.max_length)
    return items, ask(items, EVALS, tokenizer, max_tokens=16, max_length=length)


# ---------------------------------------------------------------------------------- the three ways


def through_pool(checkpoints: Sequence[Checkpoint], batch: Batch, eos: int) -> Found:
    """Adapters at the same time, whole weights one after the other: one busy thread at a time."""

    def one(checkpoint: Checkpoint) -> list[list[float]]:
        return answer(checkpoint, batch.requests, eos, SETTINGS, limit=2).values

    adapters = [c for c in checkpoints if c.base is not None]
    with ThreadPoolExecutor(len(adapters)) as threads:
        together = dict(zip(map(id, adapters), threads.map(one, adapters), strict=True))
    return {i: together.get(id(c)) or one(c) for i, c in enumerate(checkpoints)}


def through_fresh_engines(checkpoints: Sequence[Checkpoint], batch: Batch, eos: int) -> Found:
    """A process and an engine for each checkpoint, as scripts do that know no pool."""
    found = {}
    for i, checkpoint in enumerate(checkpoints):
        end_pool()
        found[i] = answer(checkpoint, batch.requests, eos, SETTINGS, limit=1).values
    end_pool()
    return found


def end_pool() -> None:
    """All engines end, and the pool with them."""
    ray.kill(engine_pool())


def through_transformers(
    checkpoints: Sequence[Checkpoint], batch: Batch, rival: Transformers, sizes: tuple[int, int]
) -> Found:
    """One checkpoint after the other."""
    return {
        i: rival.answer(rival.load(checkpoint), batch.requests, *sizes)
        for i, checkpoint in enumerate(checkpoints)
    }


def best_sizes(model: Any, batch: Batch, rival: Transformers) -> dict[str, dict[str, float]]:
    """Seconds of scoring and of generation by rows in a batch, the best of three each."""
    tried: dict[str, dict[str, float]] = {"score": {}, "generate": {}}
    for what, kinds in (("score", ("next", "sequence")), ("generate", ("generate",))):
        own = [r for r in batch.requests if r.kind in kinds]
        for size in BATCH_ROWS:
            times = [
                timed(lambda own=own, size=size: rival.answer(model, own, size, size))[0]
                for _ in range(3)
            ]
            tried[what][str(size)] = round(min(times), 3)
    return tried


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came back."""
    started = time.perf_counter()
    found = function()
    return time.perf_counter() - started, found


# ----------------------------------------------------------------------------------- the comparison


def measure(scratch: Path, each: int, rounds: int) -> dict[str, Any]:
    """Everything that is measured, as the record."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_dir(0))
    items, batch = asked(scratch, tokenizer)
    eos = tokenizer.eos_token_id
    checkpoints = [read_checkpoint(adapted(scratch / f"a{i}", i), base_dir(0)) for i in range(each)]
    checkpoints += [read_checkpoint(noisy(scratch / f"w{i}", i)) for i in range(each)]
    rival = Transformers(eos, tokenizer.pad_token_id or 0)
    tried = best_sizes(rival.load(checkpoints[-1]), batch, rival)
    sizes = tuple(int(min(tried[what], key=tried[what].__getitem__)) for what in tried)
    seconds: dict[str, list[float]] = {"warm": [], "fresh": [], "transformers": []}
    starts = []
    for _ in range(rounds):
        turn, _ = timed(lambda: through_pool([checkpoints[0], checkpoints[-1]], batch, eos))
        starts.append(turn)
        turn, warm = timed(lambda: through_pool(checkpoints, batch, eos))
        seconds["warm"].append(turn)
        counts = ray.get(engine_pool().counts.remote())
        end_pool()
        turn, plain = timed(lambda: through_transformers(checkpoints, batch, rival, sizes))
        seconds["transformers"].append(turn)
        turn, fresh = timed(lambda: through_fresh_engines(checkpoints, batch, eos))
        seconds["fresh"].append(turn)
    load, _ = timed(lambda: [rival.load(checkpoint) for checkpoint in checkpoints])
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "hardware": {"cpu": cpu(), "cores": os.cpu_count(), "threads": 1},
        "load_average": os.getloadavg()[0],
        "versions": versions(),
        "commit": commit(),
        "settings": asdict(SETTINGS),
        "checkpoints": {"adapters": each, "whole": each},
        "items": dict(Counter(item.eval for item in items)),
        "requests": dict(Counter(request.kind for request in batch.requests)),
        "seconds": {name: [round(v, 2) for v in values] for name, values in seconds.items()},
        "seconds_median": {name: round(value, 2) for name, value in middle.items()},
        "seconds_to_warm_two_engines": [round(v, 2) for v in starts],
        "seconds_transformers_loads": round(load, 2),
        "transformers_rows_tried": tried,
        "ratio_fresh_to_warm": ratios(seconds["fresh"], seconds["warm"]),
        "ratio_transformers_to_warm": ratios(seconds["transformers"], seconds["warm"]),
        "pool_of_the_last_round": counts,
        "agreement": agreement(warm, fresh, plain, items, batch, tokenizer),
    }


def ratios(slow: Sequence[float], fast: Sequence[float]) -> dict[str, Any]:
    each = [round(a / b, 2) for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(each), "each": each}


def agreement(
    warm: Found, fresh: Found, plain: Found, items: list[Any], batch: Batch, tokenizer: Any
) -> dict[str, Any]:
    """How far the engines are from transformers, over all checkpoints."""
    scored = [i for i, request in enumerate(batch.requests) if request.kind != "generate"]
    worst = {
        name: max(
            abs(a - b)
            for c, answers in found.items()
            for i in scored
            for a, b in zip(answers[i], plain[c][i], strict=True)
        )
        for name, found in (("warm", warm), ("fresh", fresh))
    }
    texts = [i for i, request in enumerate(batch.requests) if request.kind == "generate"]
    other = sum(warm[c][i] != plain[c][i] for c in warm for i in texts)
    rates: dict[str, float] = {}
    for c, answers in warm.items():
        ours, theirs = (
            summary(rows(batch, a, tokenizer, EVALS), items, EVALS) for a in (answers, plain[c])
        )
        for name, entry in ours.items():
            difference = abs(entry["rate"] - theirs[name]["rate"])
            rates[name] = max(rates.get(name, 0.0), difference)
    return {
        "largest_difference_nats": worst,
        "greedy_texts": len(texts) * len(warm),
        "greedy_texts_that_differ": other,
        "largest_difference_of_rates": rates,
    }


def cpu() -> str:
    names = [
        x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")
    ]
    return names[0].partition(":")[2].strip() if names else platform.processor()


def commit() -> str:
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
