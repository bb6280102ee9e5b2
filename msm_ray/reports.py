"""The reports of runs in a store: the newest of each name, and each comparison's own.

A store holds::

    runs/<name>/report.{json,html}                  the newest complete one; the newest until then
    runs/<name>/<fingerprint>/report.{json,html}    each comparison's own
    runs/<name>/<fingerprint>/incomplete.{json,html}    of a later run that did not get so far
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from msm_ray.artifact import Store
from msm_ray.errors import UserError


def write_report(
    store: Store, name: str, report: Mapping[str, Any], made: bool
) -> tuple[dict[str, Any], str, str]:
    """Write a run's report; returns it as it was written, and where its JSON and its page are.

    It goes under its fingerprint, where ``--set`` of the next run leaves it alone, and becomes the
    run's newest. An incomplete report replaces no complete one: it stays under its fingerprint, and
    a line on stderr says where. A run that ``made`` nothing keeps the times of the one before it.
    """
    from msm_ray.report.html import render_html

    newest, own = f"runs/{name}", f"runs/{name}/{report['fingerprint']}"
    report = dict(report)
    if not made and report["complete"] and (before := _complete(store, own)) is not None:
        report = _with_times(report, before)
    page = render_html(report).encode("utf-8")
    stems = [f"{own}/report", f"{newest}/report"]
    if report["complete"]:
        for end in ("json", "html"):  # an earlier failure is mended
            store.remove(f"{own}/incomplete.{end}")
    else:
        if _complete(store, own) is not None:
            stems[0] = f"{own}/incomplete"
        if _complete(store, newest) is not None:
            stems.pop()
    for stem in stems:
        json_url = store.write_json(f"{stem}.json", report)
        html_url = store.write_bytes(f"{stem}.html", page)
    if stems[-1] != f"{newest}/report":
        print(
            f"msm: this run's report is incomplete: {html_url}; {newest}/report.html stays the"
            " complete one",
            file=sys.stderr,
        )
    return report, json_url, html_url


def _with_times(report: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """``report`` with the times, versions and machine of ``before``, in which it was computed."""
    old = before.get("provenance", {})
    kept = {k: old[k] for k in ("started", "finished", "versions", "machine") if k in old}
    kept["times_kept"] = True  # they are not those of the run that wrote this report
    wall = before.get("wall_seconds", report["wall_seconds"])
    return {**report, "wall_seconds": wall, "provenance": {**report["provenance"], **kept}}


def _complete(store: Store, folder: str) -> dict[str, Any] | None:
    try:
        report = read_report(store, folder)
    except (FileNotFoundError, UserError):  # none, or half of one
        return None
    return report if report.get("complete") else None


def read_report(store: Store, folder: str) -> dict[str, Any]:
    """The report in ``folder`` (see `folders`).

    ``UserError`` if it cannot be read as one, ``FileNotFoundError`` if there is none.
    """
    name = f"{folder}/report.json"
    report = store.read_json(name)
    if not isinstance(report, Mapping):
        raise UserError(f"store {store.url}: {name} is not a report")
    return dict(report)


def run_names(store: Store) -> list[str]:
    """Names of the runs that have a report, sorted."""
    return [n for n in store.names("runs") if "report.json" in store.names(f"runs/{n}")]


def fingerprints(store: Store, name: str) -> list[str]:
    """Fingerprints of the comparisons of one run's name that have a report, sorted."""
    return [
        entry
        for entry in store.names(f"runs/{name}")
        if "." not in entry and "report.json" in store.names(f"runs/{name}/{entry}")
    ]


def find_report(store: Store, word: str, beginning: bool = True) -> str | None:
    """The folder of the report that ``word`` names: NAME, FINGERPRINT or NAME/FINGERPRINT.

    The beginning of a fingerprint will do if ``beginning``. None if there is no such report;
    ``UserError`` if there are several.
    """
    names = run_names(store)
    if word in names:
        return f"runs/{word}"
    name, _, mark = word.rpartition("/")
    own = [(n, f) for n in ([name] if name else names) for f in fingerprints(store, n)]
    found = [(n, f) for n, f in own if f == mark]
    if not found and mark and beginning:
        found = [(n, f) for n, f in own if f.startswith(mark)]
    if len(found) > 1:
        shown = ", ".join(f"{n}/{f}" for n, f in found[:5])
        raise UserError(f"{word}: {len(found)} reports have that fingerprint; give one of {shown}")
    return f"runs/{found[0][0]}/{found[0][1]}" if found else None
