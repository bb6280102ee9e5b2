from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_ray.data.cache import CacheWriter, open_cache
from msm_ray.data.tokens import TokenizedDocuments, joined

ROW = st.tuples(st.text(max_size=5), st.lists(st.integers(0, 2**31 - 1), max_size=9))


def documents(rows: list[tuple[str, list[int]]]) -> TokenizedDocuments:
    tokens = [token for _, row in rows for token in row]
    return TokenizedDocuments(
        ids=tuple(name for name, _ in rows),
        tokens=np.array(tokens, dtype=np.int32),
        loss=np.array([token % 2 for token in tokens], dtype=np.uint8),
        offsets=np.cumsum([0, *(len(row) for _, row in rows)]).astype(np.int64),
    )


@settings(deadline=None)  # files, on a disk that others use
@given(batches=st.lists(st.lists(ROW, max_size=5), max_size=4))
def test_what_is_added_is_read(batches: list[list[tuple[str, list[int]]]]) -> None:
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "tokens"
        parts = [documents(rows) for rows in batches]
        with CacheWriter(folder) as writer:
            for part in parts:
                writer.add(part)
            assert len(writer) == sum(map(len, parts))
            writer.finish({"refused": 3})
        found = open_cache(folder)
        assert found is not None
        docs, facts = found
        whole = joined(parts)
        assert facts == {"refused": 3}
        assert tuple(docs.ids) == whole.ids
        for name in ("tokens", "loss", "offsets"):
            np.testing.assert_array_equal(getattr(docs, name), getattr(whole, name))
            assert getattr(docs, name).dtype == getattr(whole, name).dtype


def test_a_cache_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    assert open_cache(tmp_path / "none") is None
    with CacheWriter(tmp_path / "a") as writer:
        writer.add(documents([("é", [1, 2, 3])]))
    assert open_cache(tmp_path / "a") is None
    with CacheWriter(tmp_path / "a") as writer:  # begins anew
        writer.add(documents([("b", [4])]))
        writer.finish({})
    found = open_cache(tmp_path / "a")
    assert found is not None
    assert (list(found[0].ids), found[0].ids[-1], found[0].tokens.tolist()) == (["b"], "b", [4])
