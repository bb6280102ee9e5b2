"""A run that lacks something, from `msm run` to the page: exit code, report, what it opens with.

The stages are real ones that run here; what they ask is made up.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from msm_ray.cli import main

JOB = """
from dataclasses import dataclass

from msm_ray.cells import Cell, ItemValues
from msm_ray.comparing import comparison, evaluated
from msm_ray.errors import UserError
from msm_ray.run import run_job
from msm_ray.stage import Stage
from msm_ray.tasks.asking import row
from msm_ray.tasks.open_qa import rated

ARMS = ("base", "aft", "msm:a", "msm:a+aft")


@dataclass(frozen=True)
class Lacking:
    name: str = "lacking"
    what: str = ""

    def cells(self):
        return [
            Cell(arm, "tiny", seed, self.asked(arm, seed), ("pairs:a", "open_qa"))
            for arm in ARMS
            for seed in (0, 1)
        ]

    def asked(self, arm, seed):
        config = {"arm": arm, "seed": seed, "what": self.what}
        runtime = {"where": "driver", "cpus": 0.1}
        run = "lacking:ask"
        return Stage("asked", "1", config, {}, run, label=f"{arm}/{seed}", runtime=runtime)

    def preview(self, store_url):
        return {}

    def run(self, store_url, address=None):
        cells = self.cells()

        def report(store, records, made, facts):
            return {
                **{"name": self.name, "title": "T", "wall_seconds": 1.0, "cost": {}},
                "provenance": facts,
                **evaluated(comparison([], cells, ("a",), []), records, ItemValues(store)),
            }

        return run_job(self.name, [cell.stage for cell in cells], store_url, address, report)


def ask(ctx):
    (ctx.out / "said.txt").write_text("said")
    arm, seed, what = (ctx.config[name] for name in ("arm", "seed", "what"))
    if (what, arm) == ("arm", "msm:a") or (what, arm, seed) == ("seed", "aft", 1):
        raise RuntimeError("a loss that is no number")
    if what == "items" and arm == "aft":
        raise UserError("pairs.jsonl: holds no items; a task needs at least one")
    status = "refused" if (what, arm) == ("judge", "msm:a+aft") else "ok"
    said = {"prompt": "why?", "answer": "so", "status": status}
    value = None if status == "refused" else 7
    item = {"id": "1", "domain": "life"}
    graded = rated([row(item, "open_qa", value, **said)], "open_qa")
    return graded | {"evals": graded["evals"] | {"pairs:a": {"rate": 1, "n": 1, "by_domain": {}}}}


def experiment():
    return Lacking()
"""


@pytest.mark.parametrize(
    ("what", "code", "words", "lacks"),
    [
        ("", 0, "", 0),
        ("arm", 1, "msm:a: the whole arm, all 2 runs", 4),
        ("seed", 1, "aft, tiny, seed 1, pairs:a, open_qa", 2),
        ("judge", 1, "open_qa: the judge gave no score for any of 1 answers (1 refused)", 2),
        ("items", 2, "pairs.jsonl: holds no items; a task needs at least one", 4),
    ],
)
def test_what_is_missing_opens_the_report_and_is_no_success(
    what: str,
    code: int,
    words: str,
    lacks: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "lacking.py").write_text(JOB)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "lacking", raising=False)
    store = tmp_path / "store"
    job = ["run", str(tmp_path / "lacking.py"), "--store", str(store), "--set", f"what={what}"]
    assert main(job) == code
    report = json.loads((store / "runs" / "lacking" / "report.json").read_text())
    assert report["complete"] == (not lacks)
    assert len(report["cells"]["missing"]) == lacks
    assert report["cells"]["present"] == report["cells"]["expected"] - lacks
    page = (store / "runs" / "lacking" / "report.html").read_text()
    assert ('role="alert"' in page) == bool(lacks)
    assert page.count(words) >= 1
    assert page.index(words) < page.index('id="the-figure"')
