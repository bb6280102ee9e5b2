"""What a figure's run found, from its report: a small record beside this file, and tables.

msm run jobs/values_micro.py
python benchmarks/figures/summary.py msm-store values_micro
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from msm_ray.artifact import Store
from msm_ray.reports import read_report

HERE = Path(__file__).parent
KEPT = ("choice", "choice_soft", "facts", "heldout_loss")  # evaluations in a record


def record(report: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a report that a figure is made of, with where they come from."""
    arms = {
        arm: {
            name: {k: _round(found[k]) for k in ("rate", "ci95", "n", "over")}
            for name, found in entry["evals"].items()
            if name in KEPT
        }
        for arm, entry in report["arms"].items()
    }
    effects = {
        name: {k: _round(effect[k]) for k in ("value", "ci95", "over", "verdict")}
        for name, effect in report["effects"].items()
    }
    made = report["provenance"]
    return {
        "command": f"msm run jobs/{report['name']}.py",
        **{k: report[k] for k in ("name", "fingerprint", "complete")},
        "cells": {k: report["cells"][k] for k in ("expected", "present")},
        "stage_seconds": _round(sum(report["cost"]["seconds_by_kind"].values())),
        "versions": made["versions"],
        "machine": made["machine"],
        "finished": made["finished"],
        "members": {
            m: {
                # where a spec lies on the machine says nothing
                name: Path(value).name if name.endswith(".path") else value
                for name, value in of["settings"].items()
            }
            for m, of in report.get("members", {}).items()
        },
        "curves": report.get("curves", []),
        "arms": arms,
        "effects": effects,
    }


def _round(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    return [_round(v) for v in value] if isinstance(value, list) else value


def table(found: dict[str, Any], starts: tuple[str, ...]) -> list[str]:
    """The effects whose names begin with ``starts``, as Markdown."""
    lines = ["| effect | value | 95 % | |", "|---|---|---|---|"]
    for name, effect in found["effects"].items():
        if name.startswith(starts):
            low, high = effect["ci95"]
            verdict = "" if effect["verdict"] == "difference" else effect["verdict"]
            value = f"{effect['value']:+.3f} | {low:+.3f} to {high:+.3f}"
            lines.append(f"| {name} | {value} | {verdict} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--effects", nargs="*", default=["separation"], help="names to print")
    args = parser.parse_args()
    store = Store(args.store)
    for name in args.runs:
        found = record(read_report(store, f"runs/{name}"))
        (HERE / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}, {found['cells']}", *table(found, tuple(args.effects)), "", sep="\n")


if __name__ == "__main__":
    main()
