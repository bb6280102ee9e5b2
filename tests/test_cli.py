"""The command line: what it prints and returns, command by command, on a real local store."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msm_ray.artifact import Record, Store
from msm_ray.cli import main
from msm_ray.commands import age_text, size_text
from msm_ray.errors import UserError
from msm_ray.preview_text import preview_text

ROOT = Path(__file__).parents[1]

# A job of its own, by the protocol that experiments and searches follow.
JOB = """
from dataclasses import dataclass, field
from msm_ray.artifact import Store
from msm_ray.errors import UserError
from msm_ray.execute import LocalLauncher
from msm_ray.settings import RunResult
from msm_ray.stage import Stage, run_dag

@dataclass(frozen=True)
class Aft:
    learning_rate: float = 1e-3
    def __post_init__(self):
        if self.learning_rate < 0:
            raise UserError(f"learning_rate is {self.learning_rate}; allowed: 0 or more")

@dataclass(frozen=True)
class Job:
    name: str = "tiny"
    outcome: str = "complete"
    aft: Aft = field(default_factory=Aft)

    def run(self, store_url, address=None):
        store = Store(store_url)
        if self.outcome == "interrupt":
            raise KeyboardInterrupt
        if self.outcome == "wait":
            import sys, time
            try:
                print("begun", flush=True)
                time.sleep(60)
            finally:
                print("ending what runs", file=sys.stderr, flush=True)
        if self.outcome == "bug":
            raise RuntimeError("a bug of ours")
        if self.outcome == "user":
            raise UserError("the spec is\\nempty")
        if self.outcome == "remote":
            from ray.exceptions import RayTaskError
            raise RayTaskError("f", "Traceback ...", UserError("no room")).as_instanceof_cause()
        if self.outcome == "missing":
            import vllm_that_is_not_there as _
        if self.outcome.startswith("stage"):
            from msm_ray.stage import StageFailed
            stage = Stage("midtrain", "1", {}, {}, "no.such:function", label="msm:x")
            wrong = self.outcome == "stage-user"
            raise StageFailed(stage, UserError("too little memory") if wrong else OSError("boom"))
        complete = self.outcome == "complete"
        cells = {"expected": 2, "present": 2 if complete else 1, "missing": []}
        cost = {"lr": self.aft.learning_rate, "address": address,
                "stages_run": 1, "stages_cached": 2}
        report = {"name": self.name, "title": "T", "complete": complete, "cells": cells,
                  "fingerprint": "f00d", "cost": cost, "effects": {}}
        store.write_json(f"runs/{self.name}/report.json", report)
        where = f"{store.url}/runs/{self.name}/report"
        return RunResult(report, where + ".json", where + ".html", complete)

    def preview(self, store_url):
        row = {"kind": "aft", "label": "x", "count": 3, "cached": 1, "documents": 0,
               "tokens": 12500, "steps": 8, "flops": 2.5e13, "device_seconds": 4.25}
        sharing = {"stages_if_not_shared": 9, "stages": 3, "device_seconds_saved": 12.0}
        return {"stages": [row], "totals": row, "sharing": sharing}

def experiment():
    return Job()

if __name__ == "__main__":
    from msm_ray.cli import job_main
    job_main(experiment)
"""

Msm = Callable[..., tuple[int, str, str]]


@pytest.fixture
def msm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Msm:
    """Run ``msm ...`` in a folder that holds job.py: (exit code, stdout, stderr)."""
    (tmp_path / "job.py").write_text(JOB)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def commit(store: Store, id: str, kind: str = "aft", text: str = "weights") -> Record:
    folder = store.work_dir(f"make-{id}")
    (folder / "data.txt").write_text(text)
    record = Record(
        id, kind, f"label of {id}", "1", {"lr": 1e-3}, {"blocks": "f" * 16}, facts={"tokens": 5}
    )
    return store.commit(record, folder)


def write(path: str, **changed: object) -> None:
    """A report beside that of the run "tiny", with something changed."""
    report = json.loads(Path("msm-store/runs/tiny/report.json").read_text())
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({**report, **changed}))


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """As a user who may not write what others own; the superuser may write anything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# -------------------------------------------------------------------------------- run, preview


def test_run_prints_where_the_report_is_and_returns_0(msm: Msm) -> None:
    code, out, err = msm("run", "job.py")
    assert (code, err) == (0, "")
    assert "msm-store/runs/tiny/report.html" in out
    assert Path("msm-store/runs/tiny/report.json").exists()


