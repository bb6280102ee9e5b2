"""The report page: complete, escaped, self-contained, and honest about what is missing."""

from __future__ import annotations

import copy
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_example import RATES, example_report

from msm_ray.report.html import render_html
from msm_ray.report.results import arm_order, headline

VOID = {"meta", "link", "br", "img"}


class Reader(HTMLParser):
    """Checks that tags are balanced; collects text, tags and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def visible(page: str) -> str:
    return " ".join(" ".join(Reader(page).text).split())


def test_every_part_is_there_in_order_and_the_figure_comes_first() -> None:
    page = render_html(example_report())
    places = [
        page.index(mark)
        for mark in (
            "<h1>",
            'class="headline"',
            'id="the-figure"',
            'id="effects"',
            'id="evaluations"',
            'id="domains"',
            'id="corpus"',
            'id="training"',
            'id="cost"',
            'id="provenance"',
        )
    ]
    assert places == sorted(places)
    assert "Incomplete" not in page


def test_the_page_needs_nothing_from_outside_and_runs_no_script() -> None:
    page = render_html(example_report())
    reader = Reader(page)
    assert not {"script", "img", "iframe", "object", "embed"} & set(reader.tags)
    assert all(link.startswith(("#", "data:")) for link in reader.links)
    assert "url(" not in page
    assert "@import" not in page


def test_documents_that_hold_html_are_shown_as_text() -> None:
    page = render_html(example_report())
    assert "<script>alert(1)</script>" not in page
    assert "<script>alert(1)</script>" in visible(page)


HOSTILE = "<img src=x onerror=alert(1)>\"'&</style></svg>"


def _poison(value: Any) -> Any:
    """Every text in the report hostile, every key of an open mapping too."""
    if isinstance(value, str):
        return HOSTILE + value
    if isinstance(value, list):
        return [_poison(v) for v in value]
    if isinstance(value, dict):
        open_names = {"versions", "machine", "specs", "rejected", "by_corpus", "by_domain", "arms"}
        return {
            k: {HOSTILE + name: _poison(v) for name, v in inner.items()}
            if k in open_names and isinstance(inner, dict)
            else _poison(inner)
            for k, inner in value.items()
        }
    return value


def test_no_text_of_the_report_reaches_the_page_as_markup() -> None:
    report = example_report()
    page = render_html({**_poison(report), "effects": _poison(report["effects"])})
    assert "<img" not in page
    assert page.count("</style>") == 1
    Reader(page)


def test_arms_stand_in_the_order_of_the_method() -> None:
    shuffled = ["msm:b+aft", "other", "msm:a", "aft", "msm:b", "base", "msm:a+aft"]
    ordered = ["base", "aft", "msm:a", "msm:b", "msm:b+aft", "msm:a+aft", "other"]
    assert arm_order(dict.fromkeys(shuffled)) == ordered


def test_the_headline_says_the_result_with_its_interval() -> None:
    report = example_report()
    said = re.sub("<[^>]+>", "", headline(report))
    effect = report["effects"]["separation"]
    assert f"{effect['value']:.2f}" in said
    assert f"[{effect['ci95'][0]:.2f}, {effect['ci95'][1]:.2f}]" in said
    assert "msm:america+aft" in said
    assert "6 paired runs" in said
    assert "excludes zero" in said


def test_the_headline_does_not_claim_what_the_interval_does_not_show() -> None:
    report = example_report()
    report["effects"]["separation"]["ci95"] = [-0.1, 0.4]
    assert "no effect is shown" in headline(report)
    report["effects"]["separation"]["per_seed"] = [{"base": "base-0", "seed": 0, "value": 0.3}]
    assert "single run" in headline(report)
    del report["effects"]["separation"]
    assert "not measured" in headline(report)


def test_an_incomplete_run_says_so_before_everything_else() -> None:
    report = example_report()
    report["complete"] = False
    report["cells"] = {
        "expected": 180,
        "present": 178,
        "missing": [
            {"arm": "aft", "base": "base-1", "seed": 1, "eval": "choice"},
            {"arm": "aft", "base": "base-1", "seed": 1, "eval": "facts"},
        ],
    }
    page = render_html(report)
    assert page.index('class="banner"') < page.index('class="headline"')
    assert "178 of 180" in visible(page)
    assert "aft, base-1, seed 1, facts" in visible(page)


def test_numbers_of_the_report_stand_in_the_tables() -> None:
    report = example_report()
    shown = visible(render_html(report))
    cell = report["arms"]["msm:america+aft"]["evals"]["choice"]
    assert f"{cell['rate']:.2f} [{cell['ci95'][0]:.2f}, {cell['ci95'][1]:.2f}]" in shown
    assert "n = 1,728" in shown
    assert "3 unparsed" in shown
    assert "7,200 6,546 642 12" in shown  # planned = kept + rejected + failed, over all corpora
    assert "wrong reason" in shown
    assert "a reason of another value" in shown
    assert "6 min 42 s" in shown
    assert report["fingerprint"] in shown
    assert "unaccounted" not in shown


def test_documents_that_vanished_are_pointed_out() -> None:
    report = example_report()
    report["corpus"]["by_corpus"]["america base-0"]["kept"] -= 5
    assert "5 unaccounted for" in visible(render_html(report))


@pytest.mark.parametrize("bases", [("base-0",), tuple(f"base-{i}" for i in range(11))])
def test_one_seed_and_many_bases_and_arms_with_long_names(bases: tuple[str, ...]) -> None:
    arms = {"base": 0.5, "aft": 0.5}
    arms |= {
        f"msm:{'a-long-value-name-' * 4}{i}{end}": 0.4 for i in range(9) for end in ("", "+aft")
    }
    page = render_html(example_report(arms, bases, (0,)))
    assert "20 arms" in visible(page)
    Reader(page)


def test_an_empty_report_is_a_page_that_says_so() -> None:
    page = render_html({})
    assert "not measured" in visible(page)
    assert "Incomplete" in page


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += _paths(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value[:2]):
            found += _paths(inner, (*path, i))
    return found


SMALL = example_report(dict(list(RATES.items())[:5]), ("base-0",), (0,))
PATHS = _paths(SMALL)
BROKEN = st.sampled_from([None, math.nan, math.inf, "", [], {}, "text", -1, True, [None], [1, "a"]])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PATHS), BROKEN), min_size=1, max_size=4))
def test_whatever_field_is_missing_or_broken_the_page_is_made(changes: list[Any]) -> None:
    report = copy.deepcopy(SMALL)
    for path, value in changes:
        node: Any = report
        try:
            for part in path[:-1]:
                node = node[part]
            node[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the field away
    page = render_html(report)
    Reader(page)
    shown = re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)
    for word in (">nan", "nan<", ">inf", "inf<", '"nan', '"inf', "None<"):
        assert word not in shown


def test_a_single_run_has_no_interval() -> None:
    report = example_report(bases=("base-0",), seeds=(0,))
    page = render_html(report)
    shown = visible(page)
    cell = report["arms"]["aft"]["evals"]["choice"]
    assert f"[{cell['ci95'][0]:.2f}, {cell['ci95'][1]:.2f}]" not in shown
    assert "one run" in shown
    assert "From a single run" in shown


def test_the_trials_of_a_search_stand_best_first_and_failures_are_named() -> None:
    report = example_report()
    assert 'id="search"' not in render_html(report)
    trials = [
        {"settings": {"lr": 2e-4, "share": 0.1}, "separation": 0.31, "facts": 1.0},
        {"settings": {"lr": 1e-3, "share": 0.5}, "error": "ValueError: <b>no</b>"},
        {"settings": {"lr": 5e-4, "share": 0.3}, "separation": 0.82, "facts": 0.99},
    ]
    report["search"] = {
        "metric": "separation",
        "trials": trials,
        "best": trials[2],
        "stages": {"midtrain": {"needed": 4, "made": 4}},
        "stages_if_not_shared": {"midtrain": 8},
    }
    page = render_html(report)
    shown = visible(page)
    part = page[page.index('<section id="search">') : page.index('<section id="effects">')]
    assert part.index("0.820") < part.index("0.310") < part.index("failed: ValueError")
    assert "failed: ValueError: <b>no</b>" in shown
    assert "4 midtrain stages instead of 8" in shown
