"""What trials do in other processes is seen in the store and told like a run's own stages."""

import time
from pathlib import Path

from msm_ray.artifact import Record, Store
from msm_ray.claims import Claims
from msm_ray.observe import Observer
from msm_ray.search.watch import Watch, watched
from msm_ray.stage import Stage


def stage(label: str) -> Stage:
    return Stage("aft", "1", {"l": label}, {}, "m:f", label)


def commit(store: Store, of: Stage) -> None:
    out = store.work_dir(of.id) / "out"
    out.mkdir()
    (out / "a").write_text("a")
    store.commit(Record(of.id, of.kind, of.label, "1", {}, {}, seconds=3.0), out)


def test_claims_and_commits_are_told_once(tmp_path: Path) -> None:
    store, observer = Store(tmp_path / "s"), Observer(tmp_path / "events", sinks=[])
    old, made, lost, other = (stage(x) for x in ("old", "made", "lost", "not of this search"))
    commit(store, old)
    stages = {s.id: s for s in (old, made, lost)}
    observer.plan(list(stages.values()), [old.id])
    watch, claims = Watch(store, stages, observer), Claims(store)
    watch.look()
    assert not observer.state.running
    for each in (made, lost, other):
        assert claims.acquire(each.id)
    watch.look()
    watch.look()
    assert set(observer.state.running) == {made.id, lost.id}
    commit(store, made)
    claims.close()
    watch.look()
    watch.look()
    observer.done()
    assert observer.state.made_ids == {made.id}
    assert (observer.state.done, observer.state.failed) == (2, 1)
    assert not observer.state.running
    lines = (tmp_path / "events").read_text().splitlines()
    told = [line.split('"event": "')[1].split('"')[0] for line in lines]
    assert told == ["plan", "started", "started", "finished", "failed", "done"]


def test_what_is_committed_at_the_very_end_is_told(tmp_path: Path) -> None:
    store, observer = Store(tmp_path / "s"), Observer(sinks=[])
    made = stage("made")
    observer.plan([made], [])
    with watched(store, {made.id: made}, observer):
        commit(store, made)
    assert observer.state.made_ids == {made.id}


def test_it_looks_by_itself_and_ends_with_the_block(tmp_path: Path) -> None:
    store, observer = Store(tmp_path / "s"), Observer(sinks=[])
    made = stage("made")
    observer.plan([made], [])
    with watched(store, {made.id: made}, observer):
        commit(store, made)
        deadline = time.monotonic() + 60
        while observer.state.missing and time.monotonic() < deadline:
            time.sleep(0.05)
    assert observer.state.made_ids == {made.id}
