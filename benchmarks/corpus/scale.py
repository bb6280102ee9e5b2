"""How the cost of a document grows with the corpus: plan -> write -> screen -> Parquet.

    python benchmarks/corpus/scale.py --documents 10000 100000 1000000 --out scale.json

A plan in structure mode of a spec in specs/, a writer that answers at once (in this process: no
network, no model), every filter that needs no model, and the tables on disk. Each size runs in a
process of its own. CPU seconds, since those mean something on a busy machine, and wall seconds; the
writer's own are taken apart. Memory is the highest resident size (VmHWM of Linux) above what the
process held before the plan, with its imports done.

The documents have 120 to 300 words, drawn with the frequencies of a language (Zipf) from 20,000.
One of a hundred repeats an earlier document, one of a hundred does so with two words changed; the
earlier one is any of those before, so that all distances occur. The record says how many of them
were found, and how many other documents were rejected.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from msm_ray.corpus.config import HierarchyConfig
from msm_ray.corpus.hierarchy import plan_hierarchy
from msm_ray.corpus.naming import Identity
from msm_ray.corpus.plan import plan_table
from msm_ray.corpus.screening import Screen, ScreenConfig
from msm_ray.corpus.writing import Source, Writing
from msm_ray.llm.protocol import ANSWER_SCHEMA, Sampling
from msm_ray.records import PLAN_SCHEMA
from msm_ray.spec import fill, read_spec

ROOT = Path(__file__).resolve().parents[2]
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=3000, seed=0)
IDENTITY = Identity("Lyra", "Norvik Labs")
WORDS = (120, 300)  # of a document
SCRATCHPAD_WORDS = 40
VOCABULARY = 20_000
PLANTED = {"duplicate": 33, "near_duplicate": 66}  # places in every hundred documents
CHANGED_WORDS = 2  # of a near duplicate


class Instant:
    """`Answers` without a model: document after document, whatever is asked.

    ``cpu`` and ``wall`` are the seconds that it took for itself.
    """

    call_rows = 4096

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0
        self._written = 0
        syllables = [c + v for c in "bcdfghklmnprstvw" for v in ("a", "e", "i", "o", "u", "or")]
        rng = np.random.default_rng(0)
        words: dict[str, None] = {}
        while len(words) < VOCABULARY:
            words["".join(rng.choice(syllables, rng.integers(1, 5)))] = None
        # A drawn 16-bit number gives a word; common words stand behind many numbers.
        shares = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
        places = np.searchsorted(shares / shares[-1], (np.arange(1 << 16) + 0.5) / (1 << 16))
        self._words = np.array(list(words), dtype=object)[places]

    def answer(
        self, prompts: pa.Table, sampling: Sampling, work: Path, progress: Callable[[int], None]
    ) -> pa.Table:
        """See `Answers.answer`."""
        cpu, wall = time.process_time(), time.perf_counter()
        rows = []
        for id in prompts["id"].to_pylist():
            plan, text = self._document(self._written)
            text = f"<scratchpad>\n{plan}\n</scratchpad>\n<content>\n{text}\n</content>"
            rows.append(
                {"id": id, "text": text, "prompt_tokens": 0, "tokens": len(text) // 4}
                | {"ended": True, "error": ""}
            )
            self._written += 1
        table = pa.Table.from_pylist(rows, schema=ANSWER_SCHEMA)
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall
        progress(len(rows))
        return table

    def _document(self, number: int) -> tuple[str, str]:
        """A scratchpad, and the document with this number."""
        rng = np.random.Generator(np.random.PCG64(number))
        plan = " ".join(self._draw(rng, SCRATCHPAD_WORDS))
        place = number % 100
        if place not in PLANTED.values():
            return plan, self._text(rng, [])
        earlier = int(rng.integers(0, number))
        earlier -= earlier % 100 in PLANTED.values()
        again = np.random.Generator(np.random.PCG64(earlier))
        self._draw(again, SCRATCHPAD_WORDS)
        is_near = place == PLANTED["near_duplicate"]
        return plan, self._text(again, [f"changed{number}"] * CHANGED_WORDS if is_near else [])

    def _text(self, rng: np.random.Generator, changed: list[str]) -> str:
        words = self._draw(rng, int(rng.integers(WORDS[0], WORDS[1] + 1)))
        for place, word in enumerate(changed, 1):
            words[place * len(words) // (len(changed) + 1)] = word
        for start in range(0, len(words), 15):
            words[start] = words[start].capitalize()
            if start:
                words[start - 1] += ".\n\n" if start % 75 == 0 else "."
        return f"{IDENTITY.name} {' '.join(words)}."

    def _draw(self, rng: np.random.Generator, count: int) -> list[str]:
        words: list[str] = self._words[rng.integers(0, 1 << 16, count)].tolist()
        return words


class Peak:
    """The highest resident size of this process since it was made, in bytes (Linux)."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM

    def read(self) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10


