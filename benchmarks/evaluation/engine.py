"""What evaluating one checkpoint costs: engine start, weight swap, and all questions, one thread.

Uses a packaged base model and two copies of it with noise on their weights (so that a swap that
does nothing is seen), and the micro-world's own items. Writes engine.json. One minute.

    OMP_NUM_THREADS=1 python benchmarks/evaluation/engine.py
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from msm_ray.evaluate.engines import Engine, EngineSettings, read_checkpoint
from msm_ray.evaluate.stages import read_items
from msm_ray.evaluate.tasks import ask, rows, summary
from msm_ray.provenance import versions
from msm_ray.stage import StageContext
from msm_ray.train.fingerprint import write_fingerprint
from msm_ray.world.bases import base_dir
from msm_ray.world.stages import eval_items

EVALS = ["choice", "choice_soft", "choice_text", "facts", "heldout_loss"]
SWAPS = 30


def main() -> None:
    """Measure, print and write beside this file."""
    with tempfile.TemporaryDirectory() as scratch:
        record = measure(Path(scratch))
    text = json.dumps(record, indent=1)
    Path(__file__).with_suffix(".json").write_text(text + "\n")
    print(text)


def noisy(folder: Path, seed: int) -> Path:
    """A copy of base-0 with other weights and the fingerprint that belongs to them."""
    import torch
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


def measure(scratch: Path) -> dict[str, Any]:
    """Everything that is measured, as the record."""
    from transformers import AutoTokenizer

    folders = [base_dir(0), noisy(scratch / "1", 1), noisy(scratch / "2", 2)]
    checkpoints = [read_checkpoint(folder) for folder in folders]
    config = {"world_seed": 0, "seed": 0, "pairs_per_domain": 12}
    eval_items(StageContext(config, {}, scratch, scratch, {}, lambda fraction, facts: None))
    items = read_items(scratch)
    tokenizer = AutoTokenizer.from_pretrained(folders[0])

    started = time.perf_counter()
    engine = Engine(checkpoints[0], EngineSettings())
    first = engine.verify("start", started)
    batch = ask(items, EVALS, tokenizer, max_tokens=16, max_length=engine.length)
    totals, swaps, loads, results = [], [], [], {}
    for i in (1, 2, 0, 1, 2, 0):
        started = time.perf_counter()
        report = engine.load(checkpoints[i])
        assert report.verified, report
        loads.append(report.distance)
        answers = engine.answer(batch.requests, tokenizer.eos_token_id)
        made = rows(batch, answers, tokenizer, EVALS)
        results[i] = summary(made, items, EVALS)
        totals.append(time.perf_counter() - started)
    before = psutil.Process().memory_info().rss
    for i in range(SWAPS):
        report = engine.load(checkpoints[(i + 1) % 2])
        assert report.how == "swap"
        assert report.verified, report
        swaps.append(report.seconds)
    after = psutil.Process().memory_info().rss
    return {
        "hardware": {"cpu": _cpu(), "cores": os.cpu_count(), "threads": 1},
        "load_average": os.getloadavg()[0],
        "versions": versions(),
        "commit": _commit(),
        "items": dict(Counter(item.eval for item in items)),
        "requests": dict(Counter(request.kind for request in batch.requests)),
        "seconds_start_with_imports": round(first.seconds, 2),
        "seconds_checkpoint": {
            "median": round(statistics.median(totals), 3),
            "all": [round(t, 3) for t in totals],
        },
        "seconds_swap_verified": {
            "median": round(statistics.median(swaps), 4),
            "max": round(max(swaps), 4),
        },
        "fingerprint_distance_max": max(loads),
        "rss_gib": round(after / 2**30, 3),
        "rss_growth_mib_over_swaps": round((after - before) / 2**20, 1),
        "swaps": SWAPS,
        "rates": {
            ("base-0", "noise 1", "noise 2")[i]: {
                **{name: round(entry["rate"], 4) for name, entry in of.items()},
                "unparsed_share": round(of["choice_text"]["unparsed_share"], 4),
            }
            for i, of in sorted(results.items())
        },
    }


def _cpu() -> str:
    names = [
        x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")
    ]
    return names[0].partition(":")[2].strip() if names else platform.processor()


def _commit() -> str:
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
