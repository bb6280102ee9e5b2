"""Only committed answers count, once each, over any number of attempts."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msm_ray.llm.attempts import Attempts

SCHEMA = pa.schema([("id", pa.string()), ("value", pa.int64())])


def ids(*values: int) -> list[str]:
    return [f"doc{value}" for value in values]


def answer(folder: Path, name: str, values: list[int], *, committed: bool) -> None:
    """What Ray Data leaves behind for one block."""
    for part in ("answers", "checkpoint"):
        (folder / part).mkdir(exist_ok=True)
    end = ".parquet" if committed else ".pending.parquet"
    pq.write_table(pa.table({"id": ids(*values)}), folder / "checkpoint" / f"{name}{end}")
    table = pa.table({"id": ids(*values), "value": values}, schema=SCHEMA)
    pq.write_table(table, folder / "answers" / f"{name}-0.parquet")


def test_a_new_folder_for_each_attempt(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path / "work", SCHEMA)
    prompts = pa.table({"id": ids(1, 2)})
    assert [attempts.open_new(prompts).name for _ in range(3)] == ["0000", "0001", "0002"]
    assert pq.read_table(attempts.folders()[2] / "prompts.parquet") == prompts
    assert attempts.committed().num_rows == 0


def test_pending_answers_do_not_count(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path, SCHEMA)
    first = attempts.open_new(pa.table({"id": ids(1, 2, 3, 4)}))
    answer(first, "aa_000000", [1, 2], committed=True)
    answer(first, "aa_000001", [3, 4], committed=False)  # killed between data and commit
    second = attempts.open_new(pa.table({"id": ids(3, 4)}))
    answer(second, "bb_000000", [4, 3], committed=True)
    assert attempts.count_committed() == 4
    assert sorted(attempts.committed()["id"].to_pylist()) == ids(1, 2, 3, 4)


def test_an_id_answered_twice_is_never_passed_on(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path, SCHEMA)
    folder = attempts.open_new(pa.table({"id": ids(1)}))
    answer(folder, "aa_000000", [1], committed=True)
    answer(folder, "aa_000001", [1], committed=True)
    with pytest.raises(AssertionError, match="twice"):
        attempts.committed()


def test_each_answer_is_told_once_when_it_is_committed(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path, SCHEMA)
    folder = attempts.open_new(pa.table({"id": ids(1, 2, 3)}))
    answer(folder, "aa_000000", [2], committed=True)
    answer(folder, "aa_000001", [1], committed=False)
    assert attempts.unread()["id"].to_pylist() == ids(2)
    assert attempts.unread().num_rows == 0
    answer(folder, "aa_000001", [1], committed=True)
    answer(attempts.open_new(pa.table({"id": ids(3)})), "bb_000000", [3], committed=True)
    assert attempts.unread()["id"].to_pylist() == ids(1, 3)
    assert Attempts(tmp_path, SCHEMA).unread().num_rows == 3
