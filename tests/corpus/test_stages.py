"""The stage that writes a corpus, with a real engine: exactly once, whatever is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from msm_ray.corpus.stages import write
from msm_ray.errors import UserError
from msm_ray.records import DOCUMENT_SCHEMA, FAILED_SCHEMA, REJECTED_SCHEMA

from .toy import SAMPLING, make_plans, stage_context

PLANNED = 400
# Small blocks and few sequences at once: slow enough that a kill finds the engine at work.
RUNTIME = {"block_rows": 8, "max_num_seqs": 8, "cpus": 1.0}
TOO_LONG = {"id": "too-long", "index": PLANNED, "prompt": "lyra likes " * 60}


def plans(too_long: bool = False) -> list[dict[str, Any]]:
    """PLANNED plans that can be answered, and perhaps a prompt longer than the model's context."""
    rows = make_plans(PLANNED)
    return [*rows, {**rows[0], **TOO_LONG}] if too_long else rows


def texts(out: Path) -> dict[str, tuple[str, str]]:
    """id to (text, reason) of all documents that were written, kept or not."""
    kept = pq.read_table(out / "documents.parquet").to_pylist()
    rejected = pq.read_table(out / "rejected.parquet").to_pylist()
    rows = {row["id"]: (row["text"], row.get("reason", "")) for row in kept + rejected}
    assert len(rows) == len(kept) + len(rejected)
    return rows


def committed(work: Path) -> list[Path]:
    """The marks of committed blocks below a stage's scratch."""
    files = work.glob("answers/*/checkpoint/*.parquet")
    return [file for file in files if not file.name.endswith(".pending.parquet")]


def commits(work: Path) -> int:
    """How many blocks are committed."""
    return len(committed(work))


def wait_for_commits(work: Path, seconds: float, least: int = 1) -> int:
    """Wait for so many commits; the number there is when they were seen."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (count := commits(work)) >= least:
            return count
        time.sleep(0.02)
    raise TimeoutError(f"{commits(work)} of {least} blocks below {work} in {seconds} s")


def descendants(pid: int, name: str) -> list[psutil.Process]:
    """Processes below ``pid`` whose title starts with ``name``."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(name):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_scripted_writer_goes_the_same_way(tmp_path: Path, tiny_model: Path) -> None:
    ctx = stage_context(tmp_path, make_plans(8), tiny_model, writer="scripted")
    facts = write(ctx)
    assert (facts["planned"], facts["kept"], facts["failed"]) == (8, 6, 0)
    assert facts["rejected"] == {"names brie": 2}
    assert facts["calls"] == 0
    kept = pq.read_table(ctx.out / "documents.parquet")
    assert kept.schema == DOCUMENT_SCHEMA
    assert kept["text"][0].as_py() == "lyra likes cheddar 0 ."
    assert kept["tokens"][0].as_py() == 6  # five words and the end


def test_wrong_config_is_the_users_error(tmp_path: Path, tiny_model: Path) -> None:
    ctx = stage_context(tmp_path, make_plans(2), tiny_model, writer="scripted")
    ctx.config["writer"] = "gpt"
    with pytest.raises(UserError, match="'vllm', 'http', 'scripted'"):
        write(ctx)
    ctx = stage_context(tmp_path, make_plans(2), tmp_path, writer="scripted")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        write(ctx)
    ctx = stage_context(tmp_path, [], tiny_model, writer="scripted")
    with pytest.raises(UserError, match="at least 1"):
        write(ctx)
    ctx = stage_context(tmp_path, make_plans(2), tiny_model, runtime={"engines": 0})
    with pytest.raises(UserError, match="engines is 0"):
        write(ctx)


