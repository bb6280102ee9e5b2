from __future__ import annotations

import io
import json
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from msm_ray.artifact import Record
from msm_ray.observe import Observer, RunState, cost_summary
from msm_ray.stage import Stage
from msm_ray.terminal import Lines, LiveBlock, display, duration, headline, line


def stage(label: str, seconds: float = 10.0, kind: str = "train") -> Stage:
    return Stage(kind, "1", {"l": label}, {}, "m:f", label, estimate={"seconds": seconds})


def record(of: Stage, seconds: float = 1.0, **facts: Any) -> Record:
    return Record(of.id, of.kind, of.label, "1", {}, {}, facts=facts, seconds=seconds)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_in(stream: Terminal, text: str) -> str:
    """What the block shows once ``text`` is in it: it is drawn now and then."""
    deadline = time.monotonic() + 20
    while text not in stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.05)
    return stream.getvalue()


def play(observer: Observer) -> None:
    """A small run: one of three there, one made, one failed."""
    a, b, c = stage("a"), stage("b"), stage("c [bold]")
    observer.plan([a, b, c], [a.id])
    observer.started(b)
    for i in range(200):
        observer.progress(b.id, i / 200, {"loss": 2.0 - i / 200})
    observer.finished(b, record(b, 65.2))
    observer.note("damaged: x in y, set aside, making it again")
    observer.started(c)
    observer.failed(c, ValueError("two\nlines"))
    observer.progress(b.id, 0.5, {})  # late: dropped
    observer.done()
    observer.done()


def test_plain_lines_are_few_and_say_what_happened() -> None:
    stream = io.StringIO()
    play(Observer(stream=stream))
    *lines, last = stream.getvalue().splitlines()
    assert lines == [
        "3 stages: 1 there, 2 to make",
        "[2/3] train b done in 1m 05s",
        "damaged: x in y, set aside, making it again",
        "[2/3] train c [bold] failed: ValueError: two lines",
    ]
    assert last.startswith("1 stage made, 1 there before, in ")


def test_progress_without_a_terminal_comes_now_and_then() -> None:
    stream = io.StringIO()
    observer = Observer(sinks=[Lines(stream, every=0.1)])
    a = stage("a")
    observer.plan([a], [])
    observer.started(a)
    started = time.monotonic()
    while time.monotonic() - started < 0.55:
        observer.progress(a.id, 0.25, {})
    lines = stream.getvalue().splitlines()[1:]
    assert 1 <= len(lines) <= (time.monotonic() - started) / 0.1 + 1
    assert re.match(r"0/1 stages, 1 running, \d+s, about ", lines[0])
    assert lines[0].endswith("left: train a 25%")


def test_a_stage_that_says_nothing_is_still_reported(tmp_path: Path) -> None:
    stream = io.StringIO()
    observer = Observer(tmp_path / "events", sinks=[Lines(stream, every=0.2)], beat=0.05)
    a = stage("a")
    observer.plan([a], [])
    observer.started(a)
    started = time.monotonic()
    while stream.getvalue().count("train a") < 2:
        time.sleep(0.05)
    observer.done()
    lines = stream.getvalue().splitlines()[1:-1]
    assert len(lines) <= (time.monotonic() - started) / 0.2 + 1
    assert re.search(r"left: train a ~\d+%$", lines[0])
    said = [json.loads(line)["event"] for line in (tmp_path / "events").read_text().splitlines()]
    assert said == ["plan", "started", "done"]


def test_the_live_block_shows_and_goes() -> None:
    stream = Terminal()
    sink = display(stream)
    assert isinstance(sink, LiveBlock)
    observer = Observer(sinks=[sink])
    a, b = stage("a"), stage("b [red]")
    observer.plan([a, b], [])
    observer.started(a)
    observer.progress(a.id, 0.5, {"loss": 1.23456})
    shown = shown_in(stream, "loss 1.235")
    assert "train a" in shown
    assert "loss 1.235" in shown
    assert "0/2 stages, 1 running" in shown
    observer.failed(a, ValueError("no"))
    observer.done()
    assert "train a failed: ValueError: no" in stream.getvalue()
    assert "\x1b[?25h" in stream.getvalue()[-400:]  # the cursor is back


def test_nothing_to_make_shows_no_block() -> None:
    stream = Terminal()
    observer = Observer(stream=stream)
    observer.plan([stage("a")], [stage("a").id])
    observer.done()
    assert "\x1b[?25l" not in stream.getvalue()
    assert "1 stage: 1 there, 0 to make" in stream.getvalue()


