"""The report page: complete, escaped, self-contained, and honest about what is missing."""

from __future__ import annotations

import base64
import copy
import hashlib
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_example import RATES, example_report, suite_report

from msm_ray.report.html import render_html
from msm_ray.report.names import arm_order, effect_words, kind_of, shows
from msm_ray.report.results import headline

VOID = {"meta", "link", "br", "img", "wbr"}


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
            'id="items"',
            'id="samples"',
            'id="corpus"',
            'id="mixtures"',
            'id="training"',
            'id="cost"',
            'id="provenance"',
        )
    ]
    assert places == sorted(places)
    assert "Incomplete" not in page


def test_the_page_needs_nothing_from_outside_and_runs_one_script() -> None:
    page = render_html(example_report())
    reader = Reader(page)
    assert reader.tags.count("script") == 1
    assert not {"img", "iframe", "object", "embed"} & set(reader.tags)
    assert all(link.startswith(("#", "data:")) for link in reader.links)
    assert "url(" not in page
    assert "@import" not in page
    script = re.search(r"<script>(.*)</script>", page, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page  # and no other script may run
    assert "default-src 'none'" in page


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
    assert "<b>msm:america+aft</b>" in headline(report)  # of the next effect
    del report["effects"]
    assert "not measured" in headline(report)


def test_the_headline_of_a_recipe_is_its_separation_and_of_several_what_most_have() -> None:
    report = example_report()
    known = report["effects"]
    recipe = {
        "aft_minus_base:pairs:america": known["aft_minus_base"],
        "separation:pairs:america": known["separation"],
    }
    said = re.sub("<[^>]+>", "", headline(report | {"effects": recipe}))
    assert said.startswith("After the same fine-tuning, msm:america+aft")
    several = {f"{name}@cheese": effect for name, effect in recipe.items()}
    for value in ("novelty", "tradition"):
        of_value = {"label": f"msm:{value}+aft - aft, pairs:{value}"}
        base = {"label": f"aft - base, pairs:{value}"}
        several[f"aft_minus_base:pairs:{value}@{value}"] = known["aft_minus_base"] | base
        several[f"{value}_minus_aft:pairs:{value}@{value}"] = known["separation"] | of_value
    members = {name: {"arms": []} for name in ("cheese", "novelty", "tradition")}
    said = headline(report | {"effects": several, "members": members})
    assert "<code>VALUE_minus_aft:pairs:VALUE</code>" in said
    assert said.startswith("Of 2 comparisons, <b>2</b> show")


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
    assert page.index('<main><div class="banner"') < page.index("<h1>")
    assert "<title>Incomplete: " in page
    assert "178 of 180" in visible(page)
    assert "aft, base-1, seed 1, choice, facts" in visible(page)


def test_a_problem_opens_the_report_though_every_cell_is_there() -> None:
    report = example_report()
    report["problems"] = ["open_qa: the judge refused all 151 answers", "x" * 3]
    page = render_html(report)
    assert page.index("the judge refused all 151") < page.index("<h1>")
    assert "all 180 cells are there, and 2 problems" in visible(page)
    report["problems"] = [f"seed {i} failed" for i in range(90)]
    shown = visible(render_html(report))
    assert "seed 39 failed" in shown
    assert "and 50 more, all in report.json" in shown


def test_an_arm_that_is_wholly_missing_is_one_line() -> None:
    report = example_report()
    report["complete"] = False
    runs = report["arms"]["aft"]["seeds"]
    report["arms"]["aft"]["evals"] = {}
    report["cells"]["missing"] = [
        {"arm": "aft", **run, "eval": e} for run in runs for e in ("choice", "facts")
    ]
    assert "<li>aft: the whole arm, all 6 runs</li>" in render_html(report)


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
SMALL |= {"items": {"choice": SMALL["items"]["choice"][:2]}, "samples": SMALL["samples"][:1]}
SMALL |= {k: suite_report()[k] for k in ("curves", "members")}
PATHS = _paths(SMALL)
BROKEN = st.sampled_from([None, math.nan, math.inf, "", [], {}, "text", -1, True, [None], [1, "a"]])


@settings(max_examples=100, deadline=None)
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


# ------------------------------------------------------------------------- differences in words


def _effect(low: float, high: float, runs: int = 3, **more: Any) -> dict[str, Any]:
    seeds = [{"base": "b", "seed": i, "value": 0.1} for i in range(runs)]
    return {"value": (low + high) / 2, "ci95": [low, high], "per_seed": seeds, **more}


@given(st.floats(-1, 1), st.floats(-1, 1), st.sampled_from(["difference", "none shown", None]))
def test_no_difference_is_called_one_when_its_interval_holds_zero(
    x: float, y: float, verdict: str | None
) -> None:
    effect = _effect(min(x, y), max(x, y))
    if verdict:
        effect["verdict"] = verdict
    holds_zero = min(x, y) <= 0 <= max(x, y)
    assert (shows(effect) == "difference") == (not holds_zero and verdict != "none shown")


def test_an_interval_says_what_it_is_about() -> None:
    shown = visible(render_html(example_report()))
    assert shown.count("for other items, other seeds") == len(example_report()["effects"])
    assert "for other bases too" in shown


def test_of_one_run_nothing_is_shown() -> None:
    assert shows(_effect(0.1, 0.2, runs=1)) == "one run"
    assert shows({"value": 0.1}) == "no interval"
    # resampled items give one run an interval of its own
    assert shows(_effect(0.1, 0.2, runs=1, interval="clustered")) == "difference"


def test_effects_in_other_units_have_axes_of_their_own() -> None:
    report = example_report()
    labels = ("pairs:america", "pairs:america:text", "open_qa:america", "choice")
    report["effects"] = {
        f"e{i}": _effect(0.1, 0.3, label=f"aft - base, {name}") for i, name in enumerate(labels)
    }
    report["effects"]["e4"] = _effect(0.1, 0.3, runs=1, interval="clustered")
    page = render_html(report)
    part = page[page.index('<section id="effects">') : page.index('<section id="evaluations">')]
    axes = re.findall(r'aria-label="(difference[^"]*)"', part)
    assert axes[::2] == [
        "difference: pairs",
        "difference: open_qa",
        "difference in the share choosing the American item",
        "difference",
    ]
    assert "a difference, of these two models" in part


def test_what_is_not_shown_is_grey_and_said_in_words() -> None:
    report = example_report()
    report["effects"] = {
        "clear": _effect(0.1, 0.3, label="msm:america - base, choice"),
        "unclear": _effect(-0.1, 0.3, label="aft - base, choice"),
    }
    page = render_html(report)
    part = page[page.index('<section id="effects">') : page.index('<section id="evaluations">')]
    rows = re.findall(r"<tr>(?:(?!</tr>).)*</tr>", part)
    assert "<b>a difference</b>" in next(r for r in rows if "clear" in r)
    assert "none shown: it holds zero" in next(r for r in rows if "unclear" in r)
    labels = dict(re.findall(r'class="(ink|muted)" font-size="14"[^>]*>(?:un)?(clear)<', part))
    assert labels == {"ink": "clear", "muted": "clear"}


# --------------------------------------------------------------------------- suites and curves


def test_a_suite_has_a_figure_for_each_comparison_and_effects_by_kind() -> None:
    page = render_html(suite_report())
    Reader(page)
    shown = visible(page)
    figure = page[page.index('id="the-figure"') : page.index("<nav>")]
    for title in ("A dose of 25k tokens", "A dose of 100k tokens", "A dose of 400k tokens"):
        assert figure.count(f"<h3>{title}") == 1
        assert shown.index(title) < shown.index("Effects")
    assert "@25k" not in re.sub("<[^>]+>", " ", figure)  # the heading says which
    items = page[page.index('<section id="items">') : page.index('<section id="samples">')]
    assert items.count("<table") == 3  # each comparison's arms in a table of their own
    assert items.count(">msm:<wbr>america<") == 3
    part = page[page.index('<section id="effects">') : page.index('<section id="curves">')]
    assert part.count("<h3><code>separation</code></h3>") == 1
    assert "Of 3 comparisons" in shown
    assert page.index('id="curves"') < page.index('id="evaluations"')


def test_an_effect_has_one_name_in_all_comparisons_of_a_suite() -> None:
    report = {"members": {"one": {}, "two": {}}}
    first = {"label": "msm:america+aft - aft, choice"}
    second = {"label": "msm:novelty+aft@two - aft, choice"}
    assert kind_of("america_minus_aft@one", first, report) == "VALUE_minus_aft"
    assert kind_of("novelty_minus_aft@two", second, report) == "VALUE_minus_aft"
    pair = {"label": "msm:a+aft - msm:b+aft, choice"}
    assert kind_of("separation:a-b@two", pair, report) == "separation:A-B"


def test_the_items_that_are_shown_are_counted_and_so_are_the_others() -> None:
    report = example_report()
    shown = visible(render_html(report))
    assert "Forced choice (choice): 18 of 864 items" in shown
    assert "choice-books-0" in shown
    assert shown.count("unparsed") == len(RATES) + 1  # of evaluations, and of one answer
    for key in ("items", "samples", "mixtures", "curves"):
        report.pop(key, None)
        assert f'id="{key}"' not in render_html(report)


def test_a_mixture_that_is_not_what_was_asked_for_is_marked() -> None:
    report = example_report()
    part = report["mixtures"][0]["components"][0]
    assert '<span class="warn">0.1' not in render_html(report)
    part["share"] = [0.12, 0.15]
    part["refused"] = 3.0
    page = render_html(report)
    assert '<span class="warn">0.1200 to 0.1500</span>' in page
    assert '<span class="warn">3</span>' in page


def test_other_measures_of_an_evaluation_have_a_table() -> None:
    report = example_report()
    assert "What else the evaluations measure" not in render_html(report)
    report["arms"]["aft"]["evals"]["choice"] |= {"ece": 0.123, "stopped": "cap", "refused": 7}
    shown = visible(render_html(report))
    assert "What else the evaluations measure" in shown
    assert "0.123 cap" in shown
    assert "7 refused" in shown


def test_rates_by_order_stand_beside_the_bias_of_position() -> None:
    report = example_report()
    assert "Position bias" not in render_html(report)
    report["arms"]["aft"]["evals"]["choice"] |= {
        "by_order": {"0": {"rate": 0.81, "n": 144}, "1": {"rate": 0.37, "n": 143}},
        "first_listed": {"rate": 0.72, "n": 280},
        "undecided": {"tie": 7},
    }
    shown = visible(render_html(report))
    assert "rate, listed first" in shown
    assert "0.81 n = 144 0.37 n = 143 0.72 n = 280 7 tie" in shown


def test_a_report_says_what_the_rule_of_stopping_looked_at() -> None:
    report = example_report()
    assert "as narrow as the rule" not in visible(render_html(report))
    domains = report["arms"]["aft"]["evals"]["choice"]["by_domain"]
    next(iter(domains.values()))["stopped"] = "narrow enough"
    shown = visible(render_html(report))
    assert shown.count("of each checkpoint by itself and over its rollouts") == 1
    assert shown.count("stopped: narrow enough") == 2  # in the cell, and where it is explained


def test_an_effect_of_a_prompt_is_said_in_words() -> None:
    report = example_report()
    effect = {**report["effects"]["separation"], "interval": "clustered"}
    effect["label"] = "base - base, probe:america:spec - probe:america:bare"
    effect["per_seed"] = effect["per_seed"][:1]
    report["effects"] = {"ceiling:probe:america": effect}
    shown = visible(render_html(report))
    assert "the spec in the prompt against a bare prompt, without training" in shown
    assert "probe:america:spec − probe:america:bare arm base" in shown
    assert "a difference, of this model" in shown
    assert effect_words("america_name_swapped:probe:america").endswith("after training")
    assert effect_words("ceiling:pairs:america") == effect_words("separation") == ""