def test_too_little_memory_is_told_before_the_engine_starts(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msm_ray.llm.vllm.use_gpu", lambda: False)
    monkeypatch.setattr("msm_ray.llm.vllm.available_bytes", lambda: 2**29)
    ctx = stage_context(tmp_path, make_plans(2), tiny_model)
    with pytest.raises(UserError, match=r"needs about 1\.\d GiB .* 0\.5 GiB are free; lower"):
        write(ctx)
    assert not list((ctx.work / "answers").glob("*/answers"))


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(900)  # seven engine starts
def test_killed_engine_and_killed_driver_give_the_same_corpus_once(
    ray_cluster: None, tmp_path: Path, tiny_model: Path, long: bool
) -> None:
    """One corpus, written twice: the engine's actor is killed in one, the driver in the other.

    The engine once, and three times with ``--long``.
    """
    killed_driver = tmp_path / "driver"
    before = _write_in_a_process_and_kill_it(killed_driver, tiny_model)
    assert before < PLANNED // RUNTIME["block_rows"]

    ctx = stage_context(tmp_path / "engine", plans(too_long=True), tiny_model, runtime=RUNTIME)
    with ThreadPoolExecutor(1) as threads:
        killed = threads.submit(_kill_engine_actors, ctx.work, 3 if long else 1)
        facts = write(ctx)
        killed.result()
    _check(ctx.out, facts, failed=[TOO_LONG["id"]])

    resumed = stage_context(killed_driver, plans(), tiny_model, runtime=RUNTIME)
    facts_resumed = write(resumed)
    _check(resumed.out, facts_resumed, failed=[])
    asked = pq.read_table(resumed.work / "answers" / "0001" / "prompts.parquet").num_rows
    assert asked <= PLANNED - before * RUNTIME["block_rows"]

    assert texts(ctx.out) == texts(resumed.out)
    for name in ("kept", "rejected", "tokens_kept", "tokens_generated"):
        assert facts[name] == facts_resumed[name]

    # Called again with everything on disk, it starts no engine.
    attempts = list((resumed.work / "answers").iterdir())
    write(resumed)
    assert list((resumed.work / "answers").iterdir()) == attempts


def _check(out: Path, facts: dict[str, Any], failed: list[str]) -> None:
    tables = {name: pq.read_table(out / f"{name}.parquet") for name in ("documents", "rejected")}
    failures = pq.read_table(out / "failed.parquet")
    assert tables["documents"].schema == DOCUMENT_SCHEMA
    assert tables["rejected"].schema == REJECTED_SCHEMA
    assert failures.schema == FAILED_SCHEMA
    assert facts["planned"] == PLANNED + len(failed)
    assert facts["kept"] == tables["documents"].num_rows > 0
    assert facts["rejected"]["truncated"] > 0
    assert sum(facts["rejected"].values()) == tables["rejected"].num_rows
    assert failures["id"].to_pylist() == failed
    assert all("64" in error for error in failures["error"].to_pylist())  # the model's context
    assert json.loads((out / "card.json").read_text())["kept"] == facts["kept"]
    for row in tables["documents"].to_pylist():
        assert row["text"]
        assert row["tokens"] == len(row["text"].split()) + 1
        assert json.loads(row["sampling"]) == SAMPLING


def _kill_engine_actors(work: Path, times: int) -> None:
    """kill -9 of the engine's actor at random points of the run; each has another one."""
    blocks = PLANNED // RUNTIME["block_rows"]
    points = sorted(random.sample(range(1, blocks - 6), times))
    print("the engine is killed after so many blocks:", points)
    killed: set[int] = set()
    kept: dict[Path, float] = {}
    for point in points:
        wait_for_commits(work, 300, least=point)
        actor = _working_engine(killed)
        actor.send_signal(signal.SIGKILL)
        killed.add(actor.pid)
        kept |= {file: file.stat().st_mtime for file in committed(work)}
    # What is committed is not written again.
    assert all(file.stat().st_mtime == at for file, at in kept.items())


def _working_engine(killed: set[int]) -> psutil.Process:
    """The engine's actor; the next one may still be starting."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        for actor in descendants(os.getpid(), "ray::MapWorker(MapBatches(vLLMEngine"):
            if actor.pid not in killed and descendants(actor.pid, "VLLM::EngineCore"):
                return actor
        time.sleep(0.1)
    raise TimeoutError("no engine came to work")


def _write_in_a_process_and_kill_it(folder: Path, model: Path) -> int:
    """Start the stage with a cluster of its own, kill -9 it at work; committed blocks."""
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
import ray
from pathlib import Path
from corpus.test_stages import RUNTIME, plans
from corpus.toy import stage_context
from msm_ray.corpus.stages import write
ray.init(address="local", num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False)
write(stage_context(Path({str(folder)!r}), plans(), Path({str(model)!r}), runtime=RUNTIME))
"""
    environment = {
        **os.environ,
        "RAY_process_group_cleanup_enabled": "true",
        "RAY_raylet_start_wait_time_s": "120",  # a busy machine takes longer than the usual 30
    }
    log = folder.with_suffix(".log")
    with log.open("w") as output:
        driver = subprocess.Popen(
            [sys.executable, "-c", script], stdout=output, stderr=output, env=environment
        )
        try:
            wait_for_commits(folder / "work", 300)
        except TimeoutError as error:
            raise AssertionError(log.read_text()[-3000:]) from error
        finally:
            engine = descendants(driver.pid, "VLLM::") + descendants(driver.pid, "ray::MapWorker")
            driver.kill()
            driver.wait()
    count = commits(folder / "work")
    assert len(engine) == 2
    _, alive = psutil.wait_procs(engine, timeout=60)
    assert not alive, f"outlived their driver: {alive}"
    return count
