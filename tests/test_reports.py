"""Which report is a run's newest, where each comparison's own lies, and how they are found."""

from pathlib import Path
from typing import Any

import pytest

from msm_ray.artifact import Store
from msm_ray.errors import UserError
from msm_ray.reports import find_report, fingerprints, read_report, write_report


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def report(mark: str, complete: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "name": "r",
        "title": "T",
        "fingerprint": mark,
        "complete": complete,
        "cells": {"expected": 2, "present": 1 + complete, "missing": []},
        "wall_seconds": 1.0,
        "provenance": {"started": "s", "finished": "f"},
        **more,
    }


def newest(store: Store) -> str:
    return str(read_report(store, "runs/r")["fingerprint"])


def test_a_complete_report_is_the_newest_and_keeps_its_own_place(store: Store) -> None:
    write_report(store, "r", report("aa"), made=True)
    _, json_url, html_url = write_report(store, "r", report("bb"), made=True)
    assert (json_url, html_url) == tuple(f"{store.url}/runs/r/report.{e}" for e in ("json", "html"))
    assert newest(store) == "bb"
    assert fingerprints(store, "r") == ["aa", "bb"]


def test_an_incomplete_report_is_the_newest_until_there_is_a_complete_one(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(store, "r", report("aa", complete=False), made=True)
    assert newest(store) == "aa"
    write_report(store, "r", report("bb", complete=False), made=True)
    assert newest(store) == "bb"
    assert not capsys.readouterr().err
    write_report(store, "r", report("aa"), made=True)
    assert newest(store) == "aa"
    assert read_report(store, "runs/r/aa")["complete"]


def test_an_incomplete_report_replaces_no_complete_one(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(store, "r", report("aa"), made=True)
    page = store.read_bytes("runs/r/report.html")
    capsys.readouterr()

    _, json_url, html_url = write_report(store, "r", report("bb", complete=False), made=True)
    assert json_url == f"{store.url}/runs/r/bb/report.json"
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert html_url in err
    assert read_report(store, "runs/r") == report("aa")
    assert store.read_bytes("runs/r/report.html") == page

    _, json_url, _ = write_report(store, "r", report("aa", complete=False), made=True)
    assert json_url == f"{store.url}/runs/r/aa/incomplete.json"
    assert read_report(store, "runs/r/aa") == report("aa") == read_report(store, "runs/r")

    write_report(store, "r", report("aa"), made=True)
    assert store.names("runs/r/aa") == ["report.html", "report.json"]


def test_half_a_report_is_replaced(store: Store) -> None:
    store.write_bytes("runs/r/report.json", b'{"complete": true, "fing')
    store.write_bytes("runs/r/bb/report.json", b"[1]")
    write_report(store, "r", report("bb", complete=False), made=True)
    assert newest(store) == "bb"


def test_a_run_that_made_nothing_keeps_the_times(store: Store) -> None:
    cost = {"stages_run": 3, "seconds_by_kind": {"aft": 9.0}}
    first = report("aa", wall_seconds=400.0, cost=cost)
    first["provenance"] |= {"versions": {"ray": "1"}, "machine": {"cores": 2}}
    write_report(store, "r", first, made=True)
    cost = {"stages_run": 0, "seconds_by_kind": {"aft": 9.0}}
    again = report("aa", cost=cost, provenance={"started": "later", "finished": "later", "x": 1})
    written, _, _ = write_report(store, "r", again, made=False)
    assert written == read_report(store, "runs/r") == read_report(store, "runs/r/aa")
    assert written["wall_seconds"] == 400.0
    assert written["provenance"] == {**first["provenance"], "x": 1, "times_kept": True}
    assert written["cost"] == cost
    assert b"The last run found all of them" in store.read_bytes("runs/r/report.html")

    written, _, _ = write_report(store, "r", again, made=True)
    assert written["provenance"]["finished"] == "later"
    assert b"The last run found all of them" not in store.read_bytes("runs/r/report.html")


def test_reports_are_found_by_name_and_by_fingerprint(store: Store) -> None:
    for mark in ("aa11", "ab22"):
        write_report(store, "r", report(mark), made=True)
    write_report(store, "s", report("ab22"), made=True)
    assert find_report(store, "r") == "runs/r"
    assert find_report(store, "aa11") == find_report(store, "aa") == "runs/r/aa11"
    assert find_report(store, "aa", beginning=False) is None
    assert find_report(store, "s/ab22") == "runs/s/ab22"
    assert (
        find_report(store, "zz") is find_report(store, "zz/aa11") is find_report(store, "") is None
    )
    with pytest.raises(UserError, match=r"ab22: 2 reports .* give one of r/ab22, s/ab22"):
        find_report(store, "ab22")
