"""What stages share beside their artifacts."""

from __future__ import annotations

import subprocess
import sys
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


def test_who_adds_other_keys_does_not_wait(tmp_path: Path) -> None:
    one, other = (Shelf(Store(tmp_path / "store")) for _ in range(2))
    one.put("verdicts", "old", table(("a", 1)))
    with one.adding("verdicts", SCHEMA, ["a", "b", "c"]) as (there, mine):
        assert there["id"].to_pylist() == ["a"]
        assert mine == {"b", "c"}
        with other.adding("verdicts", SCHEMA, ["c", "d"]) as (there, mine):
            assert mine == {"d"}
        with other.adding("verdicts", SCHEMA, ["a", "b"]) as (there, mine):
            assert (there["id"].to_pylist(), mine) == (["a"], set())
        with other.adding("others", SCHEMA, ["b"]) as (_, mine):
            assert mine == {"b"}
        one.put("verdicts", "new", table(("b", 2), ("c", 3)))
    with other.adding("verdicts", SCHEMA, ["a", "b", "c", "d"]) as (there, mine):
        assert sorted(there["id"].to_pylist()) == ["a", "b", "c"]
        assert mine == {"d"}  # it was not added


def test_what_another_adds_is_waited_for_and_not_done_again(tmp_path: Path) -> None:
    done: list[str] = []

    def work(number: int) -> None:
        shelf = Shelf(Store(tmp_path / "store"))
        with shelf.adding("verdicts", SCHEMA, ["x", "y"]) as (there, mine):
            assert mine or there.num_rows == 2
            time.sleep(0.3)
            if mine:
                done.extend(mine)
                shelf.put("verdicts", str(number), table(*((key, number) for key in mine)))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == ["x", "y"]
    left = [n for n in Store(tmp_path / "store").names("cache/verdicts") if "adding" in n]
    assert left == []
    assert Store(tmp_path / "store").names("claims") == []


def test_what_a_killed_process_was_adding_is_for_the_rest(tmp_path: Path) -> None:
    program = """
import sys, time
import pyarrow as pa
from msm_ray.artifact import Store
from msm_ray.shelf import Shelf
schema = pa.schema([("id", pa.string()), ("score", pa.int64())])
with Shelf(Store(sys.argv[1])).adding("verdicts", schema, ["x", "y"]) as (_, mine):
    print(sorted(mine), flush=True)
    time.sleep(600)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "store")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "['x', 'y']\n"
    child.kill()
    child.communicate()
    with Shelf(Store(tmp_path / "store")).adding("verdicts", SCHEMA, ["x"]) as (_, mine):
        assert mine == {"x"}
