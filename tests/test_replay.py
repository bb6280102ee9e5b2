"""Replay: the sample depends on texts and seed alone, is large enough, and is never held."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_ray.errors import UserError
from msm_ray.replay import SCHEMA, Replay, read_text, sample
from msm_ray.rows import files_of, is_text

TEXTS = [f"{'word ' * (i % 9 + 1)}{i}" for i in range(500)]


def rows(texts: list[str]) -> list[dict[str, Any]]:
    return [{"text": text, "url": "u"} for text in texts]


def drawn(out: Path) -> dict[str, str]:
    table = pq.read_table(out)
    assert table.schema == SCHEMA
    return dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


def stage_of(source: Path | str, **changes: int) -> str:
    return Replay(str(source), **changes).stage(1_000).id


def test_neither_order_nor_files_decide_what_is_drawn(tmp_path: Path) -> None:
    shuffled = random.Random(0).sample(TEXTS, len(TEXTS))
    made = []
    for n, texts in enumerate((TEXTS, shuffled)):
        facts = sample(lambda t=texts: rows(t), 500, 3, "rows", tmp_path / f"{n}.parquet")
        made.append((facts, drawn(tmp_path / f"{n}.parquet")))
    assert made[0] == made[1]
    facts, texts_drawn = made[0]
    size = max(map(len, TEXTS))
    assert 3_000 <= facts["characters"] == sum(map(len, texts_drawn.values())) < 3_000 + size
    assert facts["left_out"] + facts["taken"] == 500
    sample(lambda: rows(TEXTS), 500, 4, "rows", tmp_path / "other.parquet")
    assert set(drawn(tmp_path / "other.parquet").values()) != set(texts_drawn.values())
    sample(lambda: rows(TEXTS), 700, 3, "rows", tmp_path / "more.parquet")
    assert texts_drawn.items() <= drawn(tmp_path / "more.parquet").items(), "a larger one adds"


@given(st.lists(st.sampled_from([*TEXTS[:20], "", " ", None, 5]), max_size=60), st.integers(1, 30))
@settings(max_examples=60)
def test_every_row_is_counted_and_nothing_comes_twice(
    tmp_path_factory: pytest.TempPathFactory, texts: list[Any], tokens: int
) -> None:
    out = tmp_path_factory.mktemp("sample") / "documents.parquet"
    given_rows = [*rows(texts), None, {"no": "text"}]
    good = {t for t in texts if isinstance(t, str) and t.strip()}

    def odd(text: str) -> bool:
        return text.endswith("3")

    there = sum(len(t) for t in good if not odd(t))
    try:
        facts = sample(lambda: given_rows, tokens, 0, "rows", out, odd)
    except UserError as error:
        assert there < 4 * tokens
        assert f"{tokens - there // 4:,} are missing" in str(error)
        return
    found = list(drawn(out).values())
    assert len(found) == len(set(found)) == facts["taken"]
    assert set(found) <= {t for t in good if not odd(t)}
    assert facts["rows"] == sum(facts["refused"].values()) + facts["taken"] + facts["left_out"]
    assert facts["characters"] >= min(6 * tokens, there) >= 4 * tokens
    assert set(facts["reasons"]) == set(facts["refused"])


def test_a_stage_is_what_its_files_hold(tmp_path: Path) -> None:
    one = tmp_path / "web" / "a.jsonl"
    one.parent.mkdir()
    one.write_text(json.dumps({"text": "so much of it " * 400}))
    id = stage_of(tmp_path / "web")
    assert id == stage_of(one) == stage_of(tmp_path / "web" / "*.jsonl")
    assert id == stage_of(one, tokens=1_000) != stage_of(one, tokens=999)
    assert id != stage_of(one, seed=1)
    one.rename(one.with_name("b.jsonl"))
    assert id == stage_of(tmp_path / "web")
    pq.write_table(pa.Table.from_pylist(rows(TEXTS)), one.with_name("c.parquet"))
    assert id != stage_of(tmp_path / "web")
    (one.parent / "readme.md").write_text("of no interest")
    assert len(files_of(str(one.parent))) == 2


@settings(deadline=None)
@given(
    st.lists(st.text(max_size=60), min_size=1, max_size=30),
    st.sampled_from(
        ["jsonl", "plain", "dictionary", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"]
    ),
)
def test_who_has_enough_text_is_never_refused_by_the_size_of_the_files(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], how: str
) -> None:
    texts = [t for t in texts if is_text(t)] + ["the same beginning, and "] * 3
    folder = tmp_path_factory.mktemp("sizes")
    if how == "jsonl":
        lines = (json.dumps(row, ensure_ascii=len(texts) % 2 == 0) for row in rows(texts))
        (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    else:
        encoding = {"column_encoding": {"text": how}} if how.isupper() else {}
        dictionary = how == "dictionary"
        table = pa.Table.from_pylist(rows(texts))
        pq.write_table(table, folder / "a.parquet", use_dictionary=dictionary, **encoding)
    (file,) = files_of(str(folder))
    most = file.most_characters("text")
    assert (most is None) == (how == "DELTA_BYTE_ARRAY")
    assert most is None or sum(len(text) for text in set(texts)) <= most


def test_a_url_is_read_like_a_folder(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    lines = "\n".join(map(json.dumps, rows(TEXTS)))
    memory.pipe_file("/replay/a.jsonl", lines.encode())
    pq.write_table(pa.Table.from_pylist(rows(TEXTS)), tmp_path / "b.parquet")
    memory.pipe_file("/replay/b.parquet", (tmp_path / "b.parquet").read_bytes())
    files = files_of("memory://replay/*")
    assert [[row["text"] for row in file.rows("text")] for file in files] == [TEXTS, TEXTS]
    (tmp_path / "a.jsonl").write_text(lines)
    assert stage_of("memory://replay") == stage_of(tmp_path)
    with pytest.raises(UserError, match=r"replay: memory://nowhere: no such file"):
        stage_of("memory://nowhere")


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    def read() -> Iterator[dict[str, Any]]:
        return ({"text": f"{i} " * 2_000} for i in range(1_000))

    sample(read, 10, 0, "rows", tmp_path / "first.parquet")  # what is imported is no text
    tracemalloc.start()
    facts = sample(read, 10_000, 0, "rows", tmp_path / "documents.parquet")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert facts["rows"] == 1_000
    assert peak < 2_000_000, "all rows are some 8 MB"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("none.jsonl", "replay: .*none.jsonl: no such file"),
        ("x/*.jsonl", "no such file"),
        ("odd", r"has no .jsonl or .parquet file that holds anything"),
        ("nosuch://a/b", "replay: nosuch://a/b: cannot be read: Protocol not known"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, source: str, words: str) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a.csv").write_text("text")
    (tmp_path / "odd" / "empty.jsonl").touch()
    with pytest.raises(UserError, match=words):
        stage_of(source if "://" in source else tmp_path / source)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("x")
    with pytest.raises(UserError, match="a.parquet: is no Parquet file"):
        list(files_of(str(tmp_path / "a.parquet"))[0].rows("text"))
    pq.write_table(pa.table({"messages": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="has no column 'text'; it has messages"):
        list(files_of(str(tmp_path / "b.parquet"))[0].rows("text"))
    assert read_text({"text": "half \ud800"}) == ("", "no_text")
    assert read_text([]) == ("", "not_a_row")
