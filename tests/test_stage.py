from __future__ import annotations

import copy
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import stage_samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stage_samples import graph, stage

from msm_ray import artifact as artifact_module
from msm_ray import stage as stage_module
from msm_ray.artifact import DamagedArtifact, Record, Store
from msm_ray.claims import Claims
from msm_ray.errors import UnusablePlace, UserError
from msm_ray.stage import LocalLauncher, Stage, StageFailed, run_dag, run_stage, scan, topological

pytest_plugins = ["s3_server"]

# The machine may be busy: what counts is the result.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Told:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.cached: list[str] = []
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.others: list[str] = []
        self.errors: list[str] = []
        self.notes: list[str] = []
        self.fractions: list[float] = []
        self.at_once = 0
        self.over = 0

    def plan(self, stages: Sequence[Stage], cached: Iterable[str]) -> None:
        labels = {s.id: s.label for s in stages}
        self.cached = [labels[id] for id in cached]

    def started(self, stage: Stage) -> None:
        self.begun.append(stage.label)
        running = len(self.begun) - len(self.ended) - len(self.errors)
        self.at_once = max(self.at_once, running)

    def progress(self, stage_id: str, fraction: float, facts: Mapping[str, Any]) -> None:
        self.fractions.append(fraction)

    def finished(self, stage: Stage, record: Record) -> None:
        self.ended.append(stage.label)

    def found(self, stage: Stage, record: Record) -> None:
        self.others.append(stage.label)

    def failed(self, stage: Stage, error: BaseException) -> None:
        self.errors.append(stage.label)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def done(self) -> None:
        self.over += 1


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def run(targets: list[Stage], store: Store, cpus: float = 2) -> tuple[dict[str, Record], Told]:
    told = Told()
    records = run_dag(targets, store, LocalLauncher(told.progress), told, cpus=cpus)
    assert told.over == 1
    assert store.names("claims") == []
    return records, told


def forget() -> None:
    """As a new process would: nothing is verified yet."""
    artifact_module._verified.clear()


# ---- identity ----------------------------------------------------------------------------------


def test_identity_is_kind_version_config_and_inputs() -> None:
    a = Stage("k", "1", {"x": 1}, {}, "m:f")
    same = Stage("k", "1", {"x": 1}, {}, "other:g", "label", {"cpus": 3}, {"seconds": 9.0})
    assert a.id == same.id
    assert len(a.id) >= 16
    assert set(a.id) <= set("0123456789abcdef")
    others = [
        Stage("k2", "1", {"x": 1}, {}, "m:f"),
        Stage("k", "2", {"x": 1}, {}, "m:f"),
        Stage("k", "1", {"x": 1.0}, {}, "m:f"),
        Stage("k", "1", {"x": 1}, {"a": a}, "m:f"),
        Stage("k", "1", {"x": 1}, {"b": a}, "m:f"),
        Stage("k", "1", {"x": 1}, {"a": Stage("k", "1", {"x": 2}, {}, "m:f")}, "m:f"),
    ]
    assert len({a.id, *(other.id for other in others)}) == 7


@patient
@given(st.dictionaries(st.text(max_size=5), st.integers() | st.booleans(), max_size=5))
def test_ids_survive_copies_and_the_order_of_keys(config: dict[str, Any]) -> None:
    one = Stage("k", "1", config, {}, "m:f")
    other = Stage("k", "1", dict(reversed(config.items())), {}, "m:f")
    assert one.id == other.id == pickle.loads(pickle.dumps(one)).id


def test_a_config_changed_later_changes_nothing() -> None:
    config = {"list": [1, 2], "pair": (3, 4)}
    made = Stage("k", "1", config, {}, "m:f")
    config["list"].append(3)  # type: ignore[attr-defined]
    assert made.config == {"list": [1, 2], "pair": [3, 4]}


@pytest.mark.parametrize("value", [float("nan"), {1}, Path("x"), object()])
def test_a_config_without_stable_form_is_refused(value: Any) -> None:
    with pytest.raises(UserError, match=r"k config\.a\.b"):
        Stage("k", "1", {"a": {"b": value}}, {}, "m:f")


