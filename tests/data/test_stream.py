from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from msm_ray.data.blocks import BlockReader, BlockWriter
from msm_ray.data.order import WindowedOrder
from msm_ray.data.packing import pack_windows
from msm_ray.data.stream import (
    StreamReader,
    StreamWriter,
    follow_blocks,
    read_watermark,
    wait_for_blocks,
)
from msm_ray.data.tokens import joined
from msm_ray.errors import UserError
from msm_ray.streams import RUNNING_FILE, StreamStopped
from tests.data import stream_writer as script

DOCUMENTS = 400


def write(directory: Path, documents: int = DOCUMENTS) -> Path:
    writer = script.open_writer(directory)
    for number in range(documents):
        writer.append(*script.document(number))
    writer.close()
    return directory


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def shards(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("shard-*.arrow"))


def process(directory: Path, pause: float = 0.0) -> subprocess.Popen[str]:
    command = [sys.executable, script.__file__, str(directory), str(DOCUMENTS), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stream as one process writes it at once."""
    return write(tmp_path_factory.mktemp("whole") / "stream")


def sequence(reader: BlockReader, seed: int, stop: int) -> list[list[int]]:
    order = WindowedOrder(reader, seed).take(0, stop)
    return [row.tolist() for row in reader.rows("input_ids", order)]


def test_a_killed_writer_is_continued_to_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    expected = files(whole)
    rng = random.Random(0)
    killed = 0
    directory = tmp_path / "stream"
    for _ in range(12):
        with process(directory) as child:
            assert child.stdout is not None
            for _ in range(rng.randrange(1, 14)):
                child.stdout.readline()
            time.sleep(rng.random() * 0.01)
            child.kill()
        killed += child.returncode != 0
        if read_watermark(directory).is_final:
            break
    with process(directory) as child:
        child.communicate()
    assert child.returncode == 0
    assert killed >= 3
    assert files(directory) == expected


@pytest.mark.parametrize("at", ["manifest.json", "windows.jsonl", "shard-00003.arrow"])
def test_what_lies_above_the_watermark_is_written_again(
    tmp_path: Path, whole: Path, at: str
) -> None:
    """As a crash between two files leaves it: the file is there, the watermark was not raised."""
    directory = tmp_path / "stream"
    writer = script.open_writer(directory)
    for number in range(DOCUMENTS // 2):
        writer.append(*script.document(number))
    writer.abandon()
    name = at.replace("00003", f"{len(shards(directory)):05d}")
    with (directory / name).open("ab") as file:
        file.write(b"half a li")
    continued = script.open_writer(directory)
    assert continued.documents <= DOCUMENTS // 2
    for number in range(continued.documents, DOCUMENTS):
        continued.append(*script.document(number))
    continued.close()
    assert files(directory) == files(whole)


def test_a_stream_holds_what_packing_at_once_makes(tmp_path: Path, whole: Path) -> None:
    given = [script.document(number) for number in range(DOCUMENTS)]
    given = [(name, docs) for name, docs in given if docs.targets[0]]
    names = ["chat", "spec"]
    component = np.array([names.index(name) for name, _ in given])
    document = np.array(
        [int((component[:i] == c).sum()) for i, c in enumerate(component)], dtype=np.int64
    )
    sources = [(name, joined([docs for n, docs in given if n == name])) for name in names]
    writer = BlockWriter(tmp_path, script.BLOCK_TOKENS)
    for window in pack_windows(
        sources, component, document, script.BLOCK_TOKENS, script.PAD,
        whole=[True, False], window_blocks=script.WINDOW_BLOCKS,
    ):  # fmt: skip
        writer.add(window.blocks)
    writer.finish({})
    assert shards(tmp_path) == shards(whole)
    for name in shards(whole):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    manifest = BlockReader(whole, verify=True).manifest
    assert manifest["refused"]["spec"]["documents"] + manifest["refused"]["chat"]["documents"] == (
        DOCUMENTS - len(given)
    )
    assert manifest["documents"] == DOCUMENTS


def test_ranks_read_the_same_while_it_is_written_and_afterwards(
    tmp_path: Path, whole: Path
) -> None:
    directory, batch, seed = tmp_path / "stream", 6, 9
    expected = sequence(BlockReader(whole), seed, len(BlockReader(whole)))
    read: dict[tuple[int, int], list[tuple[int, list[int]]]] = {}
    early: list[bool] = []

    def rank(number: int, world_size: int) -> None:
        reader = follow_blocks(directory)
        order = WindowedOrder(reader, seed)
        mine: list[tuple[int, list[int]]] = []
        for start in range(0, len(expected), batch):
            stop = min(start + batch, len(expected))
            wait_for_blocks(reader, stop)
            assert len(reader) >= stop
            early.append(not reader.is_final)
            indices = order.take(start, stop)[number::world_size]
            rows = reader.rows("input_ids", indices)
            positions = range(start + number, stop, world_size)
            mine += [(at, row.tolist()) for at, row in zip(positions, rows, strict=True)]
        wait_for_blocks(reader, len(expected) + 1)  # there will be no more
        assert len(reader) == len(expected)
        read[number, world_size] = mine

    threads = [
        threading.Thread(target=rank, args=(number, world_size))
        for world_size in (1, 2, 3)
        for number in range(world_size)
    ]
    directory.mkdir()
    (directory / RUNNING_FILE).touch()
    for thread in threads:
        thread.start()
    with process(directory, pause=0.02) as child:
        child.communicate()
    for thread in threads:
        thread.join()
    assert any(early)  # some of it was read before the writer had ended
    for world_size in (1, 2, 3):
        rows = [entry for number in range(world_size) for entry in read[number, world_size]]
        assert [row for _, row in sorted(rows)] == expected


def test_a_reader_says_what_is_not_there(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(UserError, match="no stream of blocks there"):
        StreamReader(tmp_path)
    writer = script.open_writer(tmp_path)
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        BlockReader(tmp_path)
    reader = StreamReader(tmp_path)
    assert (len(reader), reader.windows, reader.is_final) == (0, [], False)
    with pytest.raises(StreamStopped):
        wait_for_blocks(reader, 3)
    for number in range(60):
        writer.append(*script.document(number))
    assert len(reader) == 0
    reader.refresh()
    assert 0 < len(reader) == sum(reader.windows) == reader.manifest["blocks"]
    with pytest.raises(LookupError, match="position .* is asked for"):
        WindowedOrder(reader, 0).take(0, len(reader) + 1)
    writer.abandon()
    finished = StreamReader(whole)
    assert finished.is_final
    assert finished.manifest == BlockReader(whole).manifest
    assert finished.manifest_sha256 == reader.manifest_sha256  # that of the header
    np.testing.assert_array_equal(finished.loss_tokens, BlockReader(whole).loss_tokens)


def test_a_stream_has_one_writer_and_one_header(tmp_path: Path) -> None:
    writer = script.open_writer(tmp_path)
    with pytest.raises(UserError, match="another writer has this stream open"):
        script.open_writer(tmp_path)
    writer.abandon()
    with pytest.raises(UserError, match="another stream lies there, its block_tokens is 32"):
        StreamWriter(
            tmp_path, 64, 0, whole=["chat"], window_blocks=script.WINDOW_BLOCKS, facts={"seed": 4}
        )


def test_a_stream_without_any_target_is_an_error(tmp_path: Path) -> None:
    writer = script.open_writer(tmp_path)
    writer.append(*script.document(5))
    with pytest.raises(UserError, match="no token of 1 documents is a target"):
        writer.close()


def test_a_finished_stream_takes_no_more(whole: Path) -> None:
    before = files(whole)
    writer = script.open_writer(whole)
    assert writer.documents == DOCUMENTS
    with pytest.raises(UserError, match="the stream is finished"):
        writer.append(*script.document(0))
    writer.close()
    assert files(whole) == before
    assert json.loads(before["watermark.json"])["is_final"]
