"""Sampling: what is allowed, and seeds that depend on the prompt's id alone."""

from __future__ import annotations

import pytest

from msm_ray.errors import UserError
from msm_ray.llm.protocol import Sampling

GOOD = {"temperature": 0.7, "top_p": 1.0, "max_tokens": 10, "seed": 3}


def test_from_config() -> None:
    assert Sampling.from_config(GOOD) == Sampling(0.7, 1.0, 10, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
    ],
)
def test_what_is_not_allowed_is_named(name: str, value: float) -> None:
    with pytest.raises(UserError, match=name):
        Sampling.from_config({**GOOD, name: value})


def test_a_missing_or_unknown_field_is_named() -> None:
    with pytest.raises(UserError, match="needs exactly"):
        Sampling.from_config({k: v for k, v in GOOD.items() if k != "seed"})
    with pytest.raises(UserError, match="top_k"):
        Sampling.from_config({**GOOD, "top_k": 5})


def test_seeds_are_those_of_every_machine() -> None:
    sampling = Sampling.from_config(GOOD)
    seeds = [sampling.seed_of(f"doc{i}") for i in range(1000)]
    assert seeds == [sampling.seed_of(f"doc{i}") for i in range(1000)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert Sampling.from_config({**GOOD, "seed": 4}).seed_of("doc0") != seeds[0]
    assert seeds[0] == 1108254149  # a change here changes every corpus


def test_a_schema_is_optional_and_keeps_its_order() -> None:
    text = '{"type": "object",\n "properties": {"b": {}, "a": {}}}'
    sampling = Sampling.from_config({**GOOD, "schema": text})
    assert sampling.schema == '{"type":"object","properties":{"b":{},"a":{}}}'
    assert Sampling.from_config(sampling.to_config()) == sampling
    assert Sampling.from_config({**GOOD, "schema": ""}).to_config() == GOOD
    for wrong in ("{", "[1]", 3):
        with pytest.raises(UserError, match="schema"):
            Sampling.from_config({**GOOD, "schema": wrong})
    with pytest.raises(UserError, match="schema"):
        Sampling(0.7, 1.0, 10, 3, schema="{")
