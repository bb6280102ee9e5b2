"""A search: its result in words, its figures, and every trial; then the best one's comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msm_ray.report.results import figures
from msm_ray.report.results import headline as compared
from msm_ray.report.search_front import front, rungs
from msm_ray.report.search_law import law, proxies
from msm_ray.report.search_mix import mix
from msm_ray.report.search_opening import headline, opening
from msm_ray.report.search_parallel import parallel
from msm_ray.report.search_read import read
from msm_ray.report.search_tables import recommended, sharing, trials
from msm_ray.report.text import mapping

PARTS = (opening, recommended, mix, front, parallel, rungs, law, proxies, trials, sharing)


def search(report: Mapping[str, Any]) -> str:
    """The section of a search: for a report without one, sentences that say so."""
    found = read(mapping(report.get("search")))
    return "".join(part(found) for part in PARTS)


def search_headline(report: Mapping[str, Any]) -> str:
    """What the search found, in a few sentences."""
    return headline(read(mapping(report.get("search"))))


def best_trial(report: Mapping[str, Any]) -> str:
    """The comparison that the best trial ran: its result, and the figure of its arms."""
    if not mapping(report.get("arms")):
        return "<p>No trial's comparison is in this report.</p>"
    return f'<p class="headline">{compared(report)}</p>{figures(report)}'
