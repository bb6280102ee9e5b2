from __future__ import annotations

import builtins
import errno
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from msm_ray.errors import UserError
from msm_ray.storage import Storage, is_full

pytest_plugins = ["s3_server"]


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "local":
        yield Storage(str(tmp_path / "store"))
    elif request.param == "memory":
        yield Storage(f"memory://{uuid.uuid4().hex}/store")
    else:
        yield Storage(request.getfixturevalue("s3_bucket") + "/deep/store")


def test_files_are_written_read_listed_renamed_and_removed(storage: Storage) -> None:
    storage.write_bytes("a/b.txt", b"one")
    storage.write_bytes("a/b.txt", b"two")
    assert storage.read_bytes("a/b.txt") == b"two"
    storage.write_bytes("a/c/d.txt", b"three")
    assert storage.names("a") == ["b.txt", "c"]
    assert storage.sizes("a") == {"b.txt": 3, "c/d.txt": 5}
    storage.rename("a/b.txt", "a/e.txt")
    assert storage.names("a") == ["c", "e.txt"]
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("a/b.txt")
    with pytest.raises(FileNotFoundError):
        storage.rename("a/b.txt", "a/f.txt")
    storage.remove("a/c")
    storage.remove("a/never-there")
    assert storage.sizes("a") == {"e.txt": 3}
    assert storage.names("nothing") == []
    assert storage.sizes("nothing") == {}


def test_create_writes_once(storage: Storage) -> None:
    assert storage.create("x/one", b"first")
    assert not storage.create("x/one", b"second")
    assert storage.read_bytes("x/one") == b"first"
    assert storage.names("x") == ["one"]


def test_of_many_that_create_at_once_one_succeeds(storage: Storage) -> None:
    if storage.url.startswith("memory:"):
        pytest.skip("lives within one process and has no atomic create")
    for round in range(5):
        start, wins = threading.Barrier(8), []

        def create(me: int, name: str, start: threading.Barrier, wins: list[int]) -> None:
            start.wait()
            if storage.create(name, str(me).encode()):
                wins.append(me)

        threads = [
            threading.Thread(target=create, args=(me, f"r{round}", start, wins)) for me in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(wins) == 1
        assert storage.read_bytes(f"r{round}") == str(wins[0]).encode()


def test_trees_come_as_they_were(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    (source / "deep").mkdir(parents=True)
    (source / "a").write_bytes(b"1")
    (source / "deep" / "b").write_bytes(b"22")
    storage.put_tree("t/x", source, ["a", "deep/b"])
    assert storage.sizes("t/x") == {"a": 1, "deep/b": 2}
    assert not source.exists()
    storage.get_file("t/x/deep/b", tmp_path / "got" / "b")
    assert (tmp_path / "got" / "b").read_bytes() == b"22"


def test_names_stay_inside(storage: Storage) -> None:
    for name in ("", "../x", "a/../../x", "/etc/passwd"):
        with pytest.raises(AssertionError):
            storage.write_bytes(name, b"")


def test_opening_to_read_makes_nothing(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "nothing"), write=False)
    assert storage.names("artifacts") == []
    assert not (tmp_path / "nothing").exists()


def _refused(url: str) -> str:
    with pytest.raises(UserError) as caught:
        Storage(url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_place_that_cannot_be_a_store_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "a file in its way" in _refused(str(tmp_path / "file"))
    assert "a file in its way" in _refused(str(tmp_path / "file" / "store"))
    assert "cannot be written" in _refused("/proc/none/store")
    assert "unknown protocol 'nope'" in _refused("nope://bucket/x")
    assert "not a path" in _refused("")


def test_a_bucket_that_is_not_there_is_refused_in_one_line(s3_bucket: str) -> None:
    assert "cannot be" in _refused("s3://no-such-bucket-here/x")


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "gcsfs":
            raise ImportError("No module named 'gcsfs'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install gcsfs" in _refused("gs://bucket/x")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_what_the_disk_says_is_told_in_one_line_and_leaves_nothing(
    number: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path))

    def broken(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", broken)
    for write in (storage.write_bytes, storage.create):
        with pytest.raises(UserError, match=words):
            write("a/b", b"x")
    monkeypatch.undo()
    assert storage.sizes("a") == {}


def test_a_full_disk_is_seen_through_other_errors() -> None:
    assert is_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_full(OSError(errno.EIO, "broken"))
    outer = RuntimeError("cannot save")
    outer.__cause__ = OSError(errno.ENOSPC, "full")
    assert is_full(outer)