def test_an_incomplete_run_returns_1_and_says_so(msm: Msm) -> None:
    code, _, err = msm("run", "job.py", "--set", "outcome=incomplete")
    assert code == 1
    assert err.startswith("msm: incomplete: 1 of 2 cells")


def test_settings_store_and_address_reach_the_job(msm: Msm) -> None:
    arguments = ("--store", "other", "--set", "aft.learning_rate=2e-4", "name=b", "job.py")
    code, _, _ = msm("run", *arguments, "--address", "auto")
    assert code == 0
    report = json.loads(Path("other/runs/b/report.json").read_text())
    assert (report["cost"]["lr"], report["cost"]["address"]) == (2e-4, "auto")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "none.py"], 2, "none.py: no such job file"),
        (["run", "job.py", "--set", "aft.lr=1"], 2, "no setting 'lr'"),
        (["run", "job.py", "--set", "garbled"], 2, "name.name=value"),
        (["run", "job.py", "--set=aft.learning_rate=-1"], 2, "allowed: 0 or more"),
        (["run", "job.py", "--set", "outcome=user"], 2, "the spec is empty"),
        (["run", "job.py", "--address", " "], 2, "--address is empty"),
        (["run", "job.py", "--store", "job.py"], 2, "job.py"),
        (["run", "job.py", "--store", "nope://x"], 2, "unknown protocol"),
        (["run"], 2, "JOB.py"),
        (["fly"], 2, "invalid choice"),
        ([], 2, "COMMAND"),
        (["run", "job.py", "--colour"], 2, "--colour"),
        (["ls"], 2, "no store here yet"),
        (["submit", "job.py", "--address", "head:8265"], 2, "http://HEAD:8265"),
        (["submit", "none.py", "--address", "http://head:8265"], 2, "no such job file"),
    ],
)
def test_wrong_input_is_one_line_and_2(
    msm: Msm, arguments: list[str], code: int, words: str
) -> None:
    found, _, err = msm(*arguments)
    assert found == code
    assert err.startswith("msm: ")
    assert err.count("\n") == 1
    assert words in err


def test_wrong_input_that_a_ray_task_found_is_one_line_too(msm: Msm) -> None:
    code, _, err = msm("run", "job.py", "--set", "outcome=remote")
    assert (code, err) == (2, "msm: no room\n")


def test_ctrl_c_returns_130_and_says_what_stays(msm: Msm) -> None:
    code, _, err = msm("run", "job.py", "--set", "outcome=interrupt")
    assert code == 130
    assert "What is done stays" in err


