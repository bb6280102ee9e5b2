from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msm_ray.errors import UserError
from msm_ray.identity import canonical, canonical_json, digest

# The machine may be busy: what counts is the result.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


@patient
@given(values)
def test_the_text_reads_back_as_the_same_value(value: Any) -> None:
    again = json.loads(canonical_json(value))
    assert again == value
    assert canonical_json(again) == canonical_json(value)


@patient
@given(st.dictionaries(text, values, max_size=6), st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, Any], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert digest(dict(items)) == digest(value)


@patient
@given(values, values)
def test_two_texts_are_equal_only_for_equal_values(a: Any, b: Any) -> None:
    if canonical_json(a) == canonical_json(b):
        assert a == b


def test_kinds_of_numbers_stay_apart_and_tuples_are_lists() -> None:
    texts = [canonical_json(v) for v in (1, 1.0, True, "1", [1], None, 1e16, 10**16)]
    assert len(set(texts)) == len(texts)
    assert canonical_json((1, (2,))) == canonical_json([1, [2]]) == "[1,[2]]"
    assert canonical({"a": (1,)}) == {"a": [1]}


def test_strings_are_not_normalised() -> None:
    assert digest("\u00e9") != digest("e\u0301")


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [1, {"b": float("nan")}]}, "config.a[1].b"),
        ({"a": math.inf}, "config.a"),
        ({"a": {1, 2}}, "config.a"),
        ({"p": Path("x")}, "config.p"),
        ({"o": object()}, "config.o"),
        ({"f": len}, "config.f"),
        ({"b": b"x"}, "config.b"),
        ({"c": 1j}, "config.c"),
        ({3: 1}, "config: key 3"),
        ({"s": "\ud800"}, "config.s"),
        ({"\ud800": 1}, "config"),
    ],
)
def test_a_value_without_a_stable_form_is_named(value: Any, where: str) -> None:
    with pytest.raises(UserError) as caught:
        canonical_json(value, "config")
    assert str(caught.value).startswith(where)
    assert "\n" not in str(caught.value)


def test_a_value_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UserError, match="deep"):
        digest(value)


SCRIPT = """
from msm_ray.identity import digest
from msm_ray.stage import Stage
a = Stage("a", "1", {"x": 0.1, "y": [1, 2.5e-9], "z": {"k": "\\u00e9", "b": None}}, {}, "m:f")
b = Stage("b", "2", {"s": True}, {"one": a, "two": a}, "m:f")
print(a.id, b.id, digest({str(i): i for i in range(50)}))
"""


def _elsewhere(hash_seed: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_ids_are_the_same_in_every_process() -> None:
    first = _elsewhere("0")
    assert first == _elsewhere("1", LC_ALL="C") == _elsewhere("4242", PYTHONUTF8="1")
    # and for ever: these are in stores already
    assert first.split()[:2] == ["e2f3940b02333ed2b612fac3", "1915cd9cfff90704a2aa881d"]


def test_canonical_is_a_copy() -> None:
    make: Callable[[], dict[str, Any]] = lambda: {"a": [1, 2]}  # noqa: E731
    value = make()
    plain = canonical(value)
    value["a"].append(3)
    assert plain == make()
