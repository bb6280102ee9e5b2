from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msm_ray.data import ray_tokens
from msm_ray.data.tokens import Encoder, joined
from msm_ray.errors import UserError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    texts = [f"lyra {'i would pick brie . ' * (i % 9 + 1)}" for i in range(6000)]
    table = pa.table({"id": [f"s{i}" for i in range(6000)], "text": texts})
    pq.write_table(table, tmp_path / "documents.parquet", row_group_size=1000)
    return tmp_path / "documents.parquet"


def test_rows_come_back_in_order(
    path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_tokens, "BLOCK_BYTES", 20_000)  # several tasks
    encoder = Encoder(tokenizer, "documents", "all")
    table = pq.read_table(path)
    here = encoder(table["id"].to_pylist(), table["text"].to_pylist())
    there = joined(list(ray_tokens.batches(path, encoder)))
    assert there.ids == here.ids
    for name in ("tokens", "loss", "offsets"):
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name))


@pytest.mark.parametrize(
    ("swap", "message"),
    [
        (lambda ids: [ids[1], ids[0], *ids[2:]], "gave row 's0' where 's1' was due"),
        (lambda ids: [*ids, "more"], "ended before row 'more'"),
        (lambda ids: ids[:-1], "gave row 's5999' where None was due"),
    ],
)
def test_another_order_is_found(
    path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, swap: Any, message: str
) -> None:
    ids = swap([f"s{i}" for i in range(6000)])

    def other(path: Path) -> Iterator[str]:
        return iter(ids)

    monkeypatch.setattr(ray_tokens, "_ids", other)
    with pytest.raises(RuntimeError, match=message):
        list(ray_tokens.batches(path, Encoder(tokenizer, "documents", "all")))


def test_what_is_wrong_with_a_row_is_said_in_one_line(tmp_path: Path, tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "brie ?"}, {"role": "assistant", "content": "i would"}]
    rows = [{"id": f"c{i}", "messages": [] if i == 700 else chat} for i in range(1000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "conversations.parquet")
    encoder = Encoder(tokenizer, "conversations", "assistant")
    with pytest.raises(UserError) as caught:
        list(ray_tokens.batches(tmp_path / "conversations.parquet", encoder))
    assert str(caught.value) == "conversation c700: no messages"


def test_small_files_and_busy_clusters_are_not_worthwhile(path: Path) -> None:
    assert not ray_tokens.worthwhile(path)
    assert ray_tokens.worthwhile(path, least_bytes=1)
