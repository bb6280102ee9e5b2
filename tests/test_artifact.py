from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest

from msm_ray import artifact as artifact_module
from msm_ray.artifact import DamagedArtifact, MissingArtifact, Record, Store
from msm_ray.errors import UserError
from msm_ray.storage import Storage

pytest_plugins = ["s3_server"]

ID = "0123456789abcdef01234567"


@pytest.fixture(params=["local", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    urls = {"local": str(tmp_path / "store"), "memory": f"memory://{uuid.uuid4().hex}/store"}
    if request.param == "s3":
        urls["s3"] = request.getfixturevalue("s3_bucket") + "/store"
    return Store(urls[request.param], cache=tmp_path / "cache")


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def record(id: str = ID, **facts: Any) -> Record:
    return Record(id, "kind", "label", "1", {"a": [1, 2.0]}, {"x": "feed"}, facts=facts)


def fill(directory: Path, text: str = "hello") -> Path:
    (directory / "deep").mkdir(parents=True)
    (directory / "a.txt").write_text(text)
    (directory / "deep" / "b.bin").write_bytes(text.encode() * 1000)
    return directory


def forget() -> None:
    """As a new process would: nothing is verified yet."""
    artifact_module._verified.clear()


def data_file(store: Store, name: str = "a.txt") -> Path:
    found = store.get(ID)
    assert found is not None
    return Path(store.url) / "artifacts" / ID / found.attempt / name


def test_what_was_committed_is_read_back(store: Store, tmp_path: Path) -> None:
    assert store.get(ID) is None
    assert store.ids() == []
    committed = store.commit(record(loss=1.5), fill(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert [(file.path, file.size) for file in committed.files] == [
        ("a.txt", 5),
        ("deep/b.bin", 5000),
    ]
    assert committed.bytes == 5005
    forget()
    again = Store(store.url, cache=tmp_path / "another")
    assert again.get(ID) == committed
    assert again.get(ID).facts == {"loss": 1.5}  # type: ignore[union-attr]
    assert again.ids() == [ID]
    directory = again.fetch(ID)
    assert (directory / "a.txt").read_text() == "hello"
    assert (directory / "deep" / "b.bin").stat().st_size == 5000
    assert again.fetch(ID) == directory
    assert again.verify(ID) == committed


def test_the_first_commit_stays_and_the_other_leaves_nothing(store: Store, tmp_path: Path) -> None:
    first = store.commit(record(), fill(tmp_path / "one", "first"))
    second = store.commit(record(), fill(tmp_path / "two", "second"))
    assert second == first
    assert (store.fetch(ID) / "a.txt").read_text() == "first"
    assert store.names(f"artifacts/{ID}") == sorted([first.attempt, "record.json"])


def test_commits_at_once_leave_one_whole_artifact(store: Store, tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(4)]
    directories = [fill(tmp_path / f"out{i}", text) for i, text in enumerate(texts)]
    start, seen = threading.Barrier(4), []

    def commit(directory: Path) -> None:
        start.wait()
        seen.append(store.commit(record(), directory))

    threads = [threading.Thread(target=commit, args=(d,)) for d in directories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if store.url.startswith("memory:"):
        seen = [store.get(ID)] * 4  # has no atomic create: the last one stays
    forget()
    assert seen == [store.get(ID)] * 4
    directory = store.fetch(ID)
    text = (directory / "a.txt").read_text()
    assert text in texts
    assert (directory / "deep" / "b.bin").read_bytes() == text.encode() * 1000


def test_no_such_artifact(store: Store) -> None:
    with pytest.raises(MissingArtifact, match=f"no artifact {ID}"):
        store.fetch(ID)
    with pytest.raises(MissingArtifact):
        store.verify(ID)
    assert not store.set_aside(ID)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (flip, "does not match its sha256"),
        (lambda path: os.truncate(path, 3), "has 3 bytes instead of 5000"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_damage_is_found_named_and_set_aside(
    damage: Any, what: str, local: Store, tmp_path: Path
) -> None:
    first = local.commit(record(), fill(tmp_path / "out"))
    damage(data_file(local, "deep/b.bin"))
    forget()
    with pytest.raises(DamagedArtifact, match=f"damaged: deep/b.bin in {ID} {what}") as caught:
        local.fetch(ID)
    assert (caught.value.id, caught.value.file) == (ID, "deep/b.bin")
    assert local.get(ID) is None
    assert any(n.startswith("record.damaged-") for n in local.names(f"artifacts/{ID}"))
    # and made again
    second = local.commit(record(), fill(tmp_path / "again"))
    assert second.attempt != first.attempt
    assert second.files == first.files
    assert (local.fetch(ID) / "a.txt").read_text() == "hello"
    assert first.attempt not in local.names(f"artifacts/{ID}")


def test_damage_in_a_remote_store_is_found(s3_bucket: str, tmp_path: Path) -> None:
    store = Store(f"{s3_bucket}/store", cache=tmp_path / "one")
    committed = store.commit(record(), fill(tmp_path / "out"))
    name = f"artifacts/{ID}/{committed.attempt}/a.txt"
    Storage(store.url).write_bytes(name, b"hullo")
    other = Store(store.url, cache=tmp_path / "two")
    with pytest.raises(DamagedArtifact, match=r"a\.txt"):
        other.fetch(ID)
    assert store.get(ID) is None
    committed = store.commit(record(), fill(tmp_path / "out2"))
    Storage(store.url).remove(f"artifacts/{ID}/{committed.attempt}/a.txt")
    with pytest.raises(DamagedArtifact, match="is missing"):
        other.check(committed)


def test_a_bad_local_copy_is_fetched_again(s3_bucket: str, tmp_path: Path) -> None:
    store = Store(f"{s3_bucket}/store", cache=tmp_path / "cache")
    store.commit(record(), fill(tmp_path / "out"))
    directory = store.fetch(ID)
    flip(directory / "a.txt")
    forget()
    assert (store.fetch(ID) / "a.txt").read_text() == "hello"
    flip(directory / "a.txt")
    store.verify(ID)
    assert (store.fetch(ID) / "a.txt").read_text() == "hello"


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"id": "x", "record_sha256": "0"}', None],
)
def test_a_damaged_record_is_set_aside(data: bytes | None, store: Store, tmp_path: Path) -> None:
    store.commit(record(loss=1.25), fill(tmp_path / "out"))
    name = f"artifacts/{ID}/record.json"
    if data is None:  # a changed number in valid JSON
        data = store.read_bytes(name).replace(b"1.25", b"1.35")
    store.write_bytes(name, data)
    assert store.ids() == [ID]
    with pytest.raises(DamagedArtifact, match=r"record.json") as caught:
        store.get(ID)
    assert "\n" not in str(caught.value)
    assert store.get(ID) is None


def test_a_record_under_another_name_is_damage(local: Store, tmp_path: Path) -> None:
    local.commit(record(), fill(tmp_path / "out"))
    local.write_bytes("artifacts/beef/record.json", local.read_bytes(f"artifacts/{ID}/record.json"))
    with pytest.raises(DamagedArtifact, match="is the record of"):
        local.get("beef")


def test_set_aside_spares_a_newer_attempt(local: Store, tmp_path: Path) -> None:
    committed = local.commit(record(), fill(tmp_path / "out"))
    assert not local.set_aside(ID, "an-older-attempt")
    assert local.get(ID) == committed
    assert local.set_aside(ID, committed.attempt)
    assert local.get(ID) is None


def test_files_are_hashed_once_per_process(
    local: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.commit(record(), fill(tmp_path / "out"))
    forget()
    count = []
    real = artifact_module.file_sha256
    monkeypatch.setattr(artifact_module, "file_sha256", lambda p: count.append(p) or real(p))
    local.fetch(ID)
    assert len(count) == 2
    local.fetch(ID)
    Store(local.url).fetch(ID)
    assert len(count) == 2
    local.verify(ID)
    assert len(count) == 4


def test_large_files_are_not_hashed_by_the_cheap_check(
    local: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = local.commit(record(), fill(tmp_path / "out"))
    flip(data_file(local, "deep/b.bin"))
    forget()
    monkeypatch.setattr(artifact_module, "SMALL_FILE_BYTES", 1000)
    local.check(committed)
    with pytest.raises(DamagedArtifact):
        local.fetch(ID)


def test_links_become_files_and_links_to_directories_are_refused(
    local: Store, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").write_text("text")
    out = fill(tmp_path / "out")
    (out / "link").symlink_to(tmp_path / "elsewhere")
    local.commit(record(), out)
    (tmp_path / "elsewhere").unlink()
    assert (local.fetch(ID) / "link").read_text() == "text"
    out = fill(tmp_path / "other")
    (out / "folder").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="link to a directory"):
        local.commit(record("abcd"), out)
    assert local.get("abcd") is None


@pytest.mark.parametrize("step", ["put_tree", "create"])
def test_a_store_that_fills_up_shows_nothing(
    step: str, local: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Storage, *args: Any) -> None:
        raise UserError("store is full")

    monkeypatch.setattr(Storage, step, full)
    with pytest.raises(UserError, match="full"):
        local.commit(record(), fill(tmp_path / "out"))
    monkeypatch.undo()
    assert local.get(ID) is None
    assert local.ids() == []
    assert local.names(f"artifacts/{ID}") == []


FULL = """
import sys
from pathlib import Path
from msm_ray.artifact import Record, Store
from msm_ray.errors import UserError
store = Store(sys.argv[1])
out = store.work_dir("x") / "out"
out.mkdir()
(out / "small").write_bytes(b"1" * 1000)
store.commit(Record("aa", "k", "", "1", {}, {}), out)
try:
    store.write_bytes("runs/x/report.html", b"1" * 3 * 2**20)
except UserError as error:
    print(error)
Path(sys.argv[2]).mkdir()
(Path(sys.argv[2]) / "big").write_bytes(b"1" * 3 * 2**20)
try:
    store.commit(Record("bb", "k", "", "1", {}, {}), Path(sys.argv[2]))
except UserError as error:
    print(error)
print(store.ids(), store.get("bb"), store.names("runs/x"), store.names("artifacts/bb"))
store.verify("aa")
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    space = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*space, "true"]).returncode != 0:
        pytest.skip("this machine does not let a test mount a small disk")
    script = 'mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@"'
    command = [sys.executable, "-c", FULL, str(disk / "store"), str(tmp_path / "out")]
    ran = subprocess.run(
        [*space, "sh", "-c", script, str(disk), *command], capture_output=True, text=True
    )
    if "mount:" in ran.stderr:
        pytest.skip("this machine does not let a test mount a small disk")
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert [line.count("is full; free some space") for line in lines] == [1, 1, 0]
    assert lines[2] == "['aa'] None [] []"


def test_files_are_as_readable_as_the_umask_says(local: Store, tmp_path: Path) -> None:
    out = fill(tmp_path / "out")
    (out / "private").mkdir(mode=0o700)
    (out / "private" / "model.safetensors").write_bytes(b"weights")
    for path in out.rglob("*"):
        if path.is_file():
            path.chmod(0o600)  # as safetensors leaves what it wrote
    before = os.umask(0o027)
    try:
        committed = local.commit(record(), out)
    finally:
        os.umask(before)
    top = Path(local.url) / "artifacts" / ID / committed.attempt
    files = {oct(p.stat().st_mode & 0o777) for p in top.rglob("*") if p.is_file()}
    assert files == {"0o640"}
    assert oct((top / "private").stat().st_mode & 0o777) == "0o750"
    assert sorted(f.path for f in committed.files) == sorted(
        p.relative_to(top).as_posix() for p in top.rglob("*") if p.is_file()
    )


def test_a_store_that_only_looks_sets_nothing_aside(local: Store, tmp_path: Path) -> None:
    committed = local.commit(record(), fill(tmp_path / "out"))
    (Path(local.url) / "artifacts" / ID / committed.attempt / "a.txt").unlink()
    looking = Store(local.url, create=False)
    for _ in range(2):
        with pytest.raises(DamagedArtifact, match=r"is missing; a run sets it aside and makes"):
            looking.verify(ID)
    assert looking.ids() == [ID]
    assert looking.ids_aside() == []
    with pytest.raises(DamagedArtifact, match="is missing; set aside"):
        Store(local.url).verify(ID)
    assert looking.ids_aside() == [ID]


def test_gc_removes_what_nothing_points_to(store: Store, tmp_path: Path) -> None:
    committed = store.commit(record(), fill(tmp_path / "out"))
    store.write_bytes(f"artifacts/{ID}/20200101T000000-aaaa/x", b"an attempt that was killed")
    store.write_bytes("artifacts/dead/20200101T000000-aaaa/x", b"an old attempt")
    store.write_bytes("artifacts/live/29990101T000000-aaaa/x", b"an attempt under way")
    (store.work_dir("old") / "file").write_text("x")
    assert store.gc(grace_seconds=3600) == [
        f"artifacts/{ID}/20200101T000000-aaaa",
        "artifacts/dead/20200101T000000-aaaa",
    ]
    assert store.get(ID) == committed
    assert store.names("artifacts/live") == ["29990101T000000-aaaa"]
    assert store.gc(grace_seconds=-1)[-1] == "work/old"
    store.verify(ID)


def test_reports_are_written_and_read(store: Store) -> None:
    url = store.write_json("runs/r/report.json", {"a": [1, 2.5, "é"]})
    assert url == f"{store.url}/runs/r/report.json"
    assert store.read_json("runs/r/report.json") == {"a": [1, 2.5, "é"]}
    with pytest.raises(ValueError, match="JSON"):
        store.write_json("runs/r/report.json", {"a": float("nan")})
    assert store.read_json("runs/r/report.json")["a"][0] == 1
    store.write_bytes("runs/r/broken.json", b"{")
    with pytest.raises(UserError, match=r"broken.json is not valid JSON"):
        store.read_json("runs/r/broken.json")
    with pytest.raises(FileNotFoundError):
        store.read_json("runs/r/none.json")
    assert store.names("runs") == ["r"]


def test_looking_makes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "none", create=False)
    assert store.get(ID) is None
    assert store.ids() == []
    assert not (tmp_path / "none").exists()


def test_a_relative_store_is_the_same_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("./here").url == str(tmp_path / "here") == Store(f"file://{tmp_path}/here").url


def test_records_are_plain_json(local: Store, tmp_path: Path) -> None:
    local.commit(record(rate=0.5), fill(tmp_path / "out"))
    value = json.loads((Path(local.url) / "artifacts" / ID / "record.json").read_text())
    assert value["facts"] == {"rate": 0.5}
    assert value["files"][0]["path"] == "a.txt"
    assert value["inputs"] == {"x": "feed"}
    with pytest.raises(UserError, match="loss"):
        local.commit(record("ef", loss=float("nan")), fill(tmp_path / "out2"))
