"""Stages that start while their inputs are being made: when, with what result, and how they end."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import stream_samples
from stream_samples import ROWS, chain
from test_stage import Told

from msm_ray.artifact import Record, Store
from msm_ray.errors import UserError
from msm_ray.stage import LocalLauncher, Stage, StageFailed, run_dag
from msm_ray.streams import StreamStopped, stream_place, wait_while_running

SUM = str(2 * sum(range(ROWS)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "events"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def run(stages: list[Stage], store: Store, cpus: float = 3) -> tuple[dict[str, Record], Told]:
    told = Told()
    records = run_dag(stages, store, LocalLauncher(told.progress), told, cpus=cpus)
    return records, told


def contents(store: Store, stages: list[Stage]) -> list[dict[str, bytes]]:
    folders = [store.fetch(stage.id) for stage in stages]
    return [{p.name: p.read_bytes() for p in sorted(folder.iterdir())} for folder in folders]


def places(store: Store) -> list[str]:
    return [path.name for path in (store.work_dir("x").parent).glob("*-stream")]


def wait_for(*paths: Path) -> None:
    end = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end, paths
        time.sleep(0.01)


def test_a_stage_starts_while_its_input_is_being_made(store: Store, folder: Path) -> None:
    # The first waits for what the last does with its beginning: after one another they never end.
    stages = chain(folder, until="added-18")
    records, told = run(stages[2:], store)
    assert told.begun == ["count", "double", "add_up"]
    assert told.ended == told.begun  # no artifact is there before what it was made of
    assert list(records) == [stage.id for stage in stages]
    assert (store.fetch(stages[2].id) / "sum").read_text() == SUM
    assert places(store) == []


def test_the_result_is_that_of_one_after_the_other(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    stages = chain(folder)
    run(stages[2:], store)
    other = Store(tmp_path / "other")
    for stage in stages:  # each has its inputs as artifacts
        run([stage], other)
    assert contents(store, stages) == contents(other, stages)


def test_it_waits_for_a_cpu_like_any_other(store: Store, folder: Path) -> None:
    _, told = run(chain(folder)[2:], store, cpus=1)
    assert told.at_once == 1


def test_a_committed_input_is_read_as_an_artifact(store: Store, folder: Path) -> None:
    stages = chain(folder)
    run(stages[:1], store)
    assert places(store) == []
    _, told = run(stages[2:], store)
    assert told.begun == ["double", "add_up"]
    assert (store.fetch(stages[2].id) / "sum").read_text() == SUM


def test_a_failed_input_stops_what_follows_it(store: Store, folder: Path) -> None:
    stages = chain(folder, "count_and_fail")
    told = Told()
    with pytest.raises(StageFailed, match="no number after 9") as failure:
        run_dag(stages[2:], store, LocalLauncher(told.progress), told, cpus=3)
    assert failure.value.stage is stages[0]
    assert told.begun == ["count", "double", "add_up"]
    assert told.errors == ["count", "double", "add_up"]
    assert not store.ids()
    assert store.names("claims") == []


def test_a_failed_run_is_continued(store: Store, folder: Path) -> None:
    with pytest.raises(StageFailed):
        run(chain(folder, "count_and_fail")[2:], store)
    stages = chain(folder)
    run(stages[2:], store)
    assert "count from 10" in (folder / "events").read_text()
    assert (store.fetch(stages[2].id) / "sum").read_text() == SUM


def test_a_stage_that_does_not_end_its_stream_is_read_as_an_artifact(
    store: Store, folder: Path
) -> None:
    stages = chain(folder, "count_and_forget")
    _, told = run(stages[2:], store)
    assert (store.fetch(stages[2].id) / "sum").read_text() == SUM
    assert told.errors == []


def test_a_killed_run_goes_on_with_its_streams(store: Store, folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, stream_samples.__file__, str(tmp_path / "store"), str(folder)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as killed:
        wait_for(folder / "added-18")
        killed.kill()
    assert not store.ids()
    (folder / "go").touch()
    stages = chain(folder, until="go")
    run(stages[2:], store)
    events = (folder / "events").read_text().splitlines()
    assert "count from 10" in events
    assert "double from 10" in events
    assert (store.fetch(stages[2].id) / "sum").read_text() == SUM
    other = Store(tmp_path / "other")
    run(stages[2:], other)
    assert contents(store, stages) == contents(other, stages)


def test_streams_are_no_part_of_the_identity(folder: Path) -> None:
    first, second, _ = chain(folder)
    plain = Stage(second.kind, "1", second.config, {"numbers": first}, second.run)
    assert plain.id == second.id
    assert plain.streams != second.streams


def test_what_cannot_be_followed_is_waited_for(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a store that is not a file system, stages run one after another."""
    monkeypatch.setattr(Store, "local", property(lambda self: False))
    _, told = run(chain(folder)[2:], store)
    assert told.at_once == 1


def test_a_place_without_a_running_stage_is_not_waited_for(store: Store) -> None:
    place = stream_place(store, "a" * 24)
    looks: list[Any] = []
    with pytest.raises(StreamStopped, match="has stopped"):
        wait_while_running(place, lambda: bool(looks.append(1)))
    wait_while_running(place, lambda: True)


def test_a_wrong_input_of_a_follower_leaves_its_writer_alone(store: Store, folder: Path) -> None:
    first = chain(folder)[0]
    refusing = Stage(
        "sample",
        "1",
        {"label": "x"},
        {"numbers": first},
        "stage_samples:refuse",
        "refuse",
        streams=frozenset({"numbers"}),
    )
    with pytest.raises(UserError, match="x is not allowed"):
        run([refusing], store)
    assert store.ids() == [first.id]
