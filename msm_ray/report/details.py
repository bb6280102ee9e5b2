"""The rest of the report: corpus, training curves, costs, provenance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from msm_ray.report.figures import Curve, curves_figure
from msm_ray.report.names import arm_order, base_names
from msm_ray.report.text import (
    count,
    details,
    duration,
    esc,
    fixed,
    items,
    mapping,
    note,
    number,
    short_count,
    sortable,
    table,
    word,
)

SAMPLES_SHOWN = 4
MOST_POINTS = 200  # of one line of a chart, which is as many pixels wide


# ---------------------------------------------------------------------------------------- corpus


def corpus(report: Mapping[str, Any]) -> str:
    """Counts that add up to the plan, reasons of rejection, and samples kept and rejected."""
    whole = mapping(report.get("corpus"))
    if not whole:
        return "<p>No corpus was written in this run.</p>"
    each = {k: mapping(v) for k, v in mapping(whole.get("by_corpus")).items()}
    rows = [_corpus_row(title, part) for title, part in each.items()]
    if len(rows) != 1:
        rows.append(_corpus_row("all", whole))
    sums = ("= kept", "+ rejected", "+ failed")
    head = ["corpus", "writer", "planned", *sums, "tokens", ""]
    parts = [table(head, rows, "numbers")]
    parts.append(_reasons(whole, each))
    parts.append(
        note(
            "Everything that was planned ends as kept, as rejected with a reason, or as failed with"
            " an error; the three add up to the plan. Only what is kept is trained on. A high share"
            " rejected for one reason points at the prompt or at the writer, not at chance."
        )
    )
    shown = 0
    for title, part in each.items():
        body = _samples(part)
        if body:
            writer = word(part.get("writer"), "unknown")
            heading = f"Samples: {title} (writer: {writer})"
            parts.append(details(heading, body, is_open=shown == 0))
            shown += 1
    return "".join(parts)


def _rejected(part: Mapping[str, Any]) -> float | None:
    """Number of rejected documents; None when the report does not say."""
    reasons = part.get("rejected")
    if not isinstance(reasons, Mapping):
        return number(reasons)
    return sum(n for n in (number(v) for v in reasons.values()) if n is not None)


def _corpus_row(title: str, part: Mapping[str, Any]) -> list[str]:
    planned, kept = number(part.get("planned")), number(part.get("kept"))
    rejected, failed = _rejected(part), number(part.get("failed"))
    bar = ""
    if planned and kept is not None and rejected is not None and failed is not None:
        spans = "".join(
            f'<i class="{kind}" style="width:{100 * n / planned:.2f}%"></i>'
            for kind, n in (("kept", kept), ("rejected", rejected), ("failed", failed))
        )
        bar = f'<span class="bar">{spans}</span><small>{100 * kept / planned:.0f} % kept</small>'
        if kept + rejected + failed != planned:
            missing = planned - kept - rejected - failed
            bar += f'<br><small class="warn">{count(missing)} unaccounted for</small>'
    return [
        f"<b>{esc(title)}</b>",
        esc(word(part.get("writer"), "")),
        *(count(n) for n in (planned, kept, rejected, failed)),
        count(part.get("tokens")) if "tokens" in part else "",
        bar,
    ]


def _reasons(whole: Mapping[str, Any], each: Mapping[str, Mapping[str, Any]]) -> str:
    reasons = mapping(whole.get("rejected"))
    if not reasons:
        return "<p>Nothing was rejected.</p>" if _rejected(whole) == 0 else ""
    ordered = sorted(reasons, key=lambda r: -(number(reasons[r]) or 0))
    meanings = mapping(whole.get("reasons"))
    columns = list(each)
    rows = [
        [
            f"{esc(reason)}<small>{esc(word(meanings.get(reason), ''))}</small>",
            *(count(mapping(each[c].get("rejected")).get(reason, 0)) for c in columns),
            count(reasons[reason]),
        ]
        for reason in ordered
    ]
    return "<h3>Reasons of rejection</h3>" + table(
        ["reason", *(esc(c) for c in columns), "all"], rows, "numbers"
    )


def _samples(part: Mapping[str, Any]) -> str:
    kept = [mapping(s) for s in items(part.get("samples"))][:SAMPLES_SHOWN]
    rejected = [mapping(s) for s in items(part.get("rejected_samples"))][:SAMPLES_SHOWN]
    if not kept and not rejected:
        return ""
    left = "".join(_quote(s.get("text"), _source(s)) for s in kept)
    right = "".join(
        _quote(s.get("text"), f"rejected: {word(s.get('reason'), 'unknown')}") for s in rejected
    )
    return (
        '<div class="pair">'
        f"<div><h4>Kept</h4>{left or '<p>Nothing to show.</p>'}</div>"
        f'<div class="bad"><h4>Rejected</h4>{right or "<p>Nothing to show.</p>"}</div></div>'
    )


def _source(sample: Mapping[str, Any]) -> str:
    known = [" ".join(word(sample.get(k), "").split()) for k in ("doc_type", "section")]
    cut = [k if len(k) <= 90 else f"{k[:89]}…" for k in known if k]
    return " · about: ".join(cut)


def _quote(content: Any, source: str) -> str:
    text = word(content, "(empty)")
    return f"<blockquote><p>{esc(text)}</p><cite>{esc(source)}</cite></blockquote>"


# -------------------------------------------------------------------------------------- training


def training(report: Mapping[str, Any]) -> str:
    """Loss curves as small multiples, one row of charts per stage, and a table of the amounts."""
    arms = mapping(report.get("arms"))
    bases = base_names(report)
    by_stage: dict[str, list[tuple[str, list[Curve]]]] = {}
    rows = []
    for arm in arm_order(arms):
        for stage, entry in mapping(mapping(arms[arm]).get("train")).items():
            if stage == "midtrain" and arm.replace("+aft", "", 1) in set(arms) - {arm}:
                continue  # the very same midtraining as in the arm without AFT
            entry = mapping(entry)
            rows.append(
                [
                    f"<b>{esc(arm)}</b>",
                    esc(stage),
                    *(count(entry.get(k)) for k in ("tokens", "steps", "tokens_per_second")),
                ]
            )
            curves = _curves(entry, bases)
            if curves:
                by_stage.setdefault(stage, []).append((arm, curves))
    if not rows:
        return "<p>Nothing was trained in this run.</p>"
    parts = []
    for stage in sorted(by_stage, key=lambda s: {"midtrain": 0, "aft": 1}.get(s, 2)):
        charts = by_stage[stage]
        values = [v for _, curves in charts for c in curves for _, v in c.points]
        low, high = min(values), max(values)
        digits = 2 if high - low > 0.1 else 3
        drawn = "".join(curves_figure(c, arm, low, high, digits) for arm, c in charts)
        parts.append(f'<h3>{esc(stage)}</h3><div class="multiples">{drawn}</div>')
    parts.append(
        table(["arm", "stage", "tokens", "optimizer steps", "tokens / s"], rows, "numbers")
    )
    parts.append(
        note(
            "Training loss (nats per token) by optimizer step, one line per"
            " base model (colour) and seed; charts of one stage share their vertical axis. Tokens"
            " and steps are those of one model. Of a long run the lowest and the highest loss of"
            " every stretch are drawn. In midtraining, a loss that falls to near zero"
            " means memorised documents; one that rises, an unstable run."
        )
    )
    return "".join(parts)


def _curves(entry: Mapping[str, Any], bases: list[str]) -> list[Curve]:
    curves = []
    for curve in (mapping(c) for c in items(entry.get("curves"))):
        points = []
        for point in items(curve.get("points")):
            if len(items(point)) == 2:
                step, loss = number(point[0]), number(point[1])
                if step is not None and loss is not None:
                    points.append((step, loss))
        if points:
            base = word(curve.get("base"), "?")
            series = bases.index(base) if base in bases else 0
            title = f"{base}, seed {word(curve.get('seed'), '?')}"
            curves.append(Curve(series, tuple(_thinned(points)), title))
    return curves


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS`: of each stretch its lowest and its highest, so that a spike stays."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = math.ceil(2 * len(points) / MOST_POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept


# ------------------------------------------------------------------------------------------ cost


# Of a run that made nothing.
KEPT = " The last run found all of them: dates and wall clock are those of the run before it."


def cost(report: Mapping[str, Any]) -> str:
    """What the run took: tiles with totals, and a bar per kind of stage."""
    spent = mapping(report.get("cost"))
    tiles = [
        ("wall clock", duration(report.get("wall_seconds"))),
        ("stages run", count(spent.get("stages_run"))),
        ("found in the store", count(spent.get("stages_cached"))),
        ("tokens trained", short_count(spent.get("tokens_trained"))),
        ("tokens generated", short_count(spent.get("tokens_generated"))),
        ("model calls", short_count(spent.get("calls"))),
    ]
    money = number(spent.get("money"))
    if money:
        tiles.append(("money", f"{money:,.2f}"))
    shown = "".join(
        f"<div><dt>{esc(title)}</dt><dd>{esc(value)}</dd></div>" for title, value in tiles
    )
    seconds = {
        k: s
        for k, v in mapping(spent.get("seconds_by_kind")).items()
        if (s := number(v)) is not None
    }
    most = max(seconds.values(), default=0.0) or 1.0
    rows = [
        [
            esc(kind),
            duration(s),
            f'<span class="bar"><i class="time" style="width:{100 * s / most:.1f}%"></i></span>',
        ]
        for kind, s in sorted(seconds.items(), key=lambda kv: -kv[1])
    ]
    by_kind = table(["kind of stage", "time", ""], rows, "numbers") if rows else ""
    return f'<dl class="tiles">{shown}</dl>{by_kind}' + note(
        "Time by kind is the sum over the stages behind this report,"
        " whenever they were run; stages run side by side, so it can exceed the wall clock."
        " Stages found in the store cost nothing this time."
        + (KEPT if mapping(report.get("provenance")).get("times_kept") else "")
    )


# ------------------------------------------------------------------------------------ provenance


def provenance(report: Mapping[str, Any]) -> str:
    """Versions, machine, specs, settings and artifacts, each behind a click."""
    known = mapping(report.get("provenance"))
    rows = [
        ["run", esc(word(report.get("name")))],
        ["fingerprint", f"<code>{esc(word(report.get('fingerprint')))}</code>"],
        ["started", esc(word(known.get("started")))],
        ["finished", esc(word(known.get("finished")))],
    ]
    parts = [table(["", ""], rows, "plain")]
    specs = [
        [esc(value), esc(word(spec.get("title"))), f"<code>{esc(word(spec.get('sha256')))}</code>"]
        for value, entry in mapping(known.get("specs")).items()
        for spec in (mapping(entry),)
    ]
    if specs:
        parts.append(details("Specs", table(["value", "title", "sha256"], specs)))
    for title, key in (("Versions", "versions"), ("Machine", "machine")):
        values = [[esc(k), esc(_plain(v))] for k, v in mapping(known.get(key)).items()]
        if values:
            parts.append(details(title, table(["", ""], values, "plain")))
    if known.get("settings"):
        text = json.dumps(known["settings"], indent=2, default=str, ensure_ascii=False)
        parts.append(details("Settings (the whole experiment)", f"<pre>{esc(text)}</pre>"))
    artifacts = [mapping(a) for a in items(known.get("artifacts"))]
    if artifacts:
        listed = [
            [
                f"<code>{esc(word(a.get('id')))}</code>",
                esc(word(a.get("kind"), "")),
                esc(word(a.get("label"), "")),
                "found" if a.get("cached") else "made",
            ]
            for a in artifacts
        ]
        head = ["id", "kind", "label", "in this run"]
        body = sortable("Artifacts", head, listed, choose=(1, 3))
        parts.append(details(f"Artifacts ({len(listed)})", body))
    parts.append(
        note(
            "The fingerprint is the hash of every cell's identity: equal"
            " fingerprints mean the same data, code versions of stages, settings and seeds."
            " <code>msm show ID</code> prints an artifact's record."
        )
    )
    return "".join(parts)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return fixed(value, 2)
    return value if isinstance(value, str) else json.dumps(value, default=str)
