"""report.json as one self-contained page: no request, light and dark, on paper too.

Its one script sorts and filters tables; without it the page lacks nothing else. A policy in
the page lets no other script run and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from msm_ray.report.card import card
from msm_ray.report.card import headline as corpus_headline
from msm_ray.report.details import corpus, cost, provenance, training
from msm_ray.report.effects import effects
from msm_ray.report.lines import curves
from msm_ray.report.mixtures import mixtures
from msm_ray.report.opening import banner, is_whole
from msm_ray.report.results import figures, headline
from msm_ray.report.samples import samples
from msm_ray.report.search import best_trial, search, search_headline
from msm_ray.report.tables import domain_tables, eval_table, item_tables
from msm_ray.report.text import esc, items, mapping, plural, word

SECTIONS = (
    ("search", "Search", search),  # only in the report of a search, as the next one
    ("best", "The best trial", best_trial),
    ("effects", "Effects", effects),
    ("curves", "Dose curves", curves),  # only where there are some, as the next but one
    ("evaluations", "Evaluations by arm", eval_table),
    ("domains", "By held-out domain", domain_tables),
    ("items", "By item", item_tables),
    ("samples", "Samples side by side", samples),
    ("corpus", "Corpus", corpus),
    ("card", "Plan and variety", card),  # only in the report of a corpus job
    ("mixtures", "Mixtures", mixtures),
    ("training", "Training", training),
    ("cost", "Cost", cost),
    ("provenance", "Provenance", provenance),
)
# Sections that are there only with what they show: older reports were made without it.
OPTIONAL = frozenset({"search", "curves", "items", "samples", "mixtures"})


def render_html(report: Mapping[str, Any]) -> str:
    """The page for the content of a report.json; fields that are missing are shown as such."""
    title = esc(word(report.get("title"), word(report.get("name"), "Untitled run")))
    hidden = _hidden(report)
    shown = [s for s in SECTIONS if s[0] not in hidden]
    links = "".join(f'<a href="#{anchor}">{esc(heading)}</a>' for anchor, heading, _ in shown)
    sections = "".join(
        f'<section id="{anchor}"><h2>{esc(heading)}</h2>{make(report)}</section>'
        for anchor, heading, make in shown
    )
    body = (
        f"{banner(report)}"
        f'<header><p class="kicker">Model spec midtraining · {_run_line(report)}</p>'
        f'<h1>{title}</h1><p class="headline">{_headline(report)}</p></header>'
        f"{figures(report) if 'best' in hidden and 'effects' not in hidden else ''}"
        f"<nav>{links}</nav>{sections}"
    )
    return page(title if is_whole(report) else f"Incomplete: {title}", body)


def page(title: str, body: str) -> str:
    """A whole page with its style and its script in it; ``title`` and ``body`` are markup."""
    style, script = (
        resources.files("msm_ray.report").joinpath(name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:;"
        f" script-src 'sha256-{digest}'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{style}</style></head><body><main>{body}"
        f"</main><script>{script}</script></body></html>\n"
    )


def _hidden(report: Mapping[str, Any]) -> set[str]:
    """Sections that a report has nothing for by its kind; what is merely missing is shown so."""
    hidden = {name for name in OPTIONAL if not report.get(name)}
    hidden |= {"best"} if "search" in hidden else set()
    if mapping(report.get("corpus")).get("hierarchy") or report.get("kind") == "corpus":
        return hidden | {"search", "best", "effects", "evaluations", "domains", "training"}
    return hidden | {"card"}


def _headline(report: Mapping[str, Any]) -> str:
    hidden = _hidden(report)
    if "search" not in hidden:
        return search_headline(report)
    return headline(report) if "card" in hidden else corpus_headline(report)


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
