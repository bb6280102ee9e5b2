"""What `msm preview` prints: a plan and its costs as a table, and what is to be said of it."""

from __future__ import annotations

from typing import Any

_COLUMNS = (
    ("count", "stages"),
    ("cached", "cached"),
    ("documents", "documents"),
    ("calls", "calls"),
    ("calls_at_most", "at most"),
    ("tokens", "tokens"),
    ("money", "US$"),
    ("money_at_most", "at most"),
    ("steps", "steps"),
    ("flops", "FLOPs"),
    ("device_seconds", "device-s"),
)


def preview_text(counted: dict[str, Any]) -> str:
    """The preview as a table: one row per stage kind, a total, and what sharing saves.

    The quantities (documents, calls, tokens, US dollars, ...) are those still to be done.
    """
    totals = counted.get("totals", {})
    # What no stage has is no column: dollars where nothing is bought, steps where nothing trains.
    columns = [(k, title) for k, title in _COLUMNS if k in ("count", "cached") or totals.get(k)]
    rows = [["", *(title for _, title in columns)]]
    for stage in counted.get("stages", []):
        rows.append([str(stage.get("kind", "")), *(_amount(stage.get(k)) for k, _ in columns)])
    rows.append(["to do in all", *(_amount(totals.get(k)) for k, _ in columns)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(len(lines) - 1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    sharing = counted.get("sharing") or {}
    if sharing.get("stages") != sharing.get("stages_if_not_shared"):
        lines.append("")
        lines.append(
            f"Sharing: {sharing.get('stages')} stages instead of"
            f" {sharing.get('stages_if_not_shared')};"
            f" {_amount(sharing.get('device_seconds_saved'))} device-seconds saved."
        )
    if trials := counted.get("trials"):
        lines.append(_trials_line(trials))
    lines += _gpu_lines(counted.get("gpus") or {})
    if disk := counted.get("disk"):
        each = ", ".join(f"{kind} {size / 1e9:,.0f}" for kind, size in disk.items())
        total = sum(disk.values()) / 1e9
        lines.append(f"Store: trainings add about {total:,.0f} GB of weights ({each}).")
    lines += [f"warning: {text}" for text in counted.get("warnings", [])]
    return "\n".join(lines)


def _trials_line(trials: dict[str, Any]) -> str:
    """How many trials a search has, and what their paths have in common."""
    if not trials["known"] and not trials["unknown"]:
        left = (
            f"; {trials['confirmed']} are run again on fresh seeds" if trials["confirmed"] else ""
        )
        return f"Trials: all {trials['count']} have ended{left}."
    ended = f", {trials['ended']} of them have ended" if trials["ended"] else ""
    unknown = (
        f" {trials['unknown']} more hang on what these find, and are not counted."
        if trials["unknown"]
        else ""
    )
    again = (
        f", and {trials['confirmed']} of them once more, on fresh seeds"
        if trials["confirmed"]
        else ""
    )
    return (
        f"Trials: {trials['count']}{ended}. Counted here are {trials['known']}{again}: they train"
        f" {_amount(trials['tokens'])} tokens, without sharing"
        f" {_amount(trials['tokens_alone'])}.{unknown}"
    )


def _gpu_lines(gpus: dict[str, Any]) -> list[str]:
    """How many GPU-hours it will be, and how many GPUs can share them."""
    if not gpus:
        return []
    kinds: dict[Any, list[str]] = {}
    for kind, each in gpus["each"].items():
        kinds.setdefault(each, []).append(kind)
    each = "; ".join(f"{', '.join(of)} on {n:g} each" for n, of in kinds.items())
    return [
        "",
        f"GPUs: about {gpus['hours']:,g} GPU-hours of one {gpus['device']} ({each}). Up to"
        f" {_amount(gpus['at_once'])} can be busy at once; with as many, trainings and evaluations"
        f" take {gpus['least_hours']:,g} hours at least.",
    ]


def _amount(value: Any) -> str:
    """A count for people: 12, 1,250, 3.1M, 2.4e15; nothing for zero."""
    if not isinstance(value, (int, float)) or value == 0:
        return "."
    if value >= 1e12:
        return f"{value:.1e}".replace("e+", "e")
    for scale, unit in ((1e9, "G"), (1e6, "M")):
        if value >= scale:
            return f"{value / scale:.1f}{unit}"
    return f"{value:,.0f}" if value >= 10 or float(value).is_integer() else f"{value:.1f}"
