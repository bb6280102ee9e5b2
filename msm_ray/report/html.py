"""report.json as one self-contained page: no script, no request, light and dark, on paper too."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from msm_ray.report.card import card
from msm_ray.report.card import headline as corpus_headline
from msm_ray.report.details import corpus, cost, provenance, training
from msm_ray.report.results import domain_table, effects, eval_table, figures, headline
from msm_ray.report.search import search
from msm_ray.report.text import count, esc, items, mapping, plural, word

SECTIONS = (
    ("search", "Search", search),  # only in the report of a search
    ("effects", "Effects", effects),
    ("evaluations", "Evaluations by arm", eval_table),
    ("domains", "By held-out domain", domain_table),
    ("corpus", "Corpus", corpus),
    ("card", "Plan and variety", card),  # only in the report of a corpus job
    ("training", "Training", training),
    ("cost", "Cost", cost),
    ("provenance", "Provenance", provenance),
)


def render_html(report: Mapping[str, Any]) -> str:
    """The page for the content of a report.json; fields that are missing are shown as such."""
    style = resources.files("msm_ray.report").joinpath("page.css").read_text(encoding="utf-8")
    title = esc(word(report.get("title"), word(report.get("name"), "Untitled run")))
    hidden = _hidden(report)
    shown = [s for s in SECTIONS if s[0] not in hidden]
    links = "".join(f'<a href="#{anchor}">{esc(heading)}</a>' for anchor, heading, _ in shown)
    sections = "".join(
        f'<section id="{anchor}"><h2>{esc(heading)}</h2>{make(report)}</section>'
        for anchor, heading, make in shown
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{style}</style></head><body><main>"
        f'<header><p class="kicker">Model spec midtraining · {_run_line(report)}</p>'
        f'<h1>{title}</h1>{banner(report)}<p class="headline">{_headline(report)}</p></header>'
        f"{figures(report) if 'effects' not in hidden else ''}<nav>{links}</nav>{sections}"
        "</main></body></html>\n"
    )


def _hidden(report: Mapping[str, Any]) -> set[str]:
    """Sections that a report has nothing for by its kind; what is merely missing is shown so."""
    if mapping(report.get("corpus")).get("hierarchy") or report.get("kind") == "corpus":
        return {"search", "effects", "evaluations", "domains", "training"}
    return {"card"} | (set() if report.get("search") else {"search"})


def _headline(report: Mapping[str, Any]) -> str:
    return headline(report) if "card" in _hidden(report) else corpus_headline(report)


def _run_line(report: Mapping[str, Any]) -> str:
    arms = mapping(report.get("arms"))
    runs = {
        (word(mapping(s).get("base")), word(mapping(s).get("seed")))
        for arm in arms.values()
        for s in items(mapping(arm).get("seeds"))
    }
    bases, seeds = {b for b, _ in runs}, {s for _, s in runs}
    if "card" not in _hidden(report):
        return esc(f"{word(report.get('name'), 'unnamed')} · a corpus")
    return esc(
        f"{word(report.get('name'), 'unnamed')} · {plural(len(arms), 'arm')} ×"
        f" {plural(len(bases), 'base model')} × {plural(len(seeds), 'seed')}"
    )


def banner(report: Mapping[str, Any]) -> str:
    """The warning over an incomplete report, with every missing cell; nothing when complete."""
    if report.get("complete") is True:
        return ""
    cells = mapping(report.get("cells"))
    listed = "".join(f"<li>{esc(_cell_name(c))}</li>" for c in items(cells.get("missing")))
    return (
        '<div class="banner" role="alert"><b>Incomplete:</b>'
        f" {count(cells.get('present'))} of {count(cells.get('expected'))} cells are there."
        " Do not compare arms until the missing ones are made; the same command continues the run."
        f"{f'<ul>{listed}</ul>' if listed else ''}</div>"
    )


def _cell_name(cell: Any) -> str:
    known = mapping(cell)
    if not known:
        return word(cell)
    words = [word(known.get(k), "") for k in ("arm", "base", "seed", "eval")]
    words[2] = f"seed {words[2]}" if words[2] else ""
    return ", ".join(w for w in words if w)
