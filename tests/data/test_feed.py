from __future__ import annotations

import threading
from pathlib import Path

import pytest

from msm_ray.data.feed import ROWS_FILE, FeedWriter, follow
from msm_ray.streams import RUNNING_FILE, StreamStopped


def test_rows_come_in_their_order_while_they_are_written(tmp_path: Path) -> None:
    (tmp_path / RUNNING_FILE).touch()
    got: list[int] = []
    parts = 0

    def read() -> None:
        nonlocal parts
        for rows in follow(tmp_path):
            got.extend(row["n"] for row in rows)
            parts += 1
            more.set()

    more = threading.Event()
    thread = threading.Thread(target=read)
    thread.start()
    writer = FeedWriter(tmp_path)
    for n in range(4):
        more.clear()
        writer.add([{"n": 2 * n}, {"n": 2 * n + 1}])
        assert more.wait(60)  # it is not waited for the end
    writer.close()
    thread.join()
    assert got == list(range(8))
    assert parts == 4


def test_what_was_not_committed_is_not_read(tmp_path: Path) -> None:
    writer = FeedWriter(tmp_path)
    writer.add([{"text": "a\u2028b\n"}])
    with (tmp_path / ROWS_FILE).open("ab") as file:
        file.write(b'{"text": "half')
    again = FeedWriter(tmp_path)
    assert again.rows == 1
    again.add([{"text": "c"}])
    again.close()
    assert [row["text"] for rows in follow(tmp_path) for row in rows] == ["a\u2028b\n", "c"]


def test_a_feed_whose_writer_is_gone_says_so(tmp_path: Path) -> None:
    FeedWriter(tmp_path).add([{"n": 0}])
    rows = follow(tmp_path)
    assert next(rows) == [{"n": 0}]
    with pytest.raises(StreamStopped):
        next(rows)


def test_an_empty_feed_ends(tmp_path: Path) -> None:
    FeedWriter(tmp_path).close()
    assert list(follow(tmp_path)) == []
