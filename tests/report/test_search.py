"""The page of a search: what it says first, what it leaves out, and that any search has a page."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_example import example_report
from search_samples import FIRST, LIMIT, SECOND, SOURCES, search_part, several_sources
from test_html import HOSTILE, Reader, visible

from msm_ray.report.html import render_html
from msm_ray.report.search import search, search_headline


def said(part: dict[str, Any]) -> str:
    """The headline as plain text."""
    return " ".join(Reader(search_headline({"search": part})).text)


def shown(part: dict[str, Any]) -> str:
    return visible(search({"search": part}))


def words(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace(" ,", ",").replace(" :", ":").strip()


# --------------------------------------------------------------------------------------- order


def test_the_search_comes_first_then_the_comparison_of_its_best_trial() -> None:
    page = render_html({**example_report(), "search": search_part()})
    marks = ('class="headline"', "<nav>", 'id="search"', 'id="best"', 'id="the-figure"')
    places = [page.index(mark) for mark in (*marks, 'id="effects"')]
    assert places == sorted(places)
    assert page.count('id="the-figure"') == 1
    assert "Of 24 trials" in visible(page[: page.index("<nav>")] + "</main></body></html>")
    Reader(page)


def test_a_search_without_a_comparison_has_a_page() -> None:
    page = render_html({"name": "s", "search": search_part()})
    assert "No trial's comparison is in this report" in visible(page).replace("&#x27;", "'")
    assert 'id="the-figure"' not in page


def test_a_report_without_a_search_has_neither_part() -> None:
    page = render_html(example_report())
    assert 'id="search"' not in page
    assert 'id="best"' not in page


def test_the_parts_stand_in_the_order_of_the_questions() -> None:
    heads = re.findall(r"<h3[^>]*>(.*?)</h3>", search({"search": search_part()}))
    assert heads == [
        "The best trial, 12",
        "Confirmed on fresh seeds: 10, 11",
        "What was searched",
        "Mixture",
        "All settings and objectives",
        "Pareto front",
        "Rungs",
        "Mixture law",
        "Small runs for large ones",
        "Trials",
        "What was shared",
        "Recommended job",
    ]


# ------------------------------------------------------------------------------------ headline


def _confirmed(claimed: float, again: float, ci95: list[float]) -> dict[str, Any]:
    part = search_part()
    part["confirmed"][0]["claimed"] = {FIRST: {"value": claimed, "ci95": [claimed, claimed]}}
    part["confirmed"][0]["values"] = {FIRST: {"value": again, "ci95": ci95}}
    return part


def test_what_was_confirmed_comes_before_what_was_claimed() -> None:
    text = words(said(_confirmed(0.71, 0.62, [0.55, 0.69])))
    assert "separation_soft is 0.62 [0.55, 0.69], confirmed on fresh seeds 10, 11" in text
    assert "the search itself had claimed 0.71: 0.09 of that was selection on noise" in text
    assert text.index("0.62") < text.index("0.71")


@pytest.mark.parametrize(
    ("claimed", "again", "ci95", "expected"),
    [
        (0.71, 0.68, [0.6, 0.75], "0.03 of that did not come again"),
        (0.6, 0.68, [0.65, 0.7], "and all of that came again"),
        (0.6, 0.6, [0.55, 0.65], "and all of that came again"),
    ],
)
def test_a_difference_is_called_noise_only_where_it_is_shown(
    claimed: float, again: float, ci95: list[float], expected: str
) -> None:
    assert expected in said(_confirmed(claimed, again, ci95))


def test_for_a_goal_to_be_small_a_larger_confirmed_value_is_what_selection_had_hidden() -> None:
    part = _confirmed(1.0, 1.1, [1.05, 1.15])
    part["objectives"] = [{"name": FIRST, "goal": "min"}]
    assert "0.10 of that was selection on noise" in said(part)


def test_what_was_not_confirmed_is_called_the_best_of_so_many_noisy_values() -> None:
    part = search_part()
    part["confirmed"] = []
    assert "the best of 22 noisy values looks better than it is" in words(said(part))
    assert "Nothing was confirmed" in shown(part)
    part = search_part()
    part["confirmed"][0]["number"] = 11
    text = words(said(part))
    assert "It was not confirmed on fresh seeds" in text
    assert "Confirmed was trial 11: 0.62" in text


def test_a_constraint_that_fresh_seeds_break_is_said_in_the_headline() -> None:
    part = search_part()
    part["confirmed"][0]["values"][LIMIT] = {"value": -0.05, "ci95": [-0.06, -0.04]}
    text = "On those seeds it does not meet price_facts_america at least −0.020"
    assert text in words(said(part))
    assert "at least −0.020: not met" in shown(part)


def test_without_a_best_trial_nothing_is_recommended() -> None:
    part = search_part() | {"best": None}
    text = words(said(part))
    assert (
        "No trial can be recommended: none of 24 trials is done and meets the constraints" in text
    )
    assert "is the best" not in text


def test_counts_of_trials_constraints_and_tokens() -> None:
    text = shown(search_part())
    assert "trials 24 done 17 stopped early 5 failed 1 missing 1 meet constraints 17" in text
    assert "price_facts_america at least −0.020: 17 of 22 trials that measured it" in text
    assert "they took 504k tokens of training, 1.58M without sharing, a ratio of 0.32" in text
    assert "14.4k of them were in the store before" in text


# -------------------------------------------------------------------------------------- tables


def test_the_table_has_every_trial_the_best_first_and_those_without_a_value_last() -> None:
    part = search_part()
    page = search({"search": part})
    table = page[page.index('<table class="numbers trials"') :]
    rows = re.findall(r"<tr>(.*?)</tr>", table[: table.index("</table>")])[1:]
    assert len(rows) == 24
    numbers = [re.findall(r'data-v="([^"]*)"', row)[:3] for row in rows]
    ranked = [(float(r), float(v)) for r, _, v in numbers if r]
    assert [r for r, _ in ranked] == list(range(1, 23))
    of = {t["number"]: t for t in part["trials"]}
    own = [of[int(n)] for _, n, _ in numbers]
    keys = [
        (t["state"] != "done", t["feasible"] is False, -t["values"][FIRST]["value"])
        for t in own[:22]
    ]
    assert keys == sorted(keys)
    assert [t["state"] for t in own[22:]] == ["failed", "missing"]
    assert "loss is not a number at step 31" in rows[22]


def test_small_runs_of_a_swarm_stand_behind_full_trials() -> None:
    part = search_part()
    for trial in part["trials"][:12]:
        trial["phase"] = "swarm"
    page = search({"search": part})
    rows = re.findall(r"<td>(done|stopped)</td><td>(swarm|search)</td>", page)
    phases = [phase for state, phase in rows if state == "done"]
    assert phases == sorted(phases)  # "search" before "swarm"
    assert set(phases) == {"search", "swarm"}
    assert "full trials before the small runs of the swarm" in page
    assert "(12 search, 12 swarm)" in visible(page)


def test_a_realised_share_that_is_far_from_the_asked_one_is_marked() -> None:
    part = search_part()
    assert "class=warn" not in search({"search": part})
    part["trials"][0]["realised"]["spec"] = part["trials"][0]["mix"]["spec"] + 0.05
    assert search({"search": part}).count("class=warn") == 1


def test_the_prediction_is_set_against_what_the_confirming_run_measured() -> None:
    part = search_part()
    assert "No run of that mix was measured: it is a prediction only" in shown(part)
    best = next(t for t in part["trials"] if t["number"] == part["best"])
    part["law"]["predicted"]["mix"] = dict(best["mix"])
    text = shown(part)
    assert "The confirming run of it (trial 12) measured 0.62" in text
    assert "inside the predicted interval" in text
    part["law"]["predicted"]["ci95"] = [0.9, 0.95]
    assert "outside the predicted interval" in shown(part)
    part["confirmed"] = []
    assert "it was not confirmed on fresh seeds" in shown(part)


def test_a_law_that_predicts_nothing_is_called_so() -> None:
    part = search_part()
    assert "no better than their mean" not in shown(part)
    part["law"]["cv"]["boosted"]["r2"] = -0.3
    assert "no better than their mean" not in shown(part)  # it is not the one that was used
    part["law"]["cv"]["log-linear"]["r2"] = -0.3
    assert "the law predicts no better than their mean" in shown(part)


def test_the_recommended_job_can_be_saved_and_run() -> None:
    import base64

    part = search_part()
    page = search({"search": part})
    link = re.search(r'download="recommended.py" href="data:[^;]*;base64,([^"]*)"', page)
    assert link is not None
    assert base64.b64decode(link.group(1)).decode() == part["recommended"]["source"]
    assert "msm run recommended.py" in visible(page)
    assert part["recommended"]["source"] in "".join(Reader(page).text)


# --------------------------------------------------------------------------- what is not there


@pytest.mark.parametrize(
    ("name", "empty", "sentence"),
    [
        ("law", None, "Not part of this search: a mixture law."),
        ("proxies", [], "Not part of this search: small runs that stand for large ones."),
        ("space", [], "The report does not name the space."),
        ("sharing", {}, "The report does not say what the trials shared."),
        ("recommended", {}, "The report recommends no job file."),
        ("trials", [], "The report has no trials."),
        ("confirmed", [], "Nothing was confirmed"),
        ("front", [], "The report names no trial on the front."),
        ("objectives", [], "No trial has a value to show over the mixture."),
    ],
)
def test_a_part_that_is_missing_is_a_sentence(name: str, empty: Any, sentence: str) -> None:
    for part in (search_part() | {name: empty}, _without(search_part(), name)):
        page = render_html({**example_report(bases=("b",), seeds=(0,)), "search": part})
        assert sentence in visible(page)
        assert sentence not in shown(search_part())


def _without(part: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in part.items() if k != name}


def test_without_rungs_or_a_mixture_there_is_no_such_figure() -> None:
    part = search_part()
    for trial in part["trials"]:
        trial["rungs"] = trial["rungs"][:1]
    part["space"] = part["space"][1:]
    page = search({"search": part})
    assert "figure wide rungs" not in page
    assert "figure wide ternary" not in page
    assert "a mixture of sources, rungs" in visible(page)


def test_a_thousand_trials_make_a_small_page_that_says_what_it_draws() -> None:
    part = search_part(1000)
    page = render_html({**example_report(), "search": part})
    assert len(page.encode()) < 3_000_000
    table = page[page.index('<table class="numbers trials"') :]
    assert table[: table.index("</table>")].count("<tr>") == 1001
    drawn = re.search(r"Drawn are (\d+) of 1,000 trials", page)
    assert drawn is not None
    assert 200 <= int(drawn.group(1)) <= 200 + len(part["front"]) + 2
    wide = page[page.index("figure wide parallel") :]
    assert wide[: wide.index("</svg>")].count("data-line=") == int(drawn.group(1))


# ------------------------------------------------------------------------------------ escaping


def _poison(value: Any, key: str = "") -> Any:
    """Every text hostile but those that the format fixes; every name of an open mapping too."""
    if isinstance(value, str):
        return value if key in ("kind", "goal", "state", "phase") else HOSTILE + value
    if isinstance(value, list):
        return [_poison(v, key) for v in value]
    if isinstance(value, dict):
        names = {"settings", "mix", "realised", "values", "claimed", "by_kind", "cv", "floors"}
        return {
            k: {HOSTILE + name: _poison(v) for name, v in inner.items()}
            if k in names and isinstance(inner, dict)
            else _poison(inner, k)
            for k, inner in value.items()
        }
    return value


def test_no_text_of_a_search_reaches_the_page_as_markup() -> None:
    report = example_report() | {"search": _poison(search_part())}
    page = render_html(report)
    assert "<img" not in page
    assert page.count("</style>") == 1
    assert page.count("<script>") == 1
    Reader(page)
    assert "figure wide ternary" in page  # the hostile names were drawn, not left out
    assert "figure wide parallel" in page
    for part in (several_sources(2), several_sources(5)):
        assert "<img" not in search({"search": _poison(part)})


# ---------------------------------------------------------------------- any search has a page

NAMES = st.sampled_from(["a", "b.c", "x" * 60, "<i>"])
VALUE = st.floats(-1e6, 1e6)
MEASURED = st.fixed_dictionaries(
    {"value": VALUE}, optional={"ci95": st.none() | st.lists(VALUE, min_size=2, max_size=2)}
)
SHARES = st.dictionaries(st.sampled_from(["s", "t", "u", "v"]), st.floats(0, 1), max_size=4)
SETTING = st.one_of(VALUE, st.integers(-9, 9), st.booleans(), st.text(max_size=5), st.none())
SPACE = st.one_of(
    st.fixed_dictionaries(
        {
            "kind": st.just("mixture"),
            "sources": st.lists(st.sampled_from(["s", "t", "u", "v"]), max_size=4, unique=True),
            "settings": st.just({"s": "m.s"}),
            "floors": SHARES,
            "ceilings": SHARES,
        }
    ),
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["real", "whole"]),
            "setting": NAMES,
            "low": st.floats(1e-9, 1e6),
            "high": st.floats(1e-9, 1e6),
            "log": st.booleans(),
        }
    ),
    st.fixed_dictionaries(
        {"kind": st.just("among"), "setting": NAMES, "values": st.lists(SETTING, max_size=4)}
    ),
)
RUNG = st.fixed_dictionaries({"steps": st.integers(0, 10**6), "value": VALUE})
TRIAL = st.fixed_dictionaries(
    {
        "number": st.integers(0, 30),
        "phase": st.sampled_from(["search", "swarm", "full"]),
        "state": st.sampled_from(["done", "stopped", "failed", "missing"]),
        "settings": st.dictionaries(NAMES, SETTING, max_size=3),
        "mix": SHARES,
        "realised": SHARES,
        "values": st.dictionaries(NAMES, MEASURED, max_size=3),
        "feasible": st.sampled_from([True, False, None]),
        "rungs": st.lists(RUNG, max_size=3),
    },
    optional={"tokens": st.integers(0, 10**12), "seconds": VALUE, "error": st.text(max_size=20)},
)
NUMBERED = st.integers(0, 30)
PART = st.fixed_dictionaries(
    {
        "objectives": st.lists(
            st.fixed_dictionaries({"name": NAMES, "goal": st.sampled_from(["max", "min"])}),
            max_size=3,
            unique_by=lambda o: o["name"],
        ),
        "constraints": st.lists(
            st.fixed_dictionaries({"name": NAMES, "at_least": st.none() | VALUE}), max_size=2
        ),
        "space": st.lists(SPACE, max_size=4),
        "trials": st.lists(TRIAL, max_size=8),
        "front": st.lists(NUMBERED, max_size=3),
        "best": st.none() | NUMBERED,
        "confirmed": st.lists(
            st.fixed_dictionaries(
                {
                    "number": NUMBERED,
                    "seeds": st.lists(NUMBERED, max_size=2),
                    "claimed": st.dictionaries(NAMES, MEASURED, max_size=2),
                    "values": st.dictionaries(NAMES, MEASURED, max_size=2),
                }
            ),
            max_size=2,
        ),
        "law": st.none()
        | st.fixed_dictionaries(
            {
                "surrogate": NAMES,
                "cv": st.dictionaries(NAMES, st.fixed_dictionaries({"r2": VALUE}), max_size=2),
                "predicted": st.fixed_dictionaries({"mix": SHARES, "value": VALUE}),
                "surface": st.lists(
                    st.fixed_dictionaries({"mix": SHARES, "value": VALUE}), max_size=5
                ),
            }
        ),
    }
)


@settings(max_examples=60, deadline=None)
@given(PART)
def test_any_search_has_a_page_and_draws_nothing_outside_its_figures(part: dict[str, Any]) -> None:
    page = search_headline({"search": part}) + search({"search": part})
    Reader(page)
    assert not re.search(r"[\s\",>(-](nan|inf)[\s\",<)]", re.sub(r"<title>.*?</title>", "", page))
    for figure in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        box = re.search(r'viewBox="0 0 (\d+) (\d+)"', figure)
        assert box is not None
        width, height = map(float, box.groups())
        for name, most in (("cx", width), ("cy", height), ("x1", width), ("y2", height)):
            for value in re.findall(rf' {name}="(-?[\d.]+)"', figure):
                assert -8 <= float(value) <= most + 8, (name, value)


def test_fields_of_another_type_are_left_out() -> None:
    part = search_part(3)
    part["law"]["surface"] = part["law"]["surface"][:3]
    for key in part:
        for wrong in (3, [1, None, {"a": math.inf}], {"z": [2]}):
            changed = copy.deepcopy(part) | {key: wrong}
            Reader(search_headline({"search": changed}) + search({"search": changed}))
    for key in part["trials"][0]:
        for wrong in (3, "x", {SECOND: 2, SOURCES[0]: "y"}):
            changed = copy.deepcopy(part)
            changed["trials"][0][key] = wrong
            Reader(search_headline({"search": changed}) + search({"search": changed}))
