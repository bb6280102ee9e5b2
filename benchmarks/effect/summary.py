"""The tables of a report.json as Markdown: python benchmarks/effect/summary.py REPORT.json"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def arms(report: dict[str, Any]) -> list[str]:
    names = list(next(iter(report["arms"].values()))["evals"])
    lines = [f"| arm | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for arm, entry in report["arms"].items():
        cells = []
        for name in names:
            found = entry["evals"][name]
            low, high = found["ci95"]
            cells.append(f"{found['rate']:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def effects(report: dict[str, Any]) -> list[str]:
    lines = ["| effect | value | 95 % | by base/seed |", "|---|---|---|---|"]
    for name, effect in report["effects"].items():
        low, high = effect["ci95"]
        runs = ", ".join(
            f"{p['base'].removeprefix('base-')}/{p['seed']} {p['value']:+.3f}"
            for p in effect["per_seed"]
        )
        lines.append(f"| {name} | {effect['value']:+.3f} | {low:+.3f} to {high:+.3f} | {runs} |")
    return lines


def corpora(report: dict[str, Any]) -> list[str]:
    lines = ["| corpus | writer | planned | kept | share | rejected | failed |", "|---" * 7 + "|"]
    for name, c in report["corpus"]["by_corpus"].items():
        why = ", ".join(f"{k} {v}" for k, v in sorted(c["rejected"].items(), key=lambda x: -x[1]))
        share = c["kept"] / c["planned"]
        lines.append(
            f"| {name} | {c['writer']} | {c['planned']} | {c['kept']} | {share:.3f} "
            f"| {why or '-'} | {c['failed']} |"
        )
    return lines


def main() -> None:
    report = json.loads(Path(sys.argv[1]).read_text())
    cells = report["cells"]
    print(
        f"{report['name']}, fingerprint {report['fingerprint']}: {cells['present']} of "
        f"{cells['expected']} cells, {report['wall_seconds']:.0f} s"
    )
    for table in (arms, effects, corpora):
        print("\n" + "\n".join(table(report)))


if __name__ == "__main__":
    main()
