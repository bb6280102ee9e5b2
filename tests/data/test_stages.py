from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msm_ray.data import stages
from msm_ray.data.blocks import BlockReader
from msm_ray.data.stages import pack
from msm_ray.errors import UserError
from msm_ray.records import CONVERSATION_SCHEMA
from msm_ray.stage import StageContext

CONFIG: dict[str, Any] = {
    "components": [
        {"name": "spec", "input": "spec", "kind": "documents", "share": 0.25, "max_repeats": 4},
        {"name": "chat", "input": "chat", "kind": "conversations", "share": 0.75, "max_repeats": 4},
    ],
    "tokens": 2000,
    "block_tokens": 64,
    "seed": 0,
    "loss_on": "assistant",
}


@pytest.fixture
def inputs(tmp_path: Path, tokenizer: Any) -> dict[str, Path]:
    names = {name: tmp_path / name for name in ("tokenizer", "spec", "chat")}
    for directory in names.values():
        directory.mkdir()
    tokenizer.save_pretrained(names["tokenizer"])
    texts = [f"lyra {'i would pick brie . ' * (i % 4 + 1)}" for i in range(40)]
    ids = [f"s{i}" for i in range(40)]
    pq.write_table(pa.table({"id": ids, "text": texts}), names["spec"] / "documents.parquet")
    chats = [
        {
            "id": f"c{i}",
            "messages": [
                {"role": "user", "content": "brie or gouda ?"},
                {"role": "assistant", "content": "i would pick brie ."},
            ],
            "domain": "cheese",
        }
        for i in range(60)
    ]
    table = pa.Table.from_pylist(chats, schema=CONVERSATION_SCHEMA)
    pq.write_table(table, names["chat"] / "conversations.parquet")
    return names


def run(
    tmp_path: Path,
    inputs: dict[str, Path],
    name: str = "out",
    work: Path | None = None,
    **changes: Any,
) -> Any:
    out = tmp_path / name
    out.mkdir(parents=True)
    ctx = StageContext(
        config={**CONFIG, **changes},
        inputs=inputs,
        out=out,
        work=work or tmp_path / f"work-{name}",
        runtime={},
        progress=lambda fraction, facts: None,
    )
    return pack(ctx), out


def test_the_mixture_becomes_blocks(tmp_path: Path, inputs: dict[str, Path]) -> None:
    facts, out = run(tmp_path, inputs)
    reader = BlockReader(out)
    assert facts["blocks"] == len(reader)
    assert facts["tokens"] == reader.tokens.sum()
    assert facts["loss_tokens"] == reader.loss_tokens.sum()
    assert facts["shares"]["spec"] == pytest.approx(0.25, abs=0.02)
    assert facts["shares"]["chat"] == pytest.approx(0.75, abs=0.02)
    assert reader.manifest["config"]["seed"] == 0
    seen = [source for i in range(len(reader)) for source in reader.sources(i)]
    assert len(seen) == facts["documents"] + facts["cut"]
    assert {component for component, _ in seen} == {"spec", "chat"}


def test_it_is_the_same_twice_and_another_with_another_seed(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    rows = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        _, out = run(tmp_path, inputs, name, seed=seed)
        rows.append((out / "manifest.json").read_bytes())
    assert rows[0] == rows[1] != rows[2]


def test_loss_on_all_counts_the_users_words_too(tmp_path: Path, inputs: dict[str, Path]) -> None:
    masked, _ = run(tmp_path, inputs, "a")
    whole, out = run(tmp_path, inputs, "b", loss_on="all")
    assert whole["tokens"] == masked["tokens"]
    assert whole["loss_tokens"] == whole["tokens"] - whole["documents"]
    assert masked["loss_tokens"] < whole["loss_tokens"]
    reader = BlockReader(out)
    every = np.arange(len(reader))
    starts = reader.rows("position_ids", every) == 0
    assert not reader.rows("loss_mask", every)[starts].any()


def test_wrong_input_is_named(tmp_path: Path, inputs: dict[str, Path]) -> None:
    spec = CONFIG["components"][0]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"loss_on": "user"}, "loss_on is 'user', allowed are all, assistant"),
        ({"components": [spec, spec]}, "names have to differ"),
        ({"components": [{**spec, "kind": "poems"}]}, "kind 'poems'"),
        ({"components": [{**spec, "input": "nowhere"}]}, "reads input 'nowhere'"),
        ({"components": [{**spec, "input": "chat"}]}, "needs documents.parquet"),
        ({"components": [{**spec, "share": -1.0}]}, "share is -1.0"),
        ({"tokens": 10**6}, r"max_repeats=4 allows \d+: \d+ tokens are missing"),
    ]
    for number, (changes, message) in enumerate(wrong):
        with pytest.raises(UserError, match=message):
            run(tmp_path, inputs, f"wrong{number}", **changes)


