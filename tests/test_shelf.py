"""What stages share beside their artifacts."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from msm_ray.artifact import Store
from msm_ray.shelf import Shelf

SCHEMA = pa.schema([("id", pa.string()), ("score", pa.int64())])


def table(*rows: tuple[str, int]) -> pa.Table:
    return pa.Table.from_pylist([{"id": i, "score": n} for i, n in rows], SCHEMA)


@pytest.mark.parametrize("place", ["{}", "file://{}", "memory://shelf{}"])
def test_what_is_put_is_read_by_all(place: str, tmp_path: Path) -> None:
    url = place.format(tmp_path / "store")
    one, other = Shelf(Store(url)), Shelf(Store(url))
    assert other.read("verdicts", SCHEMA).num_rows == 0
    one.put("verdicts", "b", table(("x", 1)))
    one.put("verdicts", "a", table(("y", 2)))
    one.put("verdicts", "b", table(("x", 3)))  # the same writer again
    one.put("others", "a", table(("z", 4)))
    assert other.read("verdicts", SCHEMA).to_pydict() == {"id": ["y", "x"], "score": [2, 3]}


def test_one_at_a_time(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def work() -> None:
        with Shelf(Store(tmp_path / "store")).held("verdicts"):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.05)
            inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    with Shelf(Store(tmp_path / "store")).held("others"):  # nobody else's
        for thread in threads:
            thread.join()
    assert most == [1]
