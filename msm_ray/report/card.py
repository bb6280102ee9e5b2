"""What a corpus job planned and what its documents are like, for reports that a corpus wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msm_ray.report.text import (
    count,
    details,
    esc,
    fixed,
    items,
    mapping,
    note,
    number,
    table,
    word,
)

# Of a plan, and the field with its count: an idea is what a document is planned from.
LEVELS = (
    ("domains", "domains"),
    ("subdomains", "subdomains"),
    ("assertions", "assertions"),
    ("types", "types"),
    ("ideas", "documents"),
    ("questions", "questions"),
)
MOST_ROWS = 40  # of a table; a corpus may have thousands of subdomains


def headline(report: Mapping[str, Any]) -> str:
    """One sentence with the main result, as markup."""
    corpus = mapping(report.get("corpus"))
    planned, kept = number(corpus.get("planned")), number(corpus.get("kept"))
    if planned is None or kept is None:
        return "The corpus was not written in this run."
    missing = sum(number(v) or 0 for v in mapping(_plan(report).get("missing")).values())
    short = f"; the plan itself is short of {count(missing)} items" if missing else ""
    return f"<b>{count(kept)}</b> of {count(planned)} planned {_unit(corpus)} are kept{short}"


def card(report: Mapping[str, Any]) -> str:
    """The plan by level with what is missing, drafts, then length, variety and openings."""
    plan, corpus = _plan(report), mapping(report.get("corpus"))
    measures = mapping(corpus.get("measures"))
    parts = (_levels(plan), _short(plan), _drafts(corpus), _variety(measures), _openings(measures))
    return "".join((*parts, _kept_by(corpus), _gaps(corpus)))


def _unit(corpus: Mapping[str, Any]) -> str:
    """What was made: documents, or conversations."""
    return esc(word(corpus.get("unit"), "documents"))


def _plan(report: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(mapping(report.get("corpus")).get("hierarchy"))


def _levels(plan: Mapping[str, Any]) -> str:
    missing, dropped = mapping(plan.get("missing")), mapping(plan.get("dropped"))
    rows = [
        [
            esc(level),
            count(plan.get(field)),
            count(missing.get(level, 0)),
            ", ".join(f"{esc(why)} {count(n)}" for why, n in mapping(dropped.get(level)).items()),
        ]
        for level, field in LEVELS
        if field in plan
    ]
    known = {level for level, _ in LEVELS}
    # What the spec itself gives has no level that is asked for, such as rules without a domain.
    rows += [[esc(k), "", count(n), ""] for k, n in missing.items() if k not in known and number(n)]
    text = note(
        "What was asked for and did not come is missing: more is asked for a bounded number of"
        " times, then the plan goes on without. Dropped are answers, and items in answers, that"
        " could not be used; the good items beside them were."
    )
    return table(["level", "= there", "missing", "dropped on the way"], rows, "numbers") + text


def _short(plan: Mapping[str, Any]) -> str:
    short = [mapping(s) for s in items(plan.get("shortfalls"))]
    unused = [esc(word(u)) for u in items(plan.get("unused_sections"))]
    rows = [
        [
            esc(word(s.get("level"))),
            esc(word(s.get("parent"))),
            f"{count(s.get('got'))} of {count(s.get('wanted'))}",
            ", ".join(f"{esc(r)} {count(n)}" for r, n in mapping(s.get("reasons")).items()),
        ]
        for s in short[:MOST_ROWS]
    ]
    parts = []
    if rows:
        more = f" (the first {MOST_ROWS})" if len(short) > MOST_ROWS else ""
        body = table(["level", "below", "there", "why"], rows)
        parts.append(details(f"{len(short)} places where the plan is short{more}", body))
    if unused:
        parts.append(f"<p>No document is about: {', '.join(unused)}.</p>")
    return "".join(parts)


def _drafts(corpus: Mapping[str, Any]) -> str:
    again = [count(n) for n in items(corpus.get("redrafted"))]
    if not again:
        return ""
    meanings = mapping(corpus.get("reasons"))
    rows = [
        [f"{esc(reason)}<small>{esc(word(meanings.get(reason), ''))}</small>", count(n)]
        for reason, n in mapping(corpus.get("drafts_rejected")).items()
    ]
    text = note(
        f"What was rejected or failed is asked for again: {', then '.join(again)} here. Drafts"
        f" count here, not among the rejected {_unit(corpus)}."
    )
    return "<h3>Rejected drafts</h3>" + table(["reason", "drafts"], rows, "numbers") + text


def _variety(measures: Mapping[str, Any]) -> str:
    if not measures.get("documents"):
        return ""  # nothing to measure, or short answers that nobody measures
    lengths = mapping(mapping(measures.get("lengths")).get("words"))
    shown = (
        ("different words of all words", measures.get("distinct_1"), 3),
        ("different 2-word sequences of all", measures.get("distinct_2"), 3),
        ("different 3-word sequences of all", measures.get("distinct_3"), 3),
        (
            "size before compression, times that after: alike texts have more",
            measures.get("compression_ratio"),
            2,
        ),
        ("likeness of two documents, of a sample", measures.get("self_similarity"), 4),
    )
    rows = [[esc(name), fixed(value, digits)] for name, value, digits in shown]
    rows += [[f"words, {esc(name)}", count(value)] for name, value in lengths.items()]
    return "<h3>Variety and length</h3>" + table(["", "value"], rows, "numbers")


def _kept_by(corpus: Mapping[str, Any]) -> str:
    """Where a plan lost most: its subdomains and types of document, the poorest first."""
    cells = [mapping(cell) for cell in items(corpus.get("kept_by"))]
    rows = [
        [
            esc(word(cell.get("subdomain"))),
            esc(word(cell.get("doc_type"))),
            count(cell.get("kept")),
            count(cell.get("planned")),
        ]
        for cell in cells[:MOST_ROWS]
    ]
    more = f", the {MOST_ROWS} with the fewest" if len(cells) > MOST_ROWS else ""
    body = table(["subdomain", "type", "= kept", "= planned"], rows, "numbers")
    return details(f"Kept of planned by subdomain and type{more}", body) if rows else ""


def _gaps(corpus: Mapping[str, Any]) -> str:
    """What was not counted or not looked at."""
    said = {
        "unmetered": "answers came without their number of tokens, which is an estimate by"
        " characters",
        "items_too_short": "evaluation items have a text that is too short to be looked for in"
        f" {_unit(corpus)}",
        "not_compared": f"{_unit(corpus)} stand in a crowd of alike ones; later ones were not"
        " compared with them",
    }
    found = [f"{count(corpus[k])} {text}." for k, text in said.items() if number(corpus.get(k))]
    return note(" ".join(found)) if found else ""


def _openings(measures: Mapping[str, Any]) -> str:
    rows = [[esc(word(pair[0])), count(pair[1])] for pair in items(measures.get("openings"))]
    body = table(["opening", "documents"], rows, "numbers")
    return details("The commonest openings", body) if rows else ""
