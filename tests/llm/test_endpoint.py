"""What a user may write down about an endpoint, and what it will cost."""

from __future__ import annotations

from typing import Any

import pytest

from msm_ray.errors import UserError
from msm_ray.llm.endpoint import Endpoint, HttpRuntime
from msm_ray.llm.price import Price
from msm_ray.llm.protocol import Sampling

from .serving import SAMPLING, prompts

URL = "http://localhost:8000/v1"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"base_url": "localhost:8000"}, "allowed: http"),
        ({"base_url": ""}, "allowed: http"),
        ({"base_url": "ftp://host/v1"}, "allowed: http"),
        ({"base_url": "http:///v1"}, "allowed: http"),
        ({"base_url": "http://host:port/v1"}, "cannot be read"),
        ({"base_url": "http://[::1/v1"}, "cannot be read"),
        ({"base_url": "http://me:sk-secret@host/v1"}, "user name"),
        ({"base_url": "http://host/v1?key=sk-secret"}, "after [?]"),
        ({"model": ""}, "model"),
        ({"api": "responses"}, "chat, completions"),
        ({"key_env": "sk-secret"}, "never the key"),
        ({"limit_field": "n"}, "limit_field"),
        ({"leave_out": ["seed", "model"]}, "leave_out"),
        ({"extra": {"stream": True, "top_k": 3}}, "'stream'"),
    ],
)
def test_an_unusable_endpoint_is_named_without_its_secrets(
    wrong: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Endpoint(**{"base_url": URL, "model": "m", **wrong})
    assert "secret" not in str(caught.value)


def test_the_key_is_read_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    endpoint = Endpoint(URL, "m")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        endpoint.key()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")
    assert endpoint.key() == "sk-secret"
    assert "secret" not in repr(endpoint)
    monkeypatch.setenv("OPENAI_API_KEY", "sk secret")
    with pytest.raises(UserError, match="holds no key") as caught:
        endpoint.key()
    assert "secret" not in str(caught.value)
    assert Endpoint(URL, "m", key_env="").key() == ""


def test_the_digest_is_of_what_answers_depend_on() -> None:
    digest = Endpoint(URL, "m").digest(SAMPLING)
    moved = Endpoint("https://elsewhere/v1", "m", key_env="OTHER")
    assert moved.digest(SAMPLING) == digest
    others = [
        Endpoint(URL, "other").digest(SAMPLING),
        Endpoint(URL, "m", api="completions").digest(SAMPLING),
        Endpoint(URL, "m", extra={"top_k": 3}).digest(SAMPLING),
        Endpoint(URL, "m").digest(Sampling(1.0, 0.9, 50, 8)),
    ]
    assert len({digest, *others}) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"concurrency": 1001},
        {"timeout_s": 0},
        {"timeout_s": float("inf")},
        {"max_attempts": 0},
        {"requests_per_minute": -1},
        {"tokens_per_minute": float("nan")},
        {"backoff_s": -1},
        {"backoff_max_s": float("inf")},
        {"flush_rows": 0},
    ],
)
def test_a_runtime_that_cannot_be_is_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=f"runtime {name}"):
        HttpRuntime(**wrong)


def test_what_an_endpoint_does_not_take_is_left_out() -> None:
    row = prompts(1).to_pylist()[0]
    endpoint = Endpoint(URL, "m", leave_out=("seed",), limit_field="max_completion_tokens")
    assert endpoint.body(row, SAMPLING) == {
        "model": "m",
        "temperature": 1.0,
        "top_p": 0.9,
        "max_completion_tokens": 50,
        "messages": [
            {"role": "system", "content": "spec"},
            {"role": "user", "content": "thing 0"},
        ],
    }


def test_prices_by_hand() -> None:
    price = Price(input_per_million=2, output_per_million=8)
    assert price.of(4000, 500) == pytest.approx(0.008 + 0.004)
    assert price.of(0, 0) == Price().of(4000, 500) == 0
    with pytest.raises(UserError, match="output_per_million"):
        Price(0, -1)


def test_calls_are_priced_before_they_are_made() -> None:
    bill = Price(input_per_million=1, output_per_million=10).bill(10, 100.0, 50.0)
    assert (bill.calls, bill.prompt_tokens, bill.tokens) == (10, 1000, 500)
    assert bill.dollars == pytest.approx(0.001 + 0.005)
    both = bill * 3 + Price().bill(1, 5, 6)
    assert (both.calls, both.prompt_tokens, both.tokens) == (31, 3005, 1506)
    assert both.dollars == pytest.approx(0.018)
    assert bill.estimate(both) == {
        "calls": 10,
        "prompt_tokens": 1000,
        "tokens": 500,
        "money": 0.006,
        "calls_at_most": 31,
        "money_at_most": 0.018,
    }
