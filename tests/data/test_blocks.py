from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from msm_ray.data import blocks as blocks_module
from msm_ray.data.blocks import BlockReader, BlockWriter, write_blocks
from msm_ray.data.packing import BlockArrays
from msm_ray.errors import UserError


def some_blocks(n: int, block_tokens: int, seed: int = 0) -> BlockArrays:
    rng = np.random.default_rng(seed)
    shape = (n, block_tokens)
    return BlockArrays(
        input_ids=rng.integers(0, 99, shape, dtype=np.int32),
        position_ids=rng.integers(0, 9, shape, dtype=np.int32),
        loss_mask=rng.integers(0, 2, shape, dtype=np.uint8),
        tokens=rng.integers(1, block_tokens, n, dtype=np.int32),
        sources=[[("a", f"d{i}"), ("b", f"e{i}")][: 1 + i % 2] for i in range(n)],
    )


def test_what_is_written_is_read_across_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks_module, "SHARD_BLOCKS", 4)
    monkeypatch.setattr(blocks_module, "OPEN_SHARDS", 2)
    blocks = some_blocks(11, 6)
    write_blocks(tmp_path, blocks, {"seed": 3})
    reader = BlockReader(tmp_path, verify=True)
    assert (len(reader), reader.block_tokens, reader.manifest["seed"]) == (11, 6, 3)
    assert [shard["blocks"] for shard in reader.manifest["shards"]] == [4, 4, 3]
    indices = np.array([10, 0, 4, 3, 4, 8, 7], dtype=np.int64)
    for name in ("input_ids", "position_ids", "loss_mask"):
        rows = reader.rows(name, indices)
        np.testing.assert_array_equal(rows, getattr(blocks, name)[indices])
        assert rows.dtype == getattr(blocks, name).dtype
    np.testing.assert_array_equal(reader.tokens, blocks.tokens)
    np.testing.assert_array_equal(reader.loss_tokens, blocks.loss_mask.sum(1))
    assert reader.sources(9) == [("a", "d9"), ("b", "e9")]
    assert reader.sources(0) == [("a", "d0")]
    assert reader.rows("input_ids", np.zeros(0, np.int64)).shape == (0, 6)
    for wrong in (-1, 11):
        with pytest.raises(IndexError, match=f"block {wrong} of 11"):
            reader.rows("input_ids", np.array([wrong]))


def test_the_manifest_counts_what_is_there(tmp_path: Path) -> None:
    writer = BlockWriter(tmp_path, 6)
    parts = [some_blocks(5, 6), some_blocks(0, 6), some_blocks(2, 6, seed=1)]
    for part in parts:
        writer.add(part)
    assert not (tmp_path / "manifest.json").exists()  # last of all
    writer.finish({})
    reader = BlockReader(tmp_path)
    assert reader.windows == [5, 0, 2]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["tokens"] == sum(int(part.tokens.sum()) for part in parts)
    assert manifest["loss_tokens"] == reader.loss_tokens.sum()
    np.testing.assert_array_equal(reader.rows("input_ids", np.array([6]))[0], parts[2].input_ids[1])


def test_the_hash_of_the_manifest_stands_for_all_bytes(tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        write_blocks(tmp_path / name, some_blocks(7, 6, seed), {})
        hashes.append(BlockReader(tmp_path / name).manifest_sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_damage_is_found(tmp_path: Path) -> None:
    write_blocks(tmp_path, some_blocks(50, 64), {})
    shard = tmp_path / "shard-00000.arrow"
    whole = shard.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    shard.write_bytes(flipped)
    BlockReader(tmp_path)  # of the right size
    with pytest.raises(UserError, match=r"shard-00000\.arrow: damaged, its sha256"):
        BlockReader(tmp_path, verify=True)
    shard.write_bytes(whole[:-8])
    with pytest.raises(UserError, match=r"shard-00000\.arrow: damaged, \d+ bytes where"):
        BlockReader(tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match="is missing"):
        BlockReader(tmp_path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        BlockReader(tmp_path)
    write_blocks(tmp_path, some_blocks(0, 6), {})
    with pytest.raises(UserError, match="the blocks are empty"):
        BlockReader(tmp_path)
    (tmp_path / "manifest.json").write_text('{"blocks": 3}')
    with pytest.raises(UserError, match="of format None, this version reads 2"):
        BlockReader(tmp_path)