def test_many_running_stages_make_a_short_block() -> None:
    stream = Terminal()
    observer = Observer(stream=stream)
    stages = [stage(str(i)) for i in range(30)]
    observer.plan(stages, [])
    for each in stages:
        observer.started(each)
    assert "and 22 more" in shown_in(stream, "more")
    observer.done()


def test_events_are_json_lines_that_are_added_to(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "events.jsonl"
    for _ in range(2):
        play(Observer(events=path, stream=io.StringIO()))
    events = [json.loads(text) for text in path.read_text().splitlines()]
    names = [event["event"] for event in events]
    assert names.count("plan") == names.count("done") == 2
    assert names.count("progress") <= 4  # not two hundred
    failed = next(event for event in events if event["event"] == "failed")
    assert failed["error"] == "ValueError: two lines"
    assert (failed["kind"], failed["label"]) == ("train", "c [bold]")
    finished = next(event for event in events if event["event"] == "finished")
    assert finished["seconds"] == 65.2


def test_a_display_that_breaks_does_not_end_the_run(tmp_path: Path) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError("nobody reads")

    path = tmp_path / "events.jsonl"
    play(Observer(events=path, sinks=[Lines(Broken())]))
    events = [json.loads(text) for text in path.read_text().splitlines()]
    assert events[0]["event"] == "note"
    assert events[0]["text"] == "Lines ended: nobody reads"
    assert events[-1]["event"] == "done"


def test_threads_may_tell_at_once(tmp_path: Path) -> None:
    observer = Observer(events=tmp_path / "e", stream=Terminal())
    stages = [stage(str(i)) for i in range(40)]
    observer.plan(stages, [])

    def work(mine: list[Stage]) -> None:
        for each in mine:
            observer.started(each)
            observer.progress(each.id, 0.5, {"x": 1})
            observer.finished(each, record(each))

    threads = [threading.Thread(target=work, args=(stages[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    observer.done()
    assert observer.state.done == 40
    assert observer.state.made_ids == {each.id for each in stages}
    for text in (tmp_path / "e").read_text().splitlines():
        json.loads(text)


def test_a_stage_that_another_run_made_is_not_ours() -> None:
    stream = io.StringIO()
    observer = Observer(stream=stream)
    a = stage("a")
    observer.plan([a], [])
    observer.found(a, record(a))
    observer.done()
    assert observer.state.made_ids == set()
    assert stream.getvalue().splitlines()[1:] == [
        "[1/1] train a was made by another run",
        "0 stages made, 1 there before, in 0s",
    ]


# ---- time left ---------------------------------------------------------------------------------


def _state(missing: Mapping[str, float], **fields: Any) -> RunState:
    stages = [stage(label, seconds) for label, seconds in missing.items()]
    return RunState(total=10, missing={s.id: s for s in stages}, **fields)


def test_time_left_is_the_estimates_over_what_runs_at_once() -> None:
    assert RunState().seconds_left(0.0) is None
    assert _state({"a": 10, "b": 20}).seconds_left(0.0) == 30
    assert _state({"a": 10, "b": 20}, widest=2).seconds_left(0.0) == 15
    # two at once now and then, but one on average
    assert _state({"a": 10, "b": 20}, widest=2, taken=100.0).seconds_left(100.0) == 30
    assert _state({"a": 10, "b": 20}, widest=2, taken=300.0).seconds_left(150.0) == 15
    assert _state({}).seconds_left(0.0) == 0


def test_stages_of_a_kind_are_as_slow_as_those_that_ended() -> None:
    slow = {"train": [3.0, 3.0, 3.0]}
    assert _state({"a": 10, "b": 20}, ratios=slow).seconds_left(0.0) == 90
    # other kinds say nothing, nor does one that started an engine for all
    assert _state({"a": 10, "b": 20}, ratios={"plan": [9.0] * 9}).seconds_left(0.0) == 30
    assert _state({"a": 10, "b": 20}, ratios={"train": [40.0]}).seconds_left(0.0) == 30
    observer = Observer(sinks=[])
    stages = [stage(str(i), 10) for i in range(5)]
    observer.plan(stages, [])
    for each in stages[:3]:
        observer.started(each)
        observer.state.running[each.id].since -= 20
        observer.finished(each, record(each))
    assert observer.state.ratios["train"] == pytest.approx([2.0] * 3, rel=0.1)


def test_a_running_stage_goes_by_its_own_pace() -> None:
    observer = Observer(sinks=[])
    a = stage("a", 10)
    observer.plan([a], [])
    observer.started(a)
    row = observer.state.running[a.id]
    assert observer.state.seconds_left(row.since + 4) == pytest.approx(6)
    assert observer.state.seconds_left(row.since + 40) == pytest.approx(4)  # a tenth of 40
    # An engine started for 30 s: how long that took says nothing of the rest.
    observer.progress(a.id, 0.1, {})
    assert row.first is not None
    row.first = (row.since + 30, 0.1)
    assert observer.state.seconds_left(row.since + 31) == pytest.approx(3.1)
    observer.progress(a.id, 0.3, {})
    assert observer.state.seconds_left(row.since + 34) == pytest.approx(4 * 0.7 / 0.2)
    observer.progress(a.id, 1.7, {})
    assert row.fraction == 1.0
    assert "about 0s left" in headline(observer.state, row.since + 34)


def test_a_stage_that_says_nothing_is_shown_by_the_time_it_takes() -> None:
    stream = io.StringIO()
    observer = Observer(sinks=[Lines(stream, every=0.0)])
    a = stage("a", 10)
    observer.plan([a], [])
    observer.started(a)
    row = observer.state.running[a.id]
    assert observer.state.share(row, row.since + 4) == (pytest.approx(0.4), False)
    assert observer.state.share(row, row.since + 1000)[0] < 1.0
    row.since -= 5
    observer.progress(a.id, 0.0, {})
    assert re.search(r"train a ~5\d%$", stream.getvalue())
    observer.progress(a.id, 0.75, {})
    assert stream.getvalue().endswith("train a 75%\n")


def test_time_left_does_not_grow_while_an_engine_starts() -> None:
    observer = Observer(sinks=[])
    asked = {"seconds": 2.0, "start": 15.0}
    stages = [Stage("evaluate", "1", {"n": n}, {}, "m:f", str(n), estimate=asked) for n in range(6)]
    observer.plan(stages, [])
    state = observer.state
    assert state.seconds_left(0.0) == 6 * 2 + 15  # whoever is first waits for the engine
    for each in stages[:3]:
        observer.started(each)
        observer.progress(each.id, 0.1, {})  # it has its questions, and no engine yet
    since = min(row.since for row in state.running.values())
    left = [state.seconds_left(since + second) or 0.0 for second in range(17)]
    assert left == sorted(left, reverse=True)
    assert left[0] == pytest.approx((3 * 17 + 3 * 2) / 3, rel=0.01)
    row = state.running[stages[0].id]
    assert state.share(row, row.since + 8.5) == (pytest.approx(0.5), False)
    # The engine is there: the time that it took says nothing of the others, which have it.
    row.since -= 17
    observer.finished(stages[0], record(stages[0]))
    assert state.ratios["evaluate"] == pytest.approx([1.0], rel=0.01)
    observer.started(stages[3])
    assert [running.start for running in state.running.values()] == [15.0, 15.0, 0.0]


def test_what_a_failure_makes_impossible_takes_no_time() -> None:
    observer = Observer(sinks=[])
    a, other = stage("a", 10), stage("other", 7)
    b = Stage("train", "1", {"l": "b"}, {"a": a}, "m:f", "b", estimate={"seconds": 30.0})
    c = Stage("train", "1", {"l": "c"}, {"b": b}, "m:f", "c", estimate={"seconds": 50.0})
    observer.plan([a, b, c, other], [])
    assert observer.state.seconds_left(0.0) == 97
    observer.failed(a, ValueError("no"))
    assert observer.state.seconds_left(0.0) == 7


def test_durations_are_short() -> None:
    texts = [duration(s) for s in (-1, 0.4, 59.4, 59.6, 125, 3599.6, 3720)]
    assert texts == ["0s", "0s", "59s", "1m 00s", "2m 05s", "1h 00m", "1h 02m"]
    assert line({"event": "progress"}) == ""


# ---- costs -------------------------------------------------------------------------------------


def test_costs_count_all_results_and_this_run_apart() -> None:
    corpus, train, score = stage("c", kind="corpus"), stage("t"), stage("e", kind="evaluate")
    more = stage("t2")
    costs = cost_summary(
        [
            (record(corpus, 30.0, tokens_generated=5000, calls=100, money=0.25), True),
            (record(train, 10.5, tokens=1000, steps=10), True),
            (record(more, 9.5, tokens=1000, steps=10), False),
            (record(score, 1.0, tokens=7), False),
        ]
    )
    this_run = costs.pop("this_run")
    assert costs == {
        "seconds_by_kind": {"corpus": 30.0, "evaluate": 1.0, "train": 20.0},
        "stages_run": 2,
        "stages_cached": 2,
        "tokens_trained": 2000,
        "tokens_generated": 5000,
        "calls": 100,
        "money": 0.25,
    }
    assert this_run["tokens_trained"] == 1000
    assert this_run["tokens_generated"] == this_run["money"] == 0
    assert cost_summary([])["seconds_by_kind"] == {}
