"""Two reports side by side: what differs, what can be compared, and why the rest cannot."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "report"))
from report_example import example_report, suite_report

from msm_ray.cli import main
from msm_ray.compare import comparison, comparison_text, settings_diff
from msm_ray.report.comparison import render_comparison


@pytest.fixture
def a() -> dict[str, Any]:
    return example_report()


@pytest.fixture
def b() -> dict[str, Any]:
    report = copy.deepcopy(example_report())
    report |= {"fingerprint": "b" * 16}
    return report


def row(found: dict[str, Any], arm: str, name: str) -> dict[str, Any]:
    (one,) = (r for r in found["rates"] if (r["arm"], r["eval"]) == (arm, name))
    return one


def shift(report: dict[str, Any], arm: str, name: str, by: list[float]) -> None:
    cell = report["arms"][arm]["evals"][name]
    for run, d in zip(cell["per_seed"], by, strict=True):
        run["rate"] += d
    cell["rate"] += sum(by) / len(by)


def test_a_difference_is_paired_and_b_minus_a(a: dict[str, Any], b: dict[str, Any]) -> None:
    shift(b, "aft", "choice", [-0.1, -0.2, -0.1, -0.2, -0.1, -0.2])
    found = comparison(a, b)
    json.dumps(found, allow_nan=False)
    difference = row(found, "aft", "choice")["difference"]
    assert difference["value"] == pytest.approx(-0.15)
    low, high = difference["ci95"]
    assert -0.3 <= low < -0.15 < high < 0  # the pairs' own spread, not that of the bases
    assert (difference["pairs"], difference["verdict"]) == (6, "difference")
    same = row(found, "base", "choice")["difference"]
    assert (same["value"], same["verdict"]) == (0.0, "none shown")
    text = comparison_text(found)
    assert "aft" in text
    assert "−0.150 [" in text
    assert "a difference, 6 pairs" in text
    # pairs that do not vary say nothing of how much the next one would
    shift(b, "aft", "facts", [0.1] * 6)
    for x, y in zip(*(r["arms"]["aft"]["evals"]["facts"]["per_seed"] for r in (a, b)), strict=True):
        x["rate"], y["rate"] = 0.5, 0.75
    difference = row(comparison(a, b), "aft", "facts")["difference"]
    assert (difference["ci95"], difference["verdict"]) == (None, "no interval")


def test_settings_specs_and_versions_that_differ_are_named_by_their_path(
    a: dict[str, Any], b: dict[str, Any]
) -> None:
    assert settings_diff(a, b) == []
    known = b["provenance"]
    known["settings"]["aft"]["train"]["learning_rate"] = 1e-4
    known["settings"]["bases"] = [{"name": "base-0", "path": "p"}]
    known["specs"]["america"]["sha256"] = "c3" * 32
    known["versions"]["torch"] = "2.14.0"
    assert {d["field"]: (d["a"], d["b"]) for d in settings_diff(a, b)} == {
        "aft.train.learning_rate": (2e-4, 1e-4),
        "bases[0].name": (None, "base-0"),
        "bases[0].path": (None, "p"),
        "specs (sha256).america": ("a1" * 32, "c3" * 32),
        "versions.torch": ("2.13.0", "2.14.0"),
    }
    text = comparison_text(comparison(a, b))
    assert "aft.train.learning_rate" in text
    assert "0.0002" in text


def test_other_items_are_not_compared(a: dict[str, Any], b: dict[str, Any]) -> None:
    b["item_sets"]["choice"]["base-1"] = "other"
    found = comparison(a, b)
    assert row(found, "aft", "choice")["not_comparable"] == "other items of base-1"
    assert "difference" in row(found, "aft", "facts")
    effects = {e["name"]: e for e in found["effects"]}
    assert effects["separation"]["not_comparable"] == "other items of base-1"
    assert "difference" in effects["price_facts_america"]
    # reports without hashes of their items: at least as many have to be asked
    for report in (a, b):
        del report["item_sets"]
    assert "difference" in row(comparison(a, b), "aft", "choice")
    b["arms"]["aft"]["evals"]["choice"]["per_seed"][2]["n"] = 96
    found = comparison(a, b)
    assert row(found, "aft", "choice")["not_comparable"] == (
        "other items: 288 and 96 in base-1, seed 0"
    )
    assert "not comparable: other items: 288" in comparison_text(found)


def test_only_pairs_that_both_have_are_compared(a: dict[str, Any], b: dict[str, Any]) -> None:
    cell = b["arms"]["aft"]["evals"]["choice"]
    shift(b, "aft", "choice", [0.1, 0.1, 0.5, 0.5, 0.5, 0.5])
    cell["per_seed"] = cell["per_seed"][:2]
    difference = row(comparison(a, b), "aft", "choice")["difference"]
    assert difference["value"] == pytest.approx(0.1)
    assert difference["pairs"] == 2
    cell["per_seed"] = cell["per_seed"][:1]
    difference = row(comparison(a, b), "aft", "choice")["difference"]
    assert (difference["ci95"], difference["verdict"]) == (None, "one run")
    cell["per_seed"][0]["seed"] = 17
    assert row(comparison(a, b), "aft", "choice")["not_comparable"] == "no base and seed in common"


def test_what_one_of_them_lacks_is_told(a: dict[str, Any], b: dict[str, Any]) -> None:
    b["arms"]["msm:new"] = b["arms"].pop("msm:america")
    del b["effects"]["separation"]
    b["effects"]["aft_minus_base"]["label"] = "aft - other, choice"
    b["complete"] = False
    found = comparison(a, b)
    assert (found["only_a"], found["only_b"]) == (["msm:america"], ["msm:new"])
    assert row(found, "msm:america", "choice")["not_comparable"] == "not measured in b"
    effects = {e["name"]: e.get("not_comparable") for e in found["effects"]}
    assert effects["separation"] == "not measured in b"
    assert effects["aft_minus_base"] == "other arms: aft - base, choice against aft - other, choice"
    text = comparison_text(found)
    assert "only in b: msm:new" in text
    assert "INCOMPLETE" in text
    page = render_comparison(found)
    assert page.index("Incomplete:") < page.index("<h1>")
    assert "not comparable: not measured in b" in page


def test_a_report_beside_itself_and_empty_ones(a: dict[str, Any]) -> None:
    found = comparison(a, a)
    assert found["same"]
    assert "both are the same comparison" in comparison_text(found)
    assert all(r["difference"]["value"] == 0 for r in found["rates"])
    empty = comparison({}, {})
    assert (empty["rates"], empty["effects"]) == ([], [])
    assert comparison_text(empty)
    assert "Nothing was measured" in render_comparison(empty)


def test_suites_are_compared_arm_by_arm(a: dict[str, Any]) -> None:
    found = comparison(a, suite_report())
    assert "msm:america@25k" in found["only_b"]
    assert "difference" in row(found, "aft", "choice")
    assert "<script>alert" not in render_comparison(found)


# ----------------------------------------------------------------------------------- the command


@pytest.fixture
def store(tmp_path: Path, a: dict[str, Any], b: dict[str, Any]) -> Path:
    """A store with two reports of one name, the second one its newest."""
    runs = tmp_path / "store" / "runs" / "cheese-micro"
    for folder, report in (("", b), (a["fingerprint"], a), (b["fingerprint"], b)):
        (runs / folder).mkdir(parents=True, exist_ok=True)
        (runs / folder / "report.json").write_text(json.dumps(report))
    return tmp_path / "store"


def test_two_runs_by_name_and_fingerprint(
    store: Path, tmp_path: Path, a: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = f"cheese-micro/{a['fingerprint']}", "cheese-micro"
    page = tmp_path / "two.html"
    assert main(["compare", old, new, "--store", str(store), "--html", str(page)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"a  cheese-micro  {a['fingerprint']}  complete, 180 of 180 cells")
    assert "no setting differs" in text
    assert page.read_text().startswith("<!doctype html>")
    # a fingerprint's beginning will do
    assert main(["compare", a["fingerprint"][:6], "bbbb", "--store", str(store), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["a"]["fingerprint"], found["b"]["fingerprint"]) == (a["fingerprint"], "b" * 16)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cheese-micro", "other"], "other: no such run in .*; its runs: cheese-micro"),
        (["cheese-micro"], "the following arguments are required: RUN"),
        (["cheese-micro", "bbbb", "--html", "no/where.html"], "there is no folder no"),
    ],
)
def test_wrong_input_is_one_line_and_2(
    store: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    try:
        code = main(["compare", *words, "--store", str(store)])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert re.search(said, err)
    assert err.count("\n") == 1


def test_the_terminal_shows_the_largest_differences_and_counts_the_rest(
    a: dict[str, Any], b: dict[str, Any]
) -> None:
    shift(b, "aft", "choice", [-0.1, -0.2, -0.1, -0.2, -0.1, -0.2])
    b["arms"]["msm:new"] = b["arms"].pop("msm:america")
    known = b["provenance"]
    known["settings"] |= {f"field{i}": i for i in range(30)}
    found = comparison(a, b)
    text = comparison_text(found, most=2)
    lines = text.splitlines()
    rates = [row for row in found["rates"] if "difference" in row]
    sizes = sorted((abs(row["difference"]["value"]) for row in rates), reverse=True)
    assert sizes[0] == pytest.approx(0.15)
    assert any(line.startswith("aft ") and "−0.150" in line for line in lines)
    left, cannot = len(found["rates"]) - 2, len(found["rates"]) - len(rates)
    assert cannot > 0
    assert f"and {left} more (--html FILE and --json have all)" in text
    assert f"  {left - cannot} with smaller differences" in text
    assert f"  {cannot // 2} not comparable: not measured in b" in text
    assert "and 28 more (--html FILE and --json have all)" in text
    # What cannot be compared is shown where there is room, in its place.
    assert "not measured in b" in comparison_text(found, most=500)
    assert "more" not in comparison_text(found, most=500)
    assert len(comparison_text(found).splitlines()) < 80
