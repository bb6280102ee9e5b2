"""``msm compare RUN RUN``: two reports side by side, and what differs between them.

A difference is B - A, taken within pairs of the same base model and the same seed. It is only taken
where both reports asked the same items: else the line says why the two cannot be compared.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from msm_ray.evaluate.statistics import Interval, paired_effect
from msm_ray.report.names import (
    DIFFERENCE,
    NO_INTERVAL,
    NONE_SHOWN,
    ONE_RUN,
    arm_order,
    bounds_of,
    eval_names,
    result,
    shows,
)
from msm_ray.report.text import fixed, interval, items, mapping, number, plural, word

Runs = dict[str, dict[int, float]]  # base name -> seed -> value
_ABSENT = object()


def comparison(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Two reports beside each other.

    ``{a, b: {name, title, fingerprint, complete, present, expected, finished}, same, settings:
    [{field, a, b}], only_a, only_b, rates: [{arm, eval, a, b, ...}],
    effects: [{name, a, b, ...}]}``.

    In each row there is either ``difference`` (``{value, ci95, pairs, verdict}``) or
    ``not_comparable``, the reason in one line; ``only_a`` and ``only_b`` are arms.
    """
    arms = [set(mapping(r.get("arms"))) for r in (a, b)]
    return {
        "a": _head(a),
        "b": _head(b),
        "same": a.get("fingerprint") == b.get("fingerprint"),
        "settings": settings_diff(a, b),
        "only_a": arm_order(sorted(arms[0] - arms[1])),
        "only_b": arm_order(sorted(arms[1] - arms[0])),
        "rates": _rates(a, b),
        "effects": _effects(a, b),
    }


def _head(report: Mapping[str, Any]) -> dict[str, Any]:
    cells = mapping(report.get("cells"))
    return {
        **{k: report.get(k) for k in ("name", "title", "fingerprint", "complete")},
        "present": cells.get("present"),
        "expected": cells.get("expected"),
        "finished": mapping(report.get("provenance")).get("finished"),
    }


# ------------------------------------------------------------------------------------- settings


