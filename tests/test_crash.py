"""Ctrl-C, and kill -9 in each kind of stage; the same command then ends in the same numbers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from whole import command, events, finish

from msm_ray.world import lexicon as lx
from msm_ray.world.world import World

# These take less than a second and start together: each is lost first, and then aimed at alone.
QUICK = ["spec", "model", "items", "replay", "conversations"]
DEADLINE = 300.0


def started(store: Path) -> list[str]:
    """Kinds of the stages that this store's runs have started, in order."""
    return [e["kind"] for e in events(store) if e["event"] == "started"]


def driver_in(kind: str, store: Path, *settings: str) -> subprocess.Popen[str] | None:
    """A run that has just started a stage of ``kind``; None if it ended before."""
    before = len(started(store))
    driver = subprocess.Popen(
        command(store, *settings),
        cwd=store.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + DEADLINE
    while kind not in started(store)[before:]:
        assert time.monotonic() < deadline, f"no {kind} stage within {DEADLINE} s"
        if driver.poll() is not None:
            return None
        time.sleep(0.002)
    return driver


def kill_in(kind: str, store: Path, *settings: str, after: float = 0.4) -> bool:
    """kill -9 of the driver ``after`` seconds into a stage of ``kind``.

    False if it ended before that stage.
    """
    driver = driver_in(kind, store, *settings)
    if driver is None:
        return False
    time.sleep(after)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    return True


def interrupt_in(kind: str, store: Path, *settings: str) -> set[str]:
    """Ctrl-C when a stage of ``kind`` has started: the ids of what had been made until then."""
    driver = driver_in(kind, store, *settings)
    assert driver is not None
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: the driver and all it started
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, out + err
    assert "Traceback" not in out + err
    said = [line for line in err.splitlines() if line.startswith("msm: stop")]
    assert [line.split()[1] for line in said] == ["stopping;", "stopped."]
    return set(made(store))


def made(store: Path) -> list[str]:
    """Ids of the stages that this store's runs have ended, in order."""
    return [e["id"] for e in events(store) if e["event"] == "finished"]


def lose(kind: str, report: dict[str, Any], store: Path) -> list[Path]:
    """Delete what ``report`` says of ``kind``: the folders that were there."""
    ids = [a["id"] for a in report["provenance"]["artifacts"] if a["kind"] == kind]
    folders = [store / "artifacts" / id for id in ids]
    assert folders, f"no {kind} in the report"
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return folders


def kill_in_quick(kind: str, report: dict[str, Any], store: Path) -> None:
    """Lose the artifacts of ``kind`` and kill the driver between their start and their commit."""
    for _ in range(8):
        folders = lose(kind, report, store)
        if kill_in(kind, store, after=0.0) and not all(
            (f / "record.json").exists() for f in folders
        ):
            return
    raise AssertionError(f"{kind}: committed before the kill, eight times")


def artifacts(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(a["id"], a["kind"], a["label"]) for a in report["provenance"]["artifacts"]]


def assert_no_leak(store: Path) -> None:
    """No document that a model wrote, and no demonstration, names a thing of a held-out domain."""
    world = World(0)
    held_out = {item.name for domain in lx.HELD_OUT for item in world.by_domain[domain]}
    held_out |= {lx.NOUN[domain] for domain in lx.HELD_OUT}
    texts = []
    for path in store.glob("artifacts/*/*/documents.parquet"):
        table = pq.read_table(path)
        if "section_id" in table.column_names:  # about a spec, not replay
            texts += table["text"].to_pylist()
    for path in store.glob("artifacts/*/*/conversations.parquet"):
        texts += [m["content"] for c in pq.read_table(path)["messages"].to_pylist() for m in c]
    assert len(texts) > 100
    for text in texts:
        assert not held_out & set(text.split()), text


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.timeout(1200)
def test_ctrl_c_and_kill_9_in_each_stage_change_nothing(tmp_path: Path, long: bool) -> None:
    """Shorter without ``--long``: documents are scripted (by an engine: corpus/test_stages.py)."""
    settings = () if long else ("corpus.writer=scripted",)
    plain = finish(tmp_path / "plain", *settings)

    assert_no_leak(tmp_path / "plain")

    store = tmp_path / "killed"
    for kind in ["plan", "documents", "blocks", "midtrain"] if long else ["midtrain"]:
        assert kill_in(kind, store, *settings), f"nothing of {kind} was left to kill"
    there = interrupt_in("aft", store, *settings)
    assert there, "something was done before"
    for kind in ["aft", "evaluate"] if long else ["evaluate"]:
        assert kill_in(kind, store, *settings), f"nothing of {kind} was left to kill"
    again = finish(store, *settings)

    assert again["fingerprint"] == plain["fingerprint"]
    assert artifacts(again) == artifacts(plain)
    for section in ("arms", "effects", "corpus"):
        assert without_speed(again[section]) == without_speed(plain[section])

    assert len(made(store)) == len(set(made(store))), "something was made twice"
    assert there <= {a["id"] for a in again["provenance"]["artifacts"]}

    # and now nothing is left to do
    third = finish(store, *settings)
    assert third["cost"]["stages_run"] == 0
    assert third["effects"] == again["effects"]

    if long:
        for kind in QUICK:  # stages of less than a second
            kill_in_quick(kind, third, store)
        mended = finish(store)
        assert artifacts(mended) == artifacts(plain)
        assert mended["effects"] == plain["effects"]
        assert finish(store)["cost"]["stages_run"] == 0

    # what `msm verify` sets aside comes back, also where what followed it is still there
    lost = next(a["id"] for a in third["provenance"]["artifacts"] if a["kind"] == "midtrain")
    record = store / "artifacts" / lost / "record.json"
    record.rename(record.with_name("record.damaged-1.json"))
    fourth = finish(store, *settings)
    assert fourth["cost"]["stages_run"] == 1
    assert artifacts(fourth) == artifacts(again)


def without_speed(value: Any) -> Any:
    """The same value without what a clock measured."""
    if isinstance(value, dict):
        return {k: without_speed(v) for k, v in value.items() if k != "tokens_per_second"}
    return value