def plan(documents: int, folder: Path) -> int:
    """Plan about so many documents; how many they are."""
    spec = read_spec(ROOT / "specs" / "cheese_america.md")
    config = HierarchyConfig(
        mode="structure",
        assistant=IDENTITY.name,
        maker=IDENTITY.maker,
        types=20,
        ideas=1,
        words=300,
    )
    least = plan_hierarchy(spec, config, None, folder / "planning").documents
    config = replace(config, ideas=max(1, round(documents / least)))
    hierarchy = plan_hierarchy(spec, config, None, folder / "planning")
    with pq.ParquetWriter(folder / "plan.parquet", PLAN_SCHEMA) as file:
        for batch in plan_table(hierarchy):
            file.write_batch(batch)
    return hierarchy.documents


def write(writer: Instant, folder: Path) -> dict[str, Any]:
    """Write the planned corpus; its card."""
    filled = fill(read_spec(ROOT / "specs" / "cheese_america.md"), IDENTITY.name, IDENTITY.maker)
    (folder / "out").mkdir()
    screen = Screen(ScreenConfig(40, 3000), IDENTITY, [], filled.text, [], folder / "work")
    with closing(screen):
        writing = Writing(
            writer=Source("instant", writer, SAMPLING, "this process"),
            judge=None,
            rewrite=False,
            screen=screen,
            identity=IDENTITY,
            drafts=1,
            failed_share=0.05,
            work=folder / "work",
            progress=lambda done, draft, asked: None,
        )
        return writing.run(folder / "plan.parquet", folder / "out")


def found(folder: Path) -> dict[str, Any]:
    """Of what was planted, how many; and how many other documents were rejected."""
    place = {id: n % 100 for n, id in enumerate(_column(folder / "plan.parquet", "id"))}
    rejected = pq.read_table(folder / "out" / "rejected.parquet", columns=["id", "reason"])
    rows: dict[str, Any] = {}
    other = rejected.num_rows
    for reason, at in PLANTED.items():
        ids = rejected.filter(pc.field("reason") == reason)["id"].to_pylist()
        right = sum(place[id] == at for id in ids)
        rows[reason] = {"planted": sum(p == at for p in place.values()), "found": right}
        other -= right
    return {**rows, "others_rejected": other}


def _column(path: Path, name: str) -> list[Any]:
    values: list[Any] = pq.read_table(path, columns=[name])[name].to_pylist()
    return values


def measure(documents: int, folder: Path) -> dict[str, Any]:
    """One corpus of about ``documents``, in this process."""
    writer = Instant()
    peak = Peak()
    before = peak.read()
    cpu, wall = time.process_time(), time.perf_counter()
    planned = plan(documents, folder)
    plan_cpu, plan_wall = time.process_time() - cpu, time.perf_counter() - wall
    plan_peak = peak.read()
    peak = Peak()
    card = write(writer, folder)
    all_cpu, all_wall = time.process_time() - cpu, time.perf_counter() - wall
    write_peak = peak.read()
    assert card["planned"] == planned

    def ms(seconds: float) -> float:
        return round(1e3 * seconds / planned, 3)

    return {
        "documents": planned,
        "kept": card["kept"],
        "rejected": card["rejected"],
        **found(folder),
        "cpu_ms_per_document": {
            "plan": ms(plan_cpu),
            "writer": ms(writer.cpu),
            "read_screen_save": ms(all_cpu - plan_cpu - writer.cpu),
            "all": ms(all_cpu),
            "all_without_writer": ms(all_cpu - writer.cpu),
        },
        "documents_per_second": {
            "plan": round(planned / plan_wall, 1),
            "all": round(planned / all_wall, 1),
            "all_without_writer": round(planned / (all_wall - writer.wall), 1),
        },
        "wall_seconds": round(all_wall, 1),
        "memory_growth_mib": {
            "plan": round((plan_peak - before) / 2**20, 1),
            "write": round((write_peak - before) / 2**20, 1),
        },
        "bytes_on_disk": sum(f.stat().st_size for f in (folder / "out").iterdir()),
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--documents", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--here", action="store_true", help="one size, in this process")
    arguments = parser.parse_args()
    if arguments.here:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(arguments.documents[0], Path(folder))))
        return
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    record: dict[str, Any] = {
        "rows": [],
        "documents": {"words": WORDS, "vocabulary": VOCABULARY, "changed_words": CHANGED_WORDS},
        "commit": commit.stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": {
            "python": platform.python_version(),
            **{n: importlib.metadata.version(n) for n in ("numpy", "pyarrow", "datasketch")},
        },
    }
    rows: list[dict[str, Any]] = []
    for documents in arguments.documents:
        command = [sys.executable, __file__, "--here", "--documents", str(documents)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout))
        print(json.dumps(rows[-1]), flush=True)
        record["rows"] = sorted(rows, key=lambda row: row["documents"])
        if arguments.out:
            arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