def settings_diff(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings, specs and versions that differ, by their path; None where one has no such field."""
    flat = [_flat({"": _settings(r)}) for r in (a, b)]
    differing = [
        field
        for field in dict.fromkeys([*flat[0], *flat[1]])
        if flat[0].get(field, _ABSENT) != flat[1].get(field, _ABSENT)
    ]
    return [{"field": f, "a": flat[0].get(f), "b": flat[1].get(f)} for f in differing]


def _settings(report: Mapping[str, Any]) -> dict[str, Any]:
    known = mapping(report.get("provenance"))
    specs = {k: mapping(v).get("sha256") for k, v in mapping(known.get("specs")).items()}
    beside = {"specs (sha256)": specs, "versions": known.get("versions")}
    return {**mapping(known.get("settings")), **{k: v for k, v in beside.items() if v}}


def _flat(value: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested mappings and lists as ``a.b[0].c`` -> value; lists of plain values stay whole."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        where = ".".join(part for part in (path, name) if part)
        if isinstance(inner, Mapping) and inner:
            found |= _flat(inner, where)
        elif isinstance(inner, list) and any(isinstance(x, Mapping) for x in inner):
            for i, entry in enumerate(inner):
                found |= _flat({f"{where}[{i}]": entry})
        else:
            found[where] = inner
    return found


# ---------------------------------------------------------------------------- rates and effects


def _rates(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for arm in arm_order(dict.fromkeys([*mapping(a.get("arms")), *mapping(b.get("arms"))])):
        for name in dict.fromkeys([*eval_names(a, [arm]), *eval_names(b, [arm])]):
            cells = [result(r, arm, name) for r in (a, b)]
            row = {"arm": arm, "eval": name, "a": _short(cells[0]), "b": _short(cells[1])}
            why = _lacking(cells) or _other_items(a, b, name, cells)
            rows.append(row | (_difference(cells, "rate") if not why else _not(why)))
    return rows


def _effects(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    both = [{k: mapping(v) for k, v in mapping(r.get("effects")).items()} for r in (a, b)]
    rows = []
    for name in dict.fromkeys([*both[0], *both[1]]):
        pair = [of.get(name, {}) for of in both]
        row = {"name": name, "a": _short(pair[0]), "b": _short(pair[1])}
        labels = [word(e.get("label"), "") for e in pair]
        why = _lacking(pair)
        if not why and labels[0] != labels[1]:
            why = f"other arms: {labels[0]} against {labels[1]}"
        if not why:
            metric = labels[0].rpartition(", ")[2].partition(" - ")[0]
            why = _other_items(a, b, metric, [])
        rows.append(row | (_difference(pair, "value") if not why else _not(why)))
    return rows


def _short(cell: Mapping[str, Any]) -> dict[str, Any] | None:
    value = number(cell.get("rate", cell.get("value")))
    if value is None:
        return None
    bounds = bounds_of(cell)
    runs = len(items(cell.get("per_seed")))
    return {"value": value, "ci95": list(bounds) if bounds else None, "runs": runs}


def _not(why: str) -> dict[str, Any]:
    return {"not_comparable": why}


def _lacking(cells: Sequence[Mapping[str, Any]]) -> str:
    """Why there is nothing to compare, if so."""
    lacks = [n for n, c in zip("ab", cells, strict=True) if _short(c) is None]
    if not lacks:
        return ""
    return "measured in neither" if len(lacks) == 2 else f"not measured in {lacks[0]}"


def _other_items(
    a: Mapping[str, Any], b: Mapping[str, Any], name: str, cells: Sequence[Mapping[str, Any]]
) -> str:
    """Whether the two asked other items, by their hash where both reports have it, else by n."""
    sets = [mapping(mapping(r.get("item_sets")).get(name)) for r in (a, b)]
    if all(sets):
        differ = sorted(
            base for base in sets[0] if sets[1].get(base, sets[0][base]) != sets[0][base]
        )
        return f"other items of {', '.join(differ)}" if differ else ""
    counts = [{_run(r): r.get("n") for r in map(mapping, items(c.get("per_seed")))} for c in cells]
    if len(counts) == 2:
        for run, n in counts[0].items():
            if counts[1].get(run, n) != n:
                return f"other items: {n} and {counts[1][run]} in {run[0]}, seed {run[1]}"
    return ""


def _run(entry: Mapping[str, Any]) -> tuple[str, str]:
    return word(entry.get("base"), "?"), word(entry.get("seed"), "?")


def _difference(cells: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """B - A over the pairs that both have, or why there are none."""
    found = [_by_run(cell, key) for cell in cells]
    shared = [run for run in found[0] if run in found[1]]
    if not shared:
        return _not("no base and seed in common")
    runs: list[Runs] = [{}, {}]
    for side, values in zip(runs, found, strict=True):
        for base, seed in shared:
            side.setdefault(base, {})[seed] = values[base, seed]
    estimate = paired_effect(runs[1], runs[0])
    made = {
        "value": estimate.value,
        "ci95": _bounds(estimate, len(shared)),
        "pairs": len(shared),
    }
    verdict = shows({**made, "per_seed": shared})
    return {"difference": {**made, "verdict": verdict}}


def _bounds(estimate: Interval, pairs: int) -> list[float] | None:
    """The interval; None where nothing can be said of the spread, as of one pair."""
    if pairs < 2 or (estimate.low == estimate.high and estimate.value != 0):
        return None
    return [estimate.low, estimate.high]


def _by_run(cell: Mapping[str, Any], key: str) -> dict[tuple[str, int], float]:
    found = {}
    for entry in map(mapping, items(cell.get("per_seed"))):
        value, seed = number(entry.get(key)), number(entry.get("seed"))
        if value is not None and seed is not None:
            found[word(entry.get("base"), "?"), int(seed)] = value
    return found


# ----------------------------------------------------------------------------------------- text

MOST = 20  # rows of a table on the terminal
SAID = {
    DIFFERENCE: "a difference",
    NONE_SHOWN: "none shown",
    ONE_RUN: "unknown",
    NO_INTERVAL: "unknown",
}


def comparison_text(found: Mapping[str, Any], most: int = MOST) -> str:
    """The comparison for a terminal: of each table at most so many rows, the largest differences.

    What is left out is counted.
    """
    lines = []
    for side in "ab":
        head = found[side]
        whole = "complete" if head["complete"] else "INCOMPLETE"
        lines.append(
            f"{side}  {head['name']}  {head['fingerprint']}  {whole}, {head['present']} of"
            f" {head['expected']} cells, finished {head['finished'] or 'unknown'}"
        )
    if found["same"]:
        lines.append("both are the same comparison: same settings, specs, data and seeds")
    lines.append("")
    lines += _settings_text(found["settings"], most)
    for side in "ab":
        if only := found[f"only_{side}"]:
            more = f" and {len(only) - most} more" if len(only) > most else ""
            lines.append(f"only in {side}: {', '.join(only[:most])}{more}")
    rates = [[r["arm"], r["eval"], *_row_text(r)] for r in largest(found["rates"], most)]
    effects = [[r["name"], *_row_text(r, sign=True)] for r in largest(found["effects"], most)]
    lines += _table(["ARM", "EVAL", "A", "B", "B - A", ""], rates, _left(found["rates"], most))
    lines += _table(["EFFECT", "A", "B", "B - A", ""], effects, _left(found["effects"], most))
    return "\n".join(lines).rstrip()


def largest(rows: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """The rows with the largest differences, in their order; those without one come last."""
    by_size = sorted(
        range(len(rows)),
        key=lambda i: -abs(rows[i]["difference"]["value"]) if "difference" in rows[i] else 1.0,
    )
    return [rows[i] for i in sorted(by_size[:most])]


def _left(rows: Sequence[Mapping[str, Any]], most: int) -> list[str]:
    """How many rows are not among the `largest`, and why they cannot be compared; none if all are.

    The reasons are those of most rows, three at most.
    """
    kept = largest(rows, most)
    left = [row for row in rows if not any(row is one for one in kept)]
    if not left:
        return []
    why = Counter(row["not_comparable"] for row in left if "not_comparable" in row)
    reasons = [f"{n} not comparable: {reason}" for reason, n in why.most_common(3)]
    reasons += [f"{n} not comparable for other reasons"] if (n := _beyond(why, 3)) else []
    smaller = len(left) - why.total()
    reasons = [*([f"{smaller} with smaller differences"] if smaller else []), *reasons]
    return [f"and {len(left)} more (--html FILE and --json have all)", *(f"  {r}" for r in reasons)]


def _beyond(counts: Counter[str], most: int) -> int:
    return counts.total() - sum(n for _, n in counts.most_common(most))


def _settings_text(differing: Sequence[Mapping[str, Any]], most: int) -> list[str]:
    if not differing:
        return ["no setting differs", ""]
    rows = [[d["field"], shown(d["a"]), shown(d["b"])] for d in differing[:most]]
    left = len(differing) - most
    more = [f"and {left} more (--html FILE and --json have all)"] if left > 0 else []
    return _table(["SETTING", "A", "B"], rows, more)


def shown(value: Any, length: int = 40) -> str:
    """A setting's value in a few characters; "-" where there is none."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = "-" if value is None else text
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _row_text(row: Mapping[str, Any], sign: bool = False) -> list[str]:
    sides = ["-" if row[s] is None else fixed(row[s]["value"], 3, sign) for s in "ab"]
    if "not_comparable" in row:
        return [*sides, "", f"not comparable: {row['not_comparable']}"]
    difference = row["difference"]
    value = f"{fixed(difference['value'], 3, True)} {interval(difference['ci95'], 3, True)}".strip()
    pairs = plural(difference["pairs"], "pair")
    return [*sides, value, f"{SAID[difference['verdict']]}, {pairs}"]


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], more: Sequence[str] = ()
) -> list[str]:
    """Aligned columns, ``more`` and an empty line; nothing where there are no rows."""
    if not rows:
        return []
    every = [head, *rows]
    widths = [max(len(row[i]) for row in every) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in every
    ]
    return [*lines, *more, ""]
