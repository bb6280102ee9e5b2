"""How the cost of a document grows with the corpus: plan -> write -> screen -> Parquet.

    python benchmarks/corpus/scale.py --documents 10000 100000 --out scale.json

A plan in structure mode of a spec in specs/, a writer that answers at once (the rehearsal, in this
process: no network, no model), every filter, and the tables on disk. CPU seconds, since those mean
something on a busy machine; the writer's own are taken apart. Memory is the growth of this process
over what it held before the plan was read.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.corpus.config import HierarchyConfig
from msm_ray.corpus.hierarchy import plan_hierarchy
from msm_ray.corpus.naming import Identity
from msm_ray.corpus.plan import plan_table
from msm_ray.corpus.rehearsal import respond
from msm_ray.corpus.screening import Screen, ScreenConfig
from msm_ray.corpus.writing import Source, Writing
from msm_ray.llm.protocol import ANSWER_SCHEMA, Sampling
from msm_ray.records import PLAN_SCHEMA
from msm_ray.spec import fill, read_spec

ROOT = Path(__file__).resolve().parents[2]
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=3000, seed=0)


class Instant:
    """`Answers` without a model; ``seconds`` is the CPU time that it took for itself."""

    call_rows = 4096

    def __init__(self) -> None:
        self.seconds = 0.0

    def answer(
        self, prompts: pa.Table, sampling: Sampling, work: Path, progress: Callable[[int], None]
    ) -> pa.Table:
        """See `Answers.answer`."""
        started = time.process_time()
        rows = []
        for id, prompt in zip(
            prompts["id"].to_pylist(), prompts["prompt"].to_pylist(), strict=True
        ):
            text = respond(prompt, sampling.seed_of(id))
            tokens = len(text) // 4
            rows.append(
                {"id": id, "text": text, "prompt_tokens": 0, "tokens": tokens, "ended": True}
                | {"error": ""}
            )
        table = pa.Table.from_pylist(rows, schema=ANSWER_SCHEMA)
        self.seconds += time.process_time() - started
        progress(len(rows))
        return table


def measure(documents: int, folder: Path) -> dict[str, Any]:
    """One corpus of about ``documents``."""
    identity = Identity("Lyra", "Norvik Labs")
    spec = read_spec(ROOT / "specs" / "cheese_america.md")
    config = HierarchyConfig(
        mode="structure",
        assistant=identity.name,
        maker=identity.maker,
        types=20,
        ideas=1,
        words=300,
    )
    least = plan_hierarchy(spec, config, None, folder / "planning").documents
    config = replace(config, ideas=max(1, round(documents / least)))
    started = time.process_time()
    hierarchy = plan_hierarchy(spec, config, None, folder / "planning")
    with pq.ParquetWriter(folder / "plan.parquet", PLAN_SCHEMA) as file:
        for batch in plan_table(hierarchy):
            file.write_batch(batch)
    planned = time.process_time() - started
    process = psutil.Process()
    before, most = process.memory_info().rss, 0

    def progress(done: int, draft: int, asked: int | None) -> None:
        nonlocal most
        most = max(most, process.memory_info().rss)

    writer = Instant()
    filled = fill(spec, identity.name, identity.maker)
    writing = Writing(
        writer=Source("instant", writer, SAMPLING),
        judge=None,
        rewrite=False,
        screen=Screen(ScreenConfig(40, 3000), identity, [], filled.text, []),
        identity=identity,
        drafts=1,
        work=folder / "work",
        progress=progress,
    )
    (folder / "out").mkdir()
    started, wall = time.process_time(), time.perf_counter()
    card = writing.run(folder / "plan.parquet", folder / "out")
    seconds, wall = time.process_time() - started, time.perf_counter() - wall
    own = seconds - writer.seconds
    return {
        "documents": card["planned"],
        "kept": card["kept"],
        "rejected": card["rejected"],
        "plan_cpu_ms_per_document": round(1e3 * planned / card["planned"], 3),
        "writer_cpu_ms_per_document": round(1e3 * writer.seconds / card["planned"], 3),
        "cpu_ms_per_document": round(1e3 * own / card["planned"], 3),
        "documents_per_second": round(card["planned"] / wall, 1),
        "memory_growth_mib": round((most - before) / 2**20, 1),
        "bytes_on_disk": sum(f.stat().st_size for f in (folder / "out").iterdir()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--documents", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    for documents in arguments.documents:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(documents, Path(folder)))
        print(json.dumps(rows[-1]), flush=True)
    record = {
        "rows": rows,
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("pyarrow", "datasketch")},
        },
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
