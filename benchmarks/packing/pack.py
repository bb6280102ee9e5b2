"""How full blocks get, what is cut for it, and what it costs, against other ways to pack.

    python benchmarks/packing/pack.py --out benchmarks/packing/pack.json

Lengths are drawn: log-normal with the means that long synthetic documents have, and those of the
micro-world. Four ways over the same documents in the same order:

  msm-ray       `msm_ray.data.packing.place`, windows of 512 blocks
  open blocks   best fit among 32 open blocks, what msm-ray did before
  best fit decreasing   Ding et al. 2024 over the whole corpus: only what is longer than a block is
                cut (a tree over free space; the best that whole documents did in the literature)
  chunk         concatenate batches of 1,000 documents and cut them every T tokens, dropping each
                batch's rest: `group_texts` as it is passed to `datasets.map` in run_clm.py. The
                function alone, over Python lists; `datasets` itself is not installed, so its own
                time is not in it

Utilisation is tokens of documents over N x T. "cut" are documents that would have fit in a block
and lie in several pieces, as a share of all documents; "dropped" are tokens. The second half grows
the corpus by 10 and 100, from a token cache on disk to shards on disk. Seconds are CPU seconds of
one process, memory is what the process holds itself (mapped files left out).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from bisect import bisect_left, insort
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa

from msm_ray.data.blocks import BlockReader, BlockWriter
from msm_ray.data.cache import CacheWriter, open_cache
from msm_ray.data.packing import WINDOW_BLOCKS, pack_windows, place, windows
from msm_ray.data.tokens import TokenizedDocuments

Lengths = np.ndarray
SIGMA = 0.6


def lognormal(mean: float, sigma: float = SIGMA) -> Callable[[np.random.Generator, int], Lengths]:
    def draw(rng: np.random.Generator, n: int) -> Lengths:
        drawn = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, n)
        return np.maximum(16, drawn).astype(np.int64)

    return draw


def uniform(low: int, high: int) -> Callable[[np.random.Generator, int], Lengths]:
    return lambda rng, n: rng.integers(low, high + 1, n)


MIXES = {  # name -> lengths, tokens of a block, documents
    "paper, mean 1500 / 4096": (lognormal(1500), 4096, 20_000),
    "paper, mean 2300 / 4096": (lognormal(2300), 4096, 20_000),
    "paper, mean 3100 / 4096": (lognormal(3100), 4096, 20_000),
    "paper, mean 3100, sigma .3 / 4096": (lognormal(3100, 0.3), 4096, 20_000),
    "paper, mean 1500 / 8192": (lognormal(1500), 8192, 20_000),
    "paper, mean 2300 / 8192": (lognormal(2300), 8192, 20_000),
    "paper, mean 3100 / 8192": (lognormal(3100), 8192, 20_000),
    "paper, mean 3100, sigma .3 / 8192": (lognormal(3100, 0.3), 8192, 20_000),
    "micro documents 30-60 / 256": (uniform(30, 60), 256, 50_000),
    "micro conversations 20-30 / 256": (uniform(20, 30), 256, 50_000),
    "micro documents 30-60 / 128": (uniform(30, 60), 128, 50_000),
    "micro conversations 20-30 / 128": (uniform(20, 30), 128, 50_000),
}
GROWTH = {  # name -> the mix, the fewest documents
    "paper, mean 2300 / 4096": 400,
    "micro documents 30-60 / 256": 2_000,
}


def ours(lengths: Lengths, block_tokens: int) -> tuple[int, int, int]:
    """Blocks, documents cut that fit, tokens dropped."""
    placed = [place(lengths[a:b], block_tokens) for a, b in windows(lengths, block_tokens)]
    return sum(p.blocks for p in placed), sum(p.cut for p in placed), 0


def open_blocks(lengths: Lengths, block_tokens: int, limit: int = 32) -> tuple[int, int, int]:
    free_space: list[int] = []
    blocks = 0
    for length in lengths.tolist():
        for start in range(0, length, block_tokens):
            size = min(block_tokens, length - start)
            at = bisect_left(free_space, size)
            if at < len(free_space):
                free = free_space.pop(at)
            else:
                if len(free_space) >= limit:
                    free_space.pop(0)
                free, blocks = block_tokens, blocks + 1
            if free > size:
                insort(free_space, free - size)
    return blocks, 0, 0


def best_fit_decreasing(lengths: Lengths, block_tokens: int) -> tuple[int, int, int]:
    """A tree over free space 0..T finds the fullest block that takes a piece, in O(log T)."""
    leaves = 1 << block_tokens.bit_length()
    count = np.zeros(2 * leaves, dtype=np.int64).tolist()

    def change(free: int, by: int) -> None:
        at = leaves + free
        while at:
            count[at] += by
            at //= 2

    def fullest(size: int) -> int | None:
        at = leaves + size
        if count[at]:
            return size
        while at > 1:
            if at % 2 == 0 and count[at + 1]:
                at += 1
                while at < leaves:
                    at = 2 * at if count[2 * at] else 2 * at + 1
                return at - leaves
            at //= 2
        return None

    blocks = int((lengths // block_tokens).sum())
    rests = lengths % block_tokens
    for size in sorted(rests[rests > 0].tolist(), reverse=True):
        free = fullest(size)
        if free is None:
            free, blocks = block_tokens, blocks + 1
        else:
            change(free, -1)
        if free > size:
            change(free - size, 1)
    return blocks, 0, 0


def chunk(lengths: Lengths, block_tokens: int) -> tuple[int, int, int]:
    blocks = cut = dropped = 0
    for first in range(0, len(lengths), 1000):
        batch = lengths[first : first + 1000]
        ends = np.cumsum(batch)
        kept = int(ends[-1]) // block_tokens
        blocks, dropped = blocks + kept, dropped + int(ends[-1]) - kept * block_tokens
        begins = ends - batch
        several = (begins // block_tokens) != ((ends - 1) // block_tokens)
        cut += int((several & (batch <= block_tokens)).sum())
    return blocks, cut, dropped


def group_texts(rows: dict[str, list[list[int]]], block_tokens: int) -> dict[str, list[list[int]]]:
    """What the example scripts of transformers give to ``datasets.map(batched=True)``."""
    joined = {name: list(chain(*lists)) for name, lists in rows.items()}
    total = len(joined["input_ids"]) // block_tokens * block_tokens
    return {
        name: [values[i : i + block_tokens] for i in range(0, total, block_tokens)]
        for name, values in joined.items()
    }


WAYS = {
    "msm-ray": ours,
    "open blocks": open_blocks,
    "best fit decreasing": best_fit_decreasing,
    "chunk": chunk,
}


def fullness(name: str) -> dict[str, dict[str, float]]:
    draw, block_tokens, n = MIXES[name]
    lengths = draw(np.random.default_rng(0), n)
    rows = {}
    for way, pack in WAYS.items():
        started = time.process_time()
        blocks, cut, dropped = pack(lengths, block_tokens)
        seconds = time.process_time() - started
        rows[way] = {
            "utilisation": (int(lengths.sum()) - dropped) / (blocks * block_tokens),
            "cut": cut / n,
            "dropped": dropped / int(lengths.sum()),
            "blocks": blocks,
            "plan_seconds": seconds,
        }
    return rows


def anonymous_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this benchmark needs Linux")


def grow(name: str, n: int, rival: bool) -> dict[str, float]:
    """Cache n documents, pack them to disk, read them back; CPU seconds and memory."""
    draw, block_tokens, _ = MIXES[name]
    with tempfile.TemporaryDirectory() as scratch:
        return _grow(Path(scratch), draw, block_tokens, n, rival)


def _grow(folder: Path, draw: Callable, block_tokens: int, n: int, rival: bool) -> dict[str, float]:
    rng = np.random.default_rng(0)
    before = anonymous_mib()
    peak = before
    started = time.process_time()
    with CacheWriter(folder / "cache") as cache:
        for first in range(0, n, 1000):
            lengths = draw(rng, min(1000, n - first))
            total = int(lengths.sum())
            cache.add(
                TokenizedDocuments(
                    [f"d{first + i}" for i in range(len(lengths))],
                    rng.integers(0, 32_000, total, dtype=np.int32),
                    np.ones(total, np.uint8),
                    np.concatenate([[0], np.cumsum(lengths)]),
                )
            )
            peak = max(peak, anonymous_mib())
        cache.finish({})
    caching = time.process_time() - started
    found = open_cache(folder / "cache")
    assert found is not None
    docs = found[0]
    (folder / "blocks").mkdir()
    started = time.process_time()
    writer = BlockWriter(folder / "blocks", block_tokens)
    which = np.arange(n)
    for window in pack_windows([("a", docs)], which * 0, which, block_tokens, 0):
        writer.add(window.blocks)
        peak = max(peak, anonymous_mib())
    writer.finish({})
    packing = time.process_time() - started
    reader = BlockReader(folder / "blocks")
    order = np.random.default_rng(1).permutation(len(reader))[:2000]
    started = time.process_time()
    for index in order:
        reader.rows("input_ids", np.array([index]))
    reading = (time.process_time() - started) / len(order)
    result = {
        "documents": n,
        "tokens": int(reader.tokens.sum()),
        "blocks": len(reader),
        "shards": len(reader.manifest["shards"]),
        "pack_cpu_seconds": packing,
        "pack_cpu_ms_per_document": 1000 * packing / n,
        "pack_blocks_per_cpu_second": len(reader) / packing,
        "pack_tokens_per_cpu_second": int(reader.tokens.sum()) / packing,
        "cache_cpu_seconds": caching,
        "read_cpu_us_per_block": 1e6 * reading,
        "memory_growth_mib": peak - before,
    }
    if rival:
        lists = {"input_ids": [], "loss_mask": []}
        for i in range(n):
            at = slice(int(docs.offsets[i]), int(docs.offsets[i + 1]))
            lists["input_ids"].append(docs.tokens[at].tolist())
            lists["loss_mask"].append(docs.loss[at].tolist())
        started = time.process_time()
        blocks = 0
        for first in range(0, n, 1000):
            rows = {name: values[first : first + 1000] for name, values in lists.items()}
            blocks += len(group_texts(rows, block_tokens)["input_ids"])
        result["chunk_blocks_per_cpu_second"] = blocks / (time.process_time() - started)
    return result


def apart(*args: object) -> dict[str, float]:
    """``grow`` in a process of its own, whose memory begins afresh."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(grow, *args).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 10, 100])
    args = parser.parse_args()
    full = {}
    for name in MIXES:
        full[name] = fullness(name)
        for way, row in full[name].items():
            print(f"{name:36s} {way:22s} {row['utilisation']:.4f} cut {row['cut']:.3f}", flush=True)
    growth = {}
    for name, least in GROWTH.items():
        growth[name] = [apart(name, least * f, f <= 10) for f in args.factors]
        for row in growth[name]:
            print(name, {k: round(v, 3) for k, v in row.items()}, flush=True)
    result = {
        "command": "python " + " ".join(sys.argv),
        "machine": f"{os.cpu_count()} cores CPU",
        "load": os.getloadavg()[0],
        "window_blocks": WINDOW_BLOCKS,
        "sigma": SIGMA,
        "fullness": full,
        "growth": growth,
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
            "datasets": None,
        },
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
