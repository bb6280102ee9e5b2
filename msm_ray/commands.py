"""``msm ls``, ``show``, ``verify``, ``gc``, ``report``, ``compare`` and ``serve``: a store."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msm_ray.errors import UserError
from msm_ray.reports import find_report, fingerprints, read_report, run_names

if TYPE_CHECKING:
    from msm_ray.artifact import Record, Store


def _open(url: str, mend: bool = False) -> Store:
    """The store at ``url``, in which something must be already: looking never makes one.

    Nor does it set aside what is damaged, unless it is to ``mend``.
    """
    from msm_ray.artifact import Store

    store = Store(url, create=False, mend=mend)
    if not store.names("artifacts") and not store.names("runs"):
        raise UserError(
            f"store {store.url}: no store here yet; msm run makes one, --store names it"
        )
    return store


def _find(store: Store, prefix: str, others: Sequence[str] = ()) -> str:
    """The one artifact id that begins with ``prefix``; UserError when none or several do.

    ``others`` are ids to look among besides those of the committed artifacts.
    """
    found = _beginning(store, prefix, others)
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"{prefix}: no artifact with that id in {store.url}; msm ls lists them")
    shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
    raise UserError(f"{prefix}: {len(found)} artifacts begin so ({shown}); give more of the id")


def _beginning(store: Store, prefix: str, others: Sequence[str] = ()) -> list[str]:
    ids = sorted({*store.ids(), *others})
    return [prefix] if prefix in ids else [i for i in ids if i.startswith(prefix)]


# ------------------------------------------------------------------------------------ ls, show


def ls(arguments: argparse.Namespace) -> int:
    """``msm ls``: the runs, then the artifacts, oldest first."""
    from msm_ray.artifact import DamagedArtifact

    store = _open(arguments.store)
    runs = [_run_row(store, name) for name in run_names(store)]
    records, damaged = [], []
    for id in store.ids():
        try:
            if (record := store.get(id)) is not None:
                records.append(record)
        except DamagedArtifact as error:
            damaged.append(str(error))
    records.sort(key=lambda r: r.created)
    if arguments.json:
        rows = [
            {"id": r.id, "kind": r.kind, "label": r.label, "bytes": r.bytes, "created": r.created}
            for r in records
        ]
        print(json.dumps({"runs": runs, "artifacts": rows, "damaged": damaged}, indent=2))
        return 0
    print(f"{store.url}: {_count(len(runs), 'run')}, {_count(len(records), 'artifact')}")
    for line in damaged:
        print(f"  {line}")
    for run in runs:
        for line in _run_lines(run):
            print(f"  {line}")
    if not records:
        return 0
    table = [["ID", "KIND", "LABEL", "SIZE", "AGE"]]
    table += [[r.id, r.kind, r.label, size_text(r.bytes), age_text(r.created)] for r in records]
    widths = [max(len(row[i]) for row in table) for i in range(5)]
    for row in table:
        left = "  ".join(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=False))
        right = "  ".join(row[i].rjust(widths[i]) for i in (3, 4))
        print(f"{left}  {right}")
    return 0


def _run_row(store: Store, name: str) -> dict[str, Any]:
    """What `ls` says of a run: its newest report, and those of its other fingerprints."""
    newest = _report_row(store, f"runs/{name}")
    others = [
        _report_row(store, f"runs/{name}/{mark}") | {"fingerprint": mark}
        for mark in fingerprints(store, name)
        if mark != newest.get("fingerprint")
    ]
    return {"name": name, **newest, "others": others}


def _report_row(store: Store, folder: str) -> dict[str, Any]:
    try:
        report = read_report(store, folder)
    except UserError as error:
        return {"unreadable": str(error)}
    cells = report.get("cells", {})
    return {
        "fingerprint": report.get("fingerprint"),
        "complete": bool(report.get("complete")),
        "present": cells.get("present"),
        "expected": cells.get("expected"),
        "finished": report.get("provenance", {}).get("finished"),
    }


def _run_lines(run: Mapping[str, Any]) -> list[str]:
    lines = [f"run {run['name']}  {_report_text(run)}"]
    return lines + [f"    also  {_report_text(other)}" for other in run["others"]]


def _report_text(row: Mapping[str, Any]) -> str:
    if "unreadable" in row:
        return f"UNREADABLE: {row['unreadable']}"
    state = "complete" if row["complete"] else "INCOMPLETE"
    cells = f"{row['present']} of {row['expected']} cells"
    return f"{row['fingerprint']}  {state}, {cells}, finished {row['finished'] or 'unknown'}"


def show(arguments: argparse.Namespace) -> int:
    """``msm show ID``: a record, as text or as JSON; of a run or fingerprint, its report in short.

    A whole fingerprint is one, also where an artifact's id begins with it.
    """
    store = _open(arguments.store)
    folder = find_report(store, arguments.id, beginning=not _beginning(store, arguments.id))
    if folder is not None:
        report = read_report(store, folder)
        print(json.dumps(report, indent=2) if arguments.json else run_text(report))
        return 0
    record = store.get(_find(store, arguments.id))
    assert record is not None  # ids() lists committed artifacts only
    if arguments.json:
        print(json.dumps(record.to_json(), indent=2))
    else:
        print(record_text(record))
    return 0


def run_text(report: Mapping[str, Any]) -> str:
    """A run for people: whether it is whole, its effects with their intervals, what it made."""
    cells, cost = report["cells"], report["cost"]
    whole = "complete" if report["complete"] else "INCOMPLETE"
    lines = [f"run {report['name']}", f"  fingerprint  {report['fingerprint']}"]
    lines.append(f"  cells        {cells['present']} of {cells['expected']}, {whole}")
    lines.append(f"  stages       {cost['stages_run']} run, {cost['stages_cached']} there before")
    if report.get("search"):
        from msm_ray.search.results import search_lines

        lines += [f"  {line}" for line in search_lines(report["search"])]
    effects = report["effects"]
    width = max(map(len, effects), default=0)
    for name, effect in effects.items():
        low, high = effect["ci95"]
        lines.append(f"  {name.ljust(width)}  {effect['value']:+.3f}  [{low:+.3f}, {high:+.3f}]")
    return "\n".join(lines)


def record_text(record: Record) -> str:
    """A record for people: what it is, from what, what came out, and its files."""
    lines = [f"{record.kind} {record.label}".rstrip(), f"  id        {record.id}"]
    lines.append(f"  created   {record.created} ({age_text(record.created)} ago)")
    lines.append(f"  took      {record.seconds:.1f} s")
    lines.append(f"  version   {record.version}")
    for title, values in (
        ("inputs", record.inputs),
        ("config", record.config),
        ("facts", record.facts),
        ("provenance", record.provenance),
    ):
        if values:
            lines.append(f"{title}")
            lines.extend(f"  {line}" for line in _tree(values))
    lines.append(f"files ({size_text(record.bytes)})")
    width = max((len(f.path) for f in record.files), default=0)
    lines += [
        f"  {f.path.ljust(width)}  {size_text(f.size):>9}  {f.sha256[:12]}" for f in record.files
    ]
    return "\n".join(lines)


def _tree(values: Mapping[str, Any], limit: int = 100) -> list[str]:
    """Nested values as indented ``name: value`` lines; long lists and texts are cut."""
    lines: list[str] = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            lines.append(f"{name}:")
            lines += [f"  {line}" for line in _tree(value, limit - 2)]
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        text = " ".join(text.split())
        lines.append(f"{name}: {text if len(text) <= limit else text[: limit - 3] + '...'}")
    return lines


# ---------------------------------------------------------------------------------- verify, gc


def verify(arguments: argparse.Namespace) -> int:
    """``msm verify [ID]``: 1 if any file is missing or is not what was committed.

    What is damaged is set aside, and told again until it is made again or removed. Without an id
    also what the runs' reports name: a report that cannot be read, an artifact that is not there.
    """
    from msm_ray.artifact import DamagedArtifact

    store = _open(arguments.store, mend=True)
    aside = set(store.ids_aside())
    ids = [_find(store, arguments.id, sorted(aside))] if arguments.id else sorted(store.ids())
    bad = [] if arguments.id else _not_there(store, aside)
    ids += [] if arguments.id else sorted(aside)
    for id in ids:
        try:
            if id in aside:
                bad.append(f"damaged  {id} was set aside and has not been made again")
            else:
                store.verify(id)
        except DamagedArtifact as error:
            bad.append(f"damaged  {' '.join(str(error).split())}")
    for line in bad:
        print(line)
    sound = len(ids) - sum(line.startswith("damaged") for line in bad)
    print(f"{sound} of {_count(len(ids), 'artifact')} sound in {store.url}")
    if bad:
        print("msm: run the job again: what is not sound is made anew", file=sys.stderr)
    return 1 if bad else 0


def _not_there(store: Store, aside: set[str]) -> list[str]:
    """A line for each unreadable report, and for each artifact that only a report knows."""
    known, lines = set(store.ids()) | aside, []
    for name in run_names(store):
        for folder in (f"runs/{name}", *(f"runs/{name}/{f}" for f in fingerprints(store, name))):
            try:
                listed = read_report(store, folder).get("provenance", {}).get("artifacts", [])
            except UserError as error:
                lines.append(f"unreadable  {error}")
                continue
            for artifact in listed:
                if artifact["id"] not in known:
                    known.add(artifact["id"])
                    what = f"{artifact['kind']} {artifact['label']}".strip()
                    lines.append(f"missing  {artifact['id']} ({what}) of {folder}")
    return lines


def gc(arguments: argparse.Namespace) -> int:
    """``msm gc``: remove what no committed record refers to; committed artifacts all stay."""
    store = _open(arguments.store)
    if arguments.dry_run:
        for name in store.leftovers():
            print(f"would remove  {name}")
        return 0
    removed = store.gc()
    for name in removed:
        print(f"removed  {name}")
    print(f"{_count(len(removed), 'leftover')} removed from {store.url}")
    return 0


# -------------------------------------------------------------------------------- report, serve


def report(arguments: argparse.Namespace) -> int:
    """``msm report RUN`` (or a fingerprint): report.html anew from report.json."""
    from msm_ray.report.html import render_html

    store = _open(arguments.store)
    folder = _report_folder(store, arguments.run)
    page = render_html(read_report(store, folder)).encode("utf-8")
    print(f"report: {store.write_bytes(f'{folder}/report.html', page)}")
    return 0


def _report_folder(store: Store, run: str) -> str:
    """Where the report of ``run`` is (see `find_report`)."""
    folder = find_report(store, run)
    if folder is None:
        allowed = ", ".join(run_names(store)) or "none yet"
        raise UserError(f"{run}: no such run in {store.url}; its runs: {allowed}")
    return folder


def compare(arguments: argparse.Namespace) -> int:
    """``msm compare RUN RUN``: as text or as JSON; with ``--html`` as a page, too."""
    from msm_ray.compare import comparison, comparison_text
    from msm_ray.report.comparison import render_comparison

    store = _open(arguments.store)
    folders = [_report_folder(store, run) for run in arguments.runs]
    found = comparison(*(read_report(store, folder) for folder in folders))
    if arguments.html:
        path = Path(arguments.html)
        if not path.parent.is_dir():
            raise UserError(f"--html {path}: there is no folder {path.parent}")
        path.write_text(render_comparison(found), encoding="utf-8")
        print(f"page: {path}", file=sys.stderr)
    print(json.dumps(found, indent=2) if arguments.json else comparison_text(found))
    return 0


def serve(arguments: argparse.Namespace) -> int:
    """``msm serve ID...``: one OpenAI-compatible server on checkpoints, until Ctrl-C.

    Those are one whole model, or several adapters of one base.
    """
    from dataclasses import replace
    from pathlib import Path

    from msm_ray.evaluate import serve as server
    from msm_ray.evaluate.checkpoints import read_checkpoint

    store = _open(arguments.store, mend=True)
    ids = list(dict.fromkeys(_find(store, prefix) for prefix in arguments.ids))
    records = [_model_record(store, id) for id in ids]
    labels = [record.label for record in records]
    models, below = [], []
    for record in records:
        base = _base_record(store, record)
        named = labels.count(record.label) == 1 and record.label not in ("", record.id)
        names = (record.id, *([record.label] if named else []))
        folder = store.fetch(record.id)
        over = None if base is None else store.fetch(base.id)
        models.append(server.Served(read_checkpoint(folder, over), names))
        below = [] if base is None else [base.id]
    settings = server.SETTINGS
    if arguments.max_length is not None:
        server.check_length(models, arguments.max_length)
        settings = replace(settings, max_length=arguments.max_length)
    template = None if arguments.chat_template is None else Path(arguments.chat_template)
    client = server.Client(arguments.tool_parser, template)
    return server.serve(models, arguments.port, arguments.host, settings, client, below)


def _model_record(store: Store, id: str) -> Record:
    """The record of a model or an adapter; UserError for any other artifact."""
    record = store.get(id)
    assert record is not None
    if not {"config.json", "adapter_config.json"} & {file.path for file in record.files}:
        raise UserError(f"{id}: an artifact of kind {record.kind}; only models can be served")
    return record


def _base_record(store: Store, record: Record) -> Record | None:
    """The model below an adapter: what its training names as base, or began with."""
    if "adapter_config.json" not in {file.path for file in record.files}:
        return None
    id = record.inputs.get("base") or record.inputs.get("model")
    if id is None or store.get(id) is None:
        raise UserError(f"{record.id}: the model below this adapter ({id}) is not in {store.url}")
    return _model_record(store, id)


# ------------------------------------------------------------------------------ text for people


def size_text(size: float) -> str:
    """Bytes for people: 512 B, 3.1 kB, 4.0 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def age_text(created: str, now: datetime | None = None) -> str:
    """Time since the ISO time ``created``: 40 s, 12 min, 5 h, 3 d."""
    then = datetime.fromisoformat(created)
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    seconds = max(0.0, ((now or datetime.now(UTC)) - then).total_seconds())
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