@pytest.mark.parametrize("name", ["", "module", "module:", ":f", "module:not a name"])
def test_a_function_is_named_by_module_and_name(name: str) -> None:
    with pytest.raises(UserError, match=r"package\.module:function"):
        Stage("k", "1", {}, {}, name)


def test_topological_order_is_stable_and_has_each_id_once() -> None:
    order = [s.label for s in topological(graph("log"))]
    assert order == [s.label for s in topological(graph("log"))]
    assert sorted(order) == sorted({"s0", "s1", "s2", "p0", "p1", "p2", "e0", "e1", "e2", "join"})
    for made in topological(graph("log")):
        for of in made.inputs.values():
            assert order.index(of.label) < order.index(made.label)
    chain = stage("0")
    for i in range(3000):  # deeper than Python's stack
        chain = stage(str(i + 1), {"a": chain})
    assert len(topological([chain])) == 3001


# ---- running -----------------------------------------------------------------------------------


def test_what_is_missing_runs_once_and_nothing_the_second_time(
    store: Store, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    targets = graph(str(log), seconds=0.02)
    records, told = run(targets, store)
    order = [s.label for s in topological(targets)]
    assert sorted(told.begun) == sorted(told.ended) == sorted(order)
    assert list(records) == [s.id for s in topological(targets)]
    assert told.at_once == 2
    assert max(told.fractions) == 1.0
    again, told = run(targets, store)
    assert again == records
    assert (told.begun, told.cached) == ([], order)
    assert sorted(log.read_text().split()) == sorted(order)
    assert os.listdir(Path(store.url) / "work") == []


def test_a_graph_runs_on_an_object_store(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where copies of remote artifacts lie
    monkeypatch.setattr(stage_module, "REMOTE_POLL_SECONDS", 0.1)
    store = Store(f"{s3_bucket}/store")
    targets = graph(str(tmp_path / "log"))
    records, told = run(targets, store)
    assert len(told.ended) == 10
    expected, _ = run(targets, Store(tmp_path / "local"))
    assert {id: r.files for id, r in records.items()} == {id: r.files for id, r in expected.items()}
    again, told = run(targets, Store(store.url))
    assert (again, told.begun) == (records, [])


def test_only_what_follows_a_change_is_made(store: Store, tmp_path: Path) -> None:
    run(graph(str(tmp_path / "log")), store)
    targets = graph(str(tmp_path / "log"))
    inputs = dict(targets[0].inputs)
    inputs["e0"] = stage("e0, other", inputs["e0"].inputs)
    _, told = run([stage("join", inputs)], store)
    assert told.begun == ["e0, other", "join"]


def test_what_targets_do_not_need_is_not_made_again(store: Store, tmp_path: Path) -> None:
    targets = graph(str(tmp_path / "log"))
    run(targets, store)
    source = topological(targets)[0]
    store.set_aside(source.id)
    records, told = run(targets, store)
    assert told.begun == []
    assert source.id not in records


def test_nothing_missing_needs_no_launcher(store: Store, tmp_path: Path) -> None:
    targets = graph(str(tmp_path / "log"))
    run(targets, store)
    found = scan(topological(targets), store)
    assert found.missing(targets) == []
    assert len(run_dag(targets, store, None, Told(), found=found)) == 10


def test_config_arrives_as_json_and_facts_in_the_record(store: Store) -> None:
    records, _ = run([stage("x")], store)
    record = next(iter(records.values()))
    assert record.facts["steps_resumed"] == 0
    assert record.provenance["run"] == "stage_samples:digest"
    assert record.config == {"label": "x"}
    assert record.seconds > 0


class Counting:
    """A launcher that knows how many CPUs its stages take together, at most."""

    def __init__(self) -> None:
        self.now, self.most, self.order = 0.0, 0.0, []
        self.lock = threading.Lock()

    def submit(self, stage: Stage, store_url: str) -> Future[Record]:
        future = LocalLauncher().submit(stage, store_url)
        with self.lock:
            self.order.append(stage.label)
            self.now += stage.runtime.get("cpus", 1.0)
            self.most = max(self.most, self.now)

        def ended(_: Future[Record]) -> None:
            with self.lock:
                self.now -= stage.runtime.get("cpus", 1.0)

        future.add_done_callback(ended)
        return future

    def cancel(self) -> None:
        pass


def test_stages_share_the_cpus_and_a_wide_one_runs_alone(store: Store) -> None:
    wide = stage("wide", cpus=99, seconds=0.05)
    halves = [stage(f"half{i}", cpus=0.5, seconds=0.05) for i in range(5)]
    ones = [stage(f"one{i}", seconds=0.05) for i in range(3)]
    counting = Counting()
    run_dag([*halves, *ones, wide], store, counting, Told(), cpus=2)
    assert counting.most == 99
    assert counting.order[-1] == "wide"
    narrow = Counting()
    run_dag([stage(f"n{i}", cpus=0.5) for i in range(6)], store, narrow, Told(), cpus=1)
    assert narrow.most <= 1
    assert narrow.order == [f"n{i}" for i in range(6)]


# ---- failures ----------------------------------------------------------------------------------


def test_the_first_failure_is_named_and_what_does_not_need_it_is_made(store: Store) -> None:
    slow = stage("slow", seconds=0.4)
    after = stage("after", {"a": slow})
    wrong = stage("wrong", run="fail")
    lost = stage("lost", {"a": wrong, "b": after})
    told = Told()
    with pytest.raises(StageFailed) as caught:
        run_dag([lost, wrong], store, LocalLauncher(told.progress), told, cpus=2)
    text = str(caught.value)
    assert text.startswith(f"stage sample wrong ({wrong.id}) failed: ValueError: no such thing")
    assert "\n" not in text
    assert isinstance(caught.value.error, ValueError)
    assert caught.value.stage is wrong
    assert (told.errors, told.ended) == (["wrong"], ["slow", "after"])
    assert sorted(store.ids()) == sorted([slow.id, after.id])
    assert store.names("claims") == []


def test_what_comes_after_many_failures_is_made_all_the_same(store: Store) -> None:
    told = Told()
    wrong = [stage(f"wrong {i}", run="fail") for i in range(5)]
    good = [stage(f"good {i}") for i in range(3)]
    with pytest.raises(StageFailed, match="wrong 0"):
        run_dag([*wrong, *good], store, LocalLauncher(told.progress), told, cpus=1)
    assert told.errors == [s.label for s in wrong]
    assert told.ended == [s.label for s in good]


def test_wrong_input_that_one_stage_finds_costs_what_needs_it(store: Store) -> None:
    told = Told()
    wrong, good = stage("x", run="refuse"), stage("y")
    with pytest.raises(UserError, match="sample x: x is not allowed") as caught:
        run_dag([stage("z", {"a": wrong}), good], store, LocalLauncher(told.progress), told, cpus=1)
    assert not isinstance(caught.value, UnusablePlace)
    assert told.ended == ["y"]


def test_a_failure_can_be_pickled_and_copied() -> None:
    failure = StageFailed(stage("x"), ValueError("no"))
    for other in (pickle.loads(pickle.dumps(failure)), copy.copy(failure)):
        assert str(other) == str(failure)
        assert other.stage.id == failure.stage.id


def test_a_full_store_stops_the_run(store: Store) -> None:
    told = Told()
    with pytest.raises(UnusablePlace):
        run_dag(
            [stage("x", run="full"), stage("y")], store, LocalLauncher(told.progress), told, cpus=1
        )
    assert told.begun == ["x"]


def test_a_full_disk_is_the_users_to_mend(store: Store) -> None:
    with pytest.raises(UserError, match="no space left on the disk while making sample x"):
        run([stage("x", run="full")], store)
    assert store.ids() == []


def test_a_package_that_is_not_there_is_the_users_to_install(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msm_ray.doctor._is_there", lambda module: False)
    with pytest.raises(UserError, match="deepspeed is not installed and .* install it: "):
        run([stage("x", run="lacking")], store)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nan", r"ValueError: facts of stage_samples:nan\.loss"),
        ("leave", "SystemExit"),
        ("not_there", "has no function not_there"),
    ],
)
def test_a_stage_that_misbehaves_fails(name: str, words: str, store: Store) -> None:
    with pytest.raises(StageFailed, match=words):
        run([stage("x", run=name)], store)
    assert store.ids() == []


def test_scratch_survives_a_failure_and_goes_with_the_commit(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stage("x")

    def stop(fraction: float, facts: Mapping[str, Any]) -> None:
        if fraction >= 0.5:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        run_stage(made, store.url, stop)
    record = run_stage(made, store.url, lambda fraction, facts: None)
    assert record.facts["steps_resumed"] == 5
    assert os.listdir(Path(store.url) / "work") == []


def test_two_processes_never_share_scratch(store: Store) -> None:
    """As when a worker outlives its killed driver: both end well, one record stays."""
    made, results = stage("x", seconds=0.5), []

    def work() -> None:
        results.append(run_stage(made, store.url, lambda fraction, facts: None))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [store.get(made.id)] * 3
    assert results[0].facts["steps_resumed"] == 0
    assert os.listdir(Path(store.url) / "work") == []


# ---- damage ------------------------------------------------------------------------------------


def _damage(store: Store, made: Stage) -> None:
    record = store.get(made.id)
    assert record is not None
    path = Path(store.url) / "artifacts" / made.id / record.attempt / "a.bin"
    data = bytearray(path.read_bytes())
    data[7] ^= 255
    path.write_bytes(bytes(data))
    forget()


@pytest.mark.parametrize("label", ["s0", "p1", "join"])
def test_a_damaged_artifact_is_named_and_made_again(
    label: str, store: Store, tmp_path: Path
) -> None:
    targets = graph(str(tmp_path / "log"))
    before, _ = run(targets, store)
    made = next(s for s in topological(targets) if s.label == label)
    _damage(store, made)
    after, told = run(targets, store)
    assert told.begun == [label]
    assert [n.split(" (")[0] for n in told.notes] == [f"damaged: a.bin in {made.id}"]
    assert told.notes[0].endswith("set aside, making it again")
    assert {id: r.files for id, r in after.items()} == {id: r.files for id, r in before.items()}
    store.verify(made.id)


def test_a_damaged_record_is_made_again(store: Store, tmp_path: Path) -> None:
    targets = graph(str(tmp_path / "log"))
    run(targets, store)
    made = topological(targets)[0]
    store.write_bytes(f"artifacts/{made.id}/record.json", b'{"id"')
    _, told = run(targets, store)
    assert told.begun == [made.label]
    assert "record.json" in told.notes[0]


def test_damage_that_only_the_fetch_finds_is_mended_in_the_same_run(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = stage("source")
    run([source], store)
    _damage(store, source)
    monkeypatch.setattr(artifact_module, "SMALL_FILE_BYTES", 10)  # the scan does not see it
    readers = [stage(f"reader{i}", {"a": source}) for i in range(3)]
    _, told = run(readers, store, cpus=3)
    assert "source" in told.ended
    assert [n.split(" (")[0] for n in told.notes][:1] == [f"damaged: a.bin in {source.id}"]
    assert told.errors == []
    forget()
    assert all(store.verify(reader.id) for reader in readers)


def test_an_artifact_that_never_gets_sound_is_given_up(store: Store) -> None:
    source = stage("source")
    reader = stage("reader", {"a": source})

    class Breaking(LocalLauncher):
        def submit(self, stage: Stage, store_url: str) -> Future[Record]:
            if stage is not reader:
                return super().submit(stage, store_url)
            future: Future[Record] = Future()
            store.set_aside(source.id)
            future.set_exception(DamagedArtifact(source.id, "a.bin", "is missing"))
            return future

    told = Told()
    with pytest.raises(UserError, match=r"a\.bin"):
        run_dag([reader], store, Breaking(), told, cpus=2)
    assert told.begun.count("source") == 3


# ---- two drivers, claims -----------------------------------------------------------------------


def _driver(store: str, log: Path, seconds: float = 0.15) -> subprocess.Popen[str]:
    here = Path(stage_samples.__file__)
    return subprocess.Popen(
        [sys.executable, str(here), store, str(log), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(driver: subprocess.Popen[str]) -> list[str]:
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 0, err
    return out.splitlines()


def test_two_drivers_on_one_store_make_each_stage_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    drivers = [_driver(str(tmp_path / "store"), log) for _ in range(2)]
    first, second = (_finish(driver) for driver in drivers)
    assert first == second
    assert len(first) == 10
    assert sorted(log.read_text().split()) == sorted(s.label for s in topological(graph("")))
    store = Store(tmp_path / "store")
    assert all(store.verify(id) for id in store.ids())
    assert store.names("claims") == []


def test_killed_drivers_lose_nothing_and_change_nothing(tmp_path: Path) -> None:
    expected = _finish(_driver(str(tmp_path / "quiet"), tmp_path / "log0"))
    chance = random.Random(7)
    store = Store(tmp_path / "store")
    kept: set[str] = set()
    for _ in range(6):
        driver = _driver(store.url, tmp_path / "log")
        deadline = time.monotonic() + 60
        while not store.names("work") and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)  # importing takes long on a busy machine: kill what has begun
        time.sleep(chance.uniform(0.0, 0.4))
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        now = set(store.ids())
        assert kept <= now
        kept = now
        for id in now:
            store.verify(id)
    started = time.monotonic()
    assert _finish(_driver(store.url, tmp_path / "log")) == expected
    # claims of killed drivers were taken over at once, not after their 30 s
    assert time.monotonic() - started < 25
    # at most those are left whose holder died between its commit and giving back
    assert {name.removesuffix(".json") for name in store.names("claims")} <= set(store.ids())
    store.gc(grace_seconds=-1)
    assert store.names("claims") == store.names("work") == []
    assert sorted(store.ids()) == sorted(line.split()[0] for line in expected)
    for id in store.ids():
        attempts = [n for n in store.names(f"artifacts/{id}") if not n.startswith("record.")]
        assert len(attempts) == 1


def test_ctrl_c_stops_cleanly_and_the_next_run_goes_on(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    driver = _driver(store.url, tmp_path / "log", seconds=1.0)
    deadline = time.monotonic() + 60
    while not store.ids() and time.monotonic() < deadline:
        time.sleep(0.02)
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=60)
    assert driver.returncode != 0
    assert "KeyboardInterrupt" in err
    kept = store.ids()
    assert 0 < len(kept) < 10
    assert store.names("claims") == []
    assert len(_finish(_driver(store.url, tmp_path / "log", seconds=0.0))) == 10
    assert set(kept) <= set(store.ids())


def test_a_claim_is_held_given_back_and_taken_over_when_stale(store: Store) -> None:
    mine = Claims(store, beat=0.05, stale=3.0)
    other = Claims(store, beat=0.05, stale=3.0)
    assert mine.acquire("x")
    assert mine.acquire("x")
    started = time.monotonic()
    while time.monotonic() - started < 4.0:  # beats keep it
        assert not other.acquire("x")
        time.sleep(0.05)
    mine._stop.set()  # stands still, as a stopped process does
    while not other.acquire("x"):
        assert time.monotonic() - started < 30
        time.sleep(0.05)
    mine.release("x")  # not its own any more: stays
    assert store.names("claims") == ["x.json"]
    other.close()
    assert store.names("claims") == []
    assert mine.acquire("y")
    mine.close()
    assert store.names("claims") == []


def test_a_broken_claim_goes_stale(store: Store) -> None:
    for text in (b"", b"{", b"[1]", b'{"pid": "x"}'):
        store.write_bytes("claims/x.json", text)
        claims = Claims(store, stale=0.1)
        assert not claims.acquire("x")
        time.sleep(0.15)
        assert claims.acquire("x")
        claims.close()


def test_a_run_waits_for_another_drivers_artifact(store: Store) -> None:
    made = stage("x")
    other = Claims(store)
    assert other.acquire(made.id)

    def commit_later() -> None:
        time.sleep(0.5)
        run_stage(made, store.url, lambda fraction, facts: None)
        other.close()

    thread = threading.Thread(target=commit_later)
    thread.start()
    told = Told()
    records = run_dag([made, stage("y")], store, LocalLauncher(), told, cpus=2)
    thread.join()
    assert store.names("claims") == []
    assert (told.begun, told.others) == (["y"], ["x"])
    assert made.id in records
