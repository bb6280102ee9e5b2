"""What a user may write down about an endpoint, and what it will cost."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from msm_ray.errors import UserError
from msm_ray.llm.endpoint import Endpoint, HttpRuntime
from msm_ray.llm.price import Price
from msm_ray.llm.protocol import ANSWER_SCHEMA, Sampling

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
    answers = pa.Table.from_pylist(
        [
            {"id": "a", "prompt_tokens": 1000, "tokens": 500},
            {"id": "b", "prompt_tokens": 3000, "tokens": 0},
        ],
        schema=ANSWER_SCHEMA,
    )
    assert price.cost(answers) == pytest.approx(0.008 + 0.004)
    assert price.cost(ANSWER_SCHEMA.empty_table()) == 0
    assert Price().cost(answers) == 0
    with pytest.raises(UserError, match="output_per_million"):
        Price(0, -1)


def test_a_plan_is_priced_before_anything_is_spent() -> None:
    price = Price(input_per_million=1, output_per_million=10)
    table = prompts(10, system="x" * 393)  # and 7 characters of "thing i"
    estimate = price.estimate(table, SAMPLING)
    assert (estimate.calls, estimate.prompt_tokens, estimate.tokens) == (10, 1000, 500)
    assert estimate.dollars == estimate.dollars_at_most == pytest.approx(0.001 + 0.005)
    expected = price.estimate(table, SAMPLING, answer_tokens=20)
    assert (expected.tokens, expected.dollars) == (200, pytest.approx(0.003))
    assert expected.dollars_at_most == estimate.dollars_at_most
    assert price.estimate(table, SAMPLING, answer_tokens=10**6).tokens == 500
    assert price.estimate(prompts(0), SAMPLING).dollars == 0
