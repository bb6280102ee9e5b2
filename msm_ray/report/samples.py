"""Answers of all arms to the same item, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msm_ray.report.names import arm_order, eval_names, eval_title
from msm_ray.report.text import (
    breakable,
    cut,
    details,
    esc,
    fixed,
    items,
    mapping,
    note,
    number,
    word,
)

PROMPT_CHARS = 1_200
ANSWER_CHARS = 1_500
SHORT = 60  # characters of an answer up to which its column may be narrow


def samples(report: Mapping[str, Any]) -> str:
    """Chosen items with every arm's answers in columns; on a phone one below the other."""
    found = [mapping(s) for s in items(report.get("samples"))]
    by_eval: dict[str, list[Mapping[str, Any]]] = {}
    for sample in found:
        by_eval.setdefault(word(sample.get("eval"), "?"), []).append(sample)
    if not by_eval:
        return "<p>No answer was sampled.</p>"
    known = eval_names(report)
    parts: list[str] = []
    for name in [n for n in known if n in by_eval] + [n for n in by_eval if n not in known]:
        body = "".join(_sample(report, s) for s in by_eval[name])
        heading = f"{eval_title(name)} ({name}): {len(by_eval[name])} items"
        parts.append(details(heading, body, not parts))
    return note(
        "The same items in every arm, first those on which the arms differ most, then some"
        " drawn at random; of each arm its first runs. The number is what the answer counted"
        " for; an answer that could not be read counts as its evaluation says, and is marked."
    ) + "".join(parts)


def _sample(report: Mapping[str, Any], sample: Mapping[str, Any]) -> str:
    answers = mapping(sample.get("answers"))
    known = [a for a in arm_order(mapping(report.get("arms"))) if a in answers]
    arms = known + [a for a in answers if a not in known]
    texts = [word(mapping(a).get("text"), "") for arm in arms for a in items(answers.get(arm))]
    narrow = " short" if all(len(t) <= SHORT for t in texts) else ""
    columns = "".join(
        f"<div><h4>{breakable(a)}</h4>{_answers(items(answers.get(a)))}</div>" for a in arms
    )
    where = " · ".join(
        w for w in (word(sample.get(k), "") for k in ("id", "domain", "chosen")) if w
    )
    prompt = cut(word(sample.get("prompt"), ""), PROMPT_CHARS)
    asked = f"<blockquote><p>{esc(prompt)}</p></blockquote>" if prompt else ""
    return (
        f'<article class="sample"><p class="what"><code>{esc(where)}</code></p>{asked}'
        f'<div class="answers{narrow}">{columns}</div></article>'
    )


def _answers(given: Sequence[Any]) -> str:
    parts = []
    for answer in (mapping(a) for a in given):
        status = word(answer.get("status"), "ok")
        marked = f' <span class="warn">{esc(status)}</span>' if status != "ok" else ""
        value = number(answer.get("value"))
        counted = f"<b>{fixed(value)}</b> " if value is not None else ""
        run = f"{word(answer.get('base'), '?')}, seed {word(answer.get('seed'), '?')}"
        text = cut(word(answer.get("text"), "(empty)"), ANSWER_CHARS)
        parts.append(
            f"<blockquote><p>{esc(text)}</p><cite>{counted}{esc(run)}{marked}</cite></blockquote>"
        )
    return "".join(parts) or '<p class="none">not measured</p>'
