"""What is remembered of a corpus: the same as plain Python remembers, in few bytes."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_ray.corpus import compact
from msm_ray.corpus.compact import BandIndex, Digests, Spool, Strings


def test_digests_are_numbered_as_they_come() -> None:
    """Past several doublings, and with digests that want the same place."""
    rng = random.Random(0)
    shared = rng.randbytes(8)
    digests = [rng.randbytes(16) for _ in range(3000)]
    digests += [shared + rng.randbytes(8) for _ in range(100)]
    table = Digests()
    assert [table.seen(digest) for digest in digests] == [None] * len(digests)
    assert [table.seen(digest) for digest in digests] == list(range(len(digests)))
    assert len(table) == len(digests)
    assert table.nbytes < 40 * len(digests)


@given(st.lists(st.text()), st.lists(st.text()))
def test_strings_are_a_list(texts: list[str], more: list[str]) -> None:
    strings = Strings()
    for text in [*texts, *more, "half \ud83d pair"]:
        strings.append(text)
    assert [strings[i] for i in range(len(strings))] == [*texts, *more, "half \ud83d pair"]


def test_strings_take_few_bytes() -> None:
    strings = Strings()
    for number in range(5000):
        strings.append(f"{number:024d}")
    assert strings.nbytes < 40 * 5000


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 700), st.integers(1, 4), st.data())
def test_bands_find_what_agrees_in_one(
    bands: int, rows: int, count: int, values: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    # one hash in the sketch is not looked at
    sketches = rng.integers(0, values, (count, bands * rows + 1), dtype=np.uint32)
    sketches[:, ::rows] = rng.integers(0, max(1, count // 3), sketches[:, ::rows].shape)
    index = BandIndex(bands, rows)
    parts = sketches[:, :-1].reshape(count, bands, rows)
    for number, sketch in enumerate(sketches):
        tags = index.tags(sketch)
        agree = (parts[:number] == parts[number]).all(axis=2).any(axis=1)
        assert index.find(tags) == np.flatnonzero(agree).tolist()
        index.add(tags)
    assert len(index) == count
    assert index.nbytes <= 12 * bands * max(256, 2 * count)


def test_tags_are_the_same_on_every_machine() -> None:
    tags = BandIndex(2, 3).tags(np.array([1, 2, 2**32 - 1, 0, 0, 7], np.uint32))
    assert tags == [3229380859, 850418054]


@pytest.mark.parametrize("waiting", [0, 100, 1 << 20])
def test_a_spool_gives_back_what_it_was_given(
    waiting: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "SPOOL_BYTES", waiting)
    rng = np.random.default_rng(1)
    arrays = [rng.integers(2**64, size=n % 23, dtype=np.uint64) for n in range(300)]
    spool = Spool(tmp_path)
    for number, values in enumerate(arrays):
        spool.append(values)
        assert (spool[number] == values).all()
        assert (spool[number // 2] == arrays[number // 2]).all()
    assert [spool.length(n) for n in range(len(spool))] == [len(values) for values in arrays]
    assert all((spool[n] == values).all() for n, values in enumerate(arrays))
    spool.close()


def test_a_spool_is_on_disk_and_its_file_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "SPOOL_BYTES", 1000)
    spool = Spool(tmp_path)
    for _ in range(1000):
        spool.append(np.arange(100, dtype=np.uint64))
    assert spool.nbytes < 20_000
    assert spool._file is not None
    number = spool._file.fileno()
    assert os.fstat(number).st_size == 800_000
    assert os.fstat(number).st_nlink == 0
    spool.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)


def test_a_small_spool_has_no_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "never")
    spool.append(np.arange(100, dtype=np.uint64))
    spool.close()
    assert not (tmp_path / "never").exists()
