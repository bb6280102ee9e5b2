"""What each training read: the mixture that was asked for, and the one that came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msm_ray.report.names import arm_order
from msm_ray.report.text import (
    count,
    esc,
    fixed,
    items,
    mapping,
    note,
    number,
    numbers,
    sortable,
    word,
)

Cell = tuple[str, float | str | None]
FAR = 0.01  # a realised share that is farther than this from what was asked for is marked


def mixtures(report: Mapping[str, Any]) -> str:
    """One row for each component of each mixture."""
    found = [mapping(m) for m in items(report.get("mixtures"))]
    rows: list[list[str | Cell]] = []
    for mixture in found:
        every = [word(a, "") for a in items(mixture.get("arms"))]
        arms = ", ".join(arm_order(every))
        for part in (mapping(c) for c in items(mixture.get("components"))):
            rows.append(_row(arms, mixture, part))
    if not rows:
        return "<p>No mixture was made in this run.</p>"
    head = ["arms", "stage", "component", "asked", "realised", "tokens", "documents", "times seen"]
    return sortable("Mixtures", [*head, "refused"], rows, "numbers mixtures", (1, 2)) + note(
        "Shares of the tokens of a mixture, as asked for and as they came out: documents are whole,"
        " so the two differ by up to half a document. Where runs differ, the realised shares run"
        " from the lowest to the highest. <i>Times seen</i>: tokens drawn over tokens there;"
        " below 1, not all were needed. Refused: documents without a token to learn from."
        " Numbers are of one model, the mean over its runs."
    )


def _row(arms: str, mixture: Mapping[str, Any], part: Mapping[str, Any]) -> list[str | Cell]:
    asked, share = number(part.get("asked_share")), numbers(part.get("share"))
    realised: Cell = ("", None)
    if share is not None:
        low, high = fixed(share[0], 4), fixed(share[1], 4)
        words = low if low == high else f"{low} to {high}"
        far = asked is not None and max(abs(x - asked) for x in share) > FAR
        realised = (f'<span class="warn">{words}</span>' if far else words, share[0])
    refused = number(part.get("refused")) or 0
    return [
        esc(arms),
        esc(word(mixture.get("stage"), "")),
        esc(word(part.get("name"), "?")),
        (fixed(asked, 4) if asked is not None else "", asked),
        realised,
        (count(part.get("tokens")), number(part.get("tokens"))),
        (count(part.get("documents")), number(part.get("documents"))),
        (fixed(part.get("repeats"), 2), number(part.get("repeats"))),
        (f'<span class="warn">{count(refused)}</span>' if refused else "0", refused),
    ]