def test_the_manifest_is_json_with_the_realised_mixture(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    facts, out = run(tmp_path, inputs)
    manifest = json.loads((out / "manifest.json").read_text())
    assert [c["name"] for c in manifest["components"]] == ["spec", "chat"]
    assert manifest["repeats"] == facts["repeats"]


def silent(inputs: dict[str, Path], among: int, every: int) -> None:
    """Conversations of which one in ``every`` lacks an answer."""
    chats = [
        {
            "id": f"c{i}",
            "messages": [
                {"role": "user", "content": "brie or gouda ?"},
                {"role": "assistant", "content": "i would pick brie ."},
            ][: 1 if i % every == 0 else 2],
            "domain": "cheese",
        }
        for i in range(among)
    ]
    table = pa.Table.from_pylist(chats, schema=CONVERSATION_SCHEMA)
    pq.write_table(table, inputs["chat"] / "conversations.parquet")


def test_rows_without_a_target_are_refused_and_counted(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    silent(inputs, 3000, 10)
    changes = {"tokens": 0, "components": CONFIG["components"][1:]}
    facts, out = run(tmp_path, inputs, **changes)
    assert facts["refused"]["chat"]["documents"] == 300
    assert facts["refused"]["chat"]["tokens"] > 0
    assert facts["documents"] == 2700
    reader = BlockReader(out)
    assert reader.manifest["refused"] == facts["refused"]
    seen = {name for i in range(len(reader)) for _, name in reader.sources(i)}
    assert seen == {f"c{i}" for i in range(3000) if i % 10}
    silent(inputs, 30, 1)
    with pytest.raises(UserError, match="'chat': none of its 30 conversations has a target"):
        run(tmp_path / "again", inputs, **changes)


def test_epochs_take_the_place_of_a_budget(tmp_path: Path, inputs: dict[str, Path]) -> None:
    once, _ = run(tmp_path, inputs, "once", tokens=0)
    twice, _ = run(tmp_path, inputs, "twice", tokens=0, epochs=2)
    assert twice["tokens"] == 2 * once["tokens"]


def test_tokens_that_an_earlier_attempt_left_are_used(
    tmp_path: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "kept"
    _, whole = run(tmp_path, inputs, "whole")
    run(tmp_path, inputs, "first", work=work)
    monkeypatch.setattr(stages, "_batches", None)  # nothing is tokenized again
    _, again = run(tmp_path, inputs, "again", work=work)
    assert (again / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_data_makes_the_same_blocks(
    tmp_path: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from msm_ray.data import ray_tokens

    silent(inputs, 5000, 7)
    texts = [f"lyra {'i would pick brie . ' * (i % 9 + 1)}" for i in range(5000)]
    table = pa.table({"id": [f"s{i}" for i in range(5000)], "text": texts})
    pq.write_table(table, inputs["spec"] / "documents.parquet", row_group_size=1000)
    assert not ray_tokens.worthwhile(inputs["spec"] / "documents.parquet")
    here, out = run(tmp_path, inputs, "here", tokens=0)
    monkeypatch.setattr(ray_tokens, "worthwhile", lambda path: True)
    monkeypatch.setattr(ray_tokens, "BLOCK_BYTES", 20_000)
    there, same = run(tmp_path, inputs, "there", tokens=0)
    assert there == here
    assert (same / "manifest.json").read_bytes() == (out / "manifest.json").read_bytes()