def test_ctrl_c_is_answered_before_anything_is_ended(msm: Msm) -> None:
    job = subprocess.Popen(
        [sys.executable, "job.py", "--set", "outcome=wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "begun\n"
    job.send_signal(signal.SIGINT)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 130
    first, then, last = [line for line in err.splitlines() if line]
    assert first.startswith("msm: stopping;")
    assert then == "ending what runs"
    assert last.startswith("msm: stopped.")


def test_a_bug_shows_its_traceback_and_returns_1(msm: Msm) -> None:
    code, _, err = msm("run", "job.py", "--set", "outcome=bug")
    assert code == 1
    assert "Traceback" in err
    assert "a bug of ours" in err


def test_a_failed_stage_is_named_with_its_error_and_its_log(msm: Msm) -> None:
    code, _, err = msm("run", "job.py", "--set", "outcome=stage")
    assert code == 1
    first, second = err.splitlines()
    assert re.match(r"msm: stage .*midtrain.* \(\w+\) failed: OSError: boom$", first)
    log = re.search(r"log: (\S+\.log)", second)
    assert log is not None
    assert "boom" in Path(log.group(1)).read_text()


def test_a_stage_that_finds_wrong_input_returns_2(msm: Msm) -> None:
    code, _, err = msm("run", "job.py", "--set", "outcome=stage-user")
    assert code == 2
    assert "too little memory" in err


def test_a_missing_package_gets_the_install_command(
    msm: Msm, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path("job.py").read_text().replace("vllm_that_is_not_there", "vllm")
    Path("job.py").write_text(source)
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr("msm_ray.doctor._is_there", lambda module: False)
    code, _, err = msm("run", "job.py", "--set", "outcome=missing")
    assert code == 2
    assert "vllm is not installed and writing documents and evaluation needs it; install" in err
    assert err.count("\n") == 1


def test_preview_and_dry_run_show_the_table_and_run_nothing(msm: Msm) -> None:
    code, out, _ = msm("preview", "job.py")
    assert code == 0
    assert re.search(r"aft +3 +1 +12,500 +8 +2\.5e13 +4\.2", out)
    assert "US$" not in out  # nothing is bought
    assert "3 stages instead of 9; 12 device-seconds saved" in out
    assert msm("run", "job.py", "--dry-run") == (0, out, "")
    assert not Path("msm-store").exists()
    _, out, _ = msm("preview", "job.py", "--json")
    assert json.loads(out)["totals"]["tokens"] == 12500


def test_preview_text_of_an_empty_plan() -> None:
    assert "to do in all" in preview_text({})


def test_python_job_is_the_same_as_msm_run(msm: Msm) -> None:
    words = ["--set", "aft.learning_rate=-1"]
    direct = subprocess.run([sys.executable, "job.py", *words], capture_output=True, text=True)
    code, _, err = msm("run", "job.py", *words)
    assert (direct.returncode, direct.stderr) == (code, err)
    done = subprocess.run([sys.executable, "job.py"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "report.html" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, msm_ray.cli\n"
        "heavy = {'ray', 'torch', 'vllm', 'numpy', 'pyarrow', 'fsspec'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "msm_ray.cli.main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Exit codes" in done.stdout


# ------------------------------------------------------------------------------ store commands


def test_ls_lists_runs_and_artifacts(msm: Msm) -> None:
    msm("run", "job.py")
    commit(Store("msm-store"), "a" * 16, text="x" * 2500)
    code, out, _ = msm("ls")
    assert code == 0
    assert "run tiny  f00d  complete, 2 of 2 cells" in out
    assert re.search(r"a{16} +aft +label of a+ +2\.5 kB +\d+ s", out)
    _, out, _ = msm("ls", "--json")
    listed = json.loads(out)
    assert listed["artifacts"][0]["bytes"] == 2500
    assert listed["runs"][0]["name"] == "tiny"


def test_show_of_a_run_tells_its_effects(msm: Msm) -> None:
    msm("run", "job.py")
    file = Path("msm-store/runs/tiny/report.json")
    report = json.loads(file.read_text())
    report["effects"] = {"separation": {"value": 0.5, "ci95": [0.25, 0.75]}}
    file.write_text(json.dumps(report))
    code, out, _ = msm("show", "tiny")
    assert code == 0
    assert "2 of 2, complete" in out
    assert "separation  +0.500  [+0.250, +0.750]" in out
    assert json.loads(msm("show", "tiny", "--json")[1]) == report


def test_show_takes_the_beginning_of_an_id(msm: Msm) -> None:
    store = Store("msm-store")
    commit(store, "abc1" + "0" * 12)
    commit(store, "abd2" + "0" * 12)
    code, out, _ = msm("show", "abc")
    assert code == 0
    assert "label of abc1" in out
    assert "lr: 0.001" in out
    assert "data.txt" in out
    _, out, _ = msm("show", "abd", "--json")
    assert json.loads(out)["id"] == "abd2" + "0" * 12
    code, _, err = msm("show", "ab")
    assert code == 2
    assert "2 artifacts begin so" in err
    code, _, err = msm("show", "zz")
    assert code == 2
    assert "no artifact with that id" in err


def test_verify_names_the_damaged_file_and_returns_1(msm: Msm) -> None:
    store = Store("msm-store")
    commit(store, "a" * 16)
    record = commit(store, "b" * 16)
    assert msm("verify")[0] == 0
    Path(f"msm-store/artifacts/{record.id}/{record.attempt}/data.txt").write_text("changed")
    code, out, err = msm("verify")
    assert code == 1
    assert "data.txt" in out
    assert "b" * 16 in out
    assert "1 of 2 artifacts sound" in out
    assert "run the job again" in err
    assert msm("verify", "aaaa")[0] == 0
    code, out, _ = msm("verify")  # it was set aside: that is told until it is mended or removed
    assert code == 1
    assert f"damaged  {'b' * 16} was set aside" in out
    assert "1 of 2 artifacts sound" in out
    assert msm("verify", "bbbb")[0] == 1
    commit(store, "b" * 16)
    assert msm("verify")[0] == 0


def test_verify_is_content_when_what_is_set_aside_was_removed(msm: Msm) -> None:
    record = commit(Store("msm-store"), "b" * 16)
    Path(f"msm-store/artifacts/{record.id}/{record.attempt}/data.txt").unlink()
    assert msm("verify")[0] == 1
    assert msm("gc")[0] == 0
    assert msm("verify")[0] == 0


def test_verify_names_what_a_report_lists_and_is_not_there(msm: Msm) -> None:
    msm("run", "job.py")
    record = commit(Store("msm-store"), "a" * 16)
    listed = [{"id": id, "kind": "aft", "label": "x"} for id in (record.id, "c" * 16)]
    write("msm-store/runs/tiny/report.json", provenance={"artifacts": listed})
    code, out, _ = msm("verify")
    assert code == 1
    assert f"missing  {'c' * 16} (aft x) of runs/tiny" in out
    assert record.id not in out
    assert msm("verify", record.id)[0] == 0
    commit(Store("msm-store"), "c" * 16)
    assert msm("verify")[0] == 0


@pytest.mark.parametrize("command", [("ls",), ("gc", "--dry-run"), ("show", "aaaa")])
def test_looking_sets_nothing_aside(msm: Msm, command: tuple[str, ...]) -> None:
    record = commit(Store("msm-store"), "a" * 16)
    file = Path(f"msm-store/artifacts/{record.id}/record.json")
    file.write_text(file.read_text()[:50])
    msm(*command)
    assert sorted(p.name for p in file.parent.iterdir()) == [record.attempt, "record.json"]


def test_ls_goes_on_after_a_report_that_cannot_be_read(msm: Msm) -> None:
    for name in ("one", "two"):
        msm("run", "job.py", "--set", f"name={name}")
    file = Path("msm-store/runs/one/report.json")
    file.write_text(file.read_text()[:60])
    code, out, _ = msm("ls")
    assert code == 0
    assert re.search(r"run one  UNREADABLE: .*runs/one/report.json is not valid JSON", out)
    assert "run two  f00d  complete" in out
    assert "runs/one" in json.loads(msm("ls", "--json")[1])["runs"][0]["unreadable"]
    code, out, _ = msm("verify")
    assert code == 1
    assert "unreadable" in out


def test_gc_removes_leftovers_and_keeps_what_is_committed(msm: Msm) -> None:
    record = commit(Store("msm-store"), "a" * 16)
    leftover = Path(f"msm-store/artifacts/{record.id}/20200101T000000-dead")
    leftover.mkdir()
    (leftover / "half.txt").write_text("half")
    code, out, _ = msm("gc", "--dry-run")
    assert code == 0
    assert "20200101T000000-dead" in out
    assert leftover.exists()
    code, out, _ = msm("gc")
    assert code == 0
    assert "1 leftover" in out
    assert not leftover.exists()
    assert msm("verify")[0] == 0


def test_gc_tells_beforehand_what_it_removes(msm: Msm) -> None:
    record = commit(Store("msm-store"), "a" * 16)
    for path in (
        f"artifacts/{record.id}/20200101T000000-dead/x",
        f"artifacts/{record.id}/record.damaged-1.json",
        "artifacts/dead/20200101T000000-dead/x",
        "artifacts/dead/notes of mine",
        "artifacts/live/29990101T000000-live/x",
        f"claims/{record.id}.json",
        "claims/other.json",
        ".tmp/old",
        "work/old/file",
    ):
        file = Path("msm-store") / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    for old in (".tmp/old", "work/old/file", "work/old"):
        os.utime(Path("msm-store") / old, (0, 0))
    told = msm("gc", "--dry-run")[1].replace("would remove", "removed").splitlines()
    assert len(told) == 6
    assert msm("gc")[1].splitlines()[:-1] == told
    assert not msm("gc", "--dry-run")[1]


def test_gc_of_a_store_that_cannot_be_written_is_one_line(
    msm: Msm,
) -> None:
    with tempfile.TemporaryDirectory() as folder:  # where another user may come
        store = Path(folder) / "store"
        record = commit(Store(store), "a" * 16)
        leftover = store / "artifacts" / record.id / "20200101T000000-dead"
        leftover.mkdir()
        scratch = store / "work" / "old"
        scratch.mkdir(parents=True)
        (scratch / "lock").touch()
        os.utime(scratch, (0, 0))
        os.utime(scratch / "lock", (0, 0))
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        with nobody():
            dry = msm("gc", "--dry-run", "--store", str(store))
            code, out, err = msm("gc", "--store", str(store))
            leftover_there = leftover.exists()
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o755)
    assert dry[0] == 0
    assert "20200101T000000-dead" in dry[1]
    assert "work/old" in dry[1]
    assert leftover_there
    assert (code, out) == (2, "")
    assert re.fullmatch(r"msm: store \S+: cannot be written: permission denied\n", err)


def test_a_report_of_a_fingerprint_is_shown_and_written_again(msm: Msm) -> None:
    msm("run", "job.py")
    for mark in ("f00d", "fade", "beef"):
        write(f"msm-store/runs/tiny/{mark}/report.json", fingerprint=mark, title=f"T {mark}")
    write("msm-store/runs/other/beef/report.json", fingerprint="beef", name="other")
    write("msm-store/runs/other/report.json", fingerprint="beef", name="other")
    code, out, _ = msm("show", "fade")
    assert code == 0
    assert "fingerprint  fade" in out
    assert json.loads(msm("show", "tiny/fade", "--json")[1])["title"] == "T fade"
    assert msm("show", "fa")[1] == out
    code, _, err = msm("show", "beef")
    assert code == 2
    assert "2 reports have that fingerprint; give one of other/beef, tiny/beef" in err
    code, out, _ = msm("report", "fade")
    assert code == 0
    assert "<h1>T fade</h1>" in Path("msm-store/runs/tiny/fade/report.html").read_text()
    out = msm("ls")[1]
    assert re.search(r"run tiny  f00d .*\n +also  beef  complete.*\n +also  fade  complete", out)
    marks = [r["fingerprint"] for r in json.loads(msm("ls", "--json")[1])["runs"][1]["others"]]
    assert marks == ["beef", "fade"]


def test_an_artifact_whose_id_begins_like_a_fingerprint(msm: Msm) -> None:
    msm("run", "job.py")
    write("msm-store/runs/tiny/abcd0000/report.json", fingerprint="abcd0000")
    commit(Store("msm-store"), "abcd0000" + "1" * 16)
    assert "run tiny" in msm("show", "abcd0000")[1]
    assert "label of" in msm("show", "abcd")[1]
    assert "label of" in msm("show", "abcd00001")[1]


def test_report_is_written_again_from_its_json(msm: Msm) -> None:
    msm("run", "job.py")
    code, out, _ = msm("report", "tiny")
    assert code == 0
    assert "runs/tiny/report.html" in out
    assert "<h1>T</h1>" in Path("msm-store/runs/tiny/report.html").read_text()
    code, _, err = msm("report", "other")
    assert code == 2
    assert "its runs: tiny" in err


def test_serve_refuses_what_is_not_a_model(msm: Msm) -> None:
    commit(Store("msm-store"), "a" * 16, kind="blocks")
    code, _, err = msm("serve", "aaaa")
    assert code == 2
    assert "kind blocks; only models can be served" in err


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (2500, "2.5 kB"), (4e6, "4.0 MB"), (3e12, "3.0 TB")],
)
def test_size_text(size: float, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("hour", "text"), [("11:59:20", "40 s"), ("11:30:00", "30 min"), ("02:00:00", "10 h")]
)
def test_age_text(hour: str, text: str) -> None:
    from datetime import UTC, datetime

    now = datetime(2026, 1, 5, 12, tzinfo=UTC)
    assert age_text(f"2026-01-05T{hour}+00:00", now) == text
    assert age_text("2026-01-01T12:00:00", now) == "4 d"


def test_submit_to_nobody_is_one_line(msm: Msm) -> None:
    code, _, err = msm("submit", "job.py", "--address", "http://127.0.0.1:9")
    assert code == 2
    assert "no Ray cluster answers there" in err.splitlines()[-1]


@pytest.mark.parametrize("place", ["{}", "ray://{}"])
def test_run_where_nobody_listens_is_told_by_a_look_at_the_port(place: str) -> None:
    from msm_ray.runtime import _check_answers

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = place.format(f"127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(UserError, match=f"--address {address}: no Ray cluster answers there"):
            _check_answers(address)
        listening.listen()
        _check_answers(address)
