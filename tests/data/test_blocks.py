from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from msm_ray.data import blocks as blocks_module
from msm_ray.data.blocks import BlockReader, write_blocks
from msm_ray.data.packing import BlockArrays
from msm_ray.errors import UserError


def some_blocks(n: int, block_tokens: int) -> BlockArrays:
    rng = np.random.default_rng(0)
    shape = (n, block_tokens)
    return BlockArrays(
        input_ids=rng.integers(0, 99, shape, dtype=np.int32),
        position_ids=rng.integers(0, 9, shape, dtype=np.int32),
        loss_mask=rng.integers(0, 2, shape, dtype=np.uint8),
        tokens=rng.integers(1, block_tokens, n, dtype=np.int32),
        sources=[[("a", f"d{i}"), ("b", f"e{i}")][: 1 + i % 2] for i in range(n)],
    )


def test_what_is_written_is_read_across_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks_module, "_ROWS_PER_BATCH", 4)
    blocks = some_blocks(11, 6)
    write_blocks(tmp_path, blocks, {"seed": 3})
    reader = BlockReader(tmp_path)
    assert (len(reader), reader.block_tokens, reader.manifest) == (11, 6, {"seed": 3})
    indices = np.array([10, 0, 4, 3, 4], dtype=np.int64)
    for name in ("input_ids", "position_ids", "loss_mask"):
        np.testing.assert_array_equal(reader.rows(name, indices), getattr(blocks, name)[indices])
    np.testing.assert_array_equal(reader.tokens, blocks.tokens)
    np.testing.assert_array_equal(reader.loss_tokens, blocks.loss_mask.sum(1))
    assert reader.sources(9) == [("a", "d9"), ("b", "e9")]
    assert reader.rows("input_ids", np.zeros(0, np.int64)).shape == (0, 6)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"blocks\.arrow is missing"):
        BlockReader(tmp_path)
    write_blocks(tmp_path, some_blocks(0, 6), {})
    with pytest.raises(UserError, match="the blocks are empty"):
        BlockReader(tmp_path)
