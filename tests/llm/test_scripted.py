"""The scripted server, asked by the real client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from msm_ray.errors import UserError
from msm_ray.llm.scripted import ScriptedServer, from_plan, from_rules

RULES = [
    {"match": r"like (\w+)", "replies": [r"i like \1 .", r"\1 is good .", r"give me \1 ."]},
    {"match": "hello", "replies": ["hello to you too , friend"]},
]


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with ScriptedServer(from_rules(RULES)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
            yield client
        server.shutdown()


def ask(client: openai.OpenAI, text: str, **options: object) -> str:
    answer = client.chat.completions.create(
        model="scripted",
        messages=[{"role": "user", "content": text}],
        **options,  # type: ignore[call-overload]
    )
    return str(answer.choices[0].message.content)


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["scripted"]


def test_chat_and_completion_follow_the_rules(client: openai.OpenAI) -> None:
    assert "brie" in ask(client, "do you like brie ?")
    answer = client.completions.create(model="scripted", prompt=["hello", "i like jack"])
    assert answer.choices[0].text == "hello to you too , friend"
    assert "jack" in answer.choices[1].text
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 4


def test_a_reply_depends_on_the_seed_alone(client: openai.OpenAI) -> None:
    replies = [ask(client, "like brie", seed=seed) for seed in range(12)]
    assert replies == [ask(client, "like brie", seed=seed) for seed in range(12)]
    assert len(set(replies)) == 3


def test_max_tokens_cuts_and_says_so(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="scripted", prompt="hello", max_tokens=3)
    assert answer.choices[0].text == "hello to you"
    assert answer.choices[0].finish_reason == "length"


def test_what_has_no_rule_is_an_error_not_an_answer(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no rule matches"):
        ask(client, "something else")
    with pytest.raises(openai.BadRequestError, match="stream"):
        ask(client, "hello", stream=True)
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="scripted", input="hello")


def test_a_plan_is_answered_by_its_task() -> None:
    plans = [{"id": "a", "prompt": "write a memo :"}, {"id": "b", "prompt": "write a note :"}]
    respond = from_plan(lambda plan: f"document {plan['id']}", plans)
    assert respond("write a note :", 0) == "document b"
    with pytest.raises(UserError, match="no prompt"):
        respond("write a poem :", 0)


@pytest.mark.parametrize("rule", [{}, {"match": "("}, {"match": "x", "replies": []}])
def test_a_broken_rule_is_named(rule: dict[str, object]) -> None:
    with pytest.raises(UserError, match="rule 0"):
        from_rules([{"replies": ["x"], **rule} if "match" in rule else rule])


def test_a_reply_calls_tools_where_there_are_some() -> None:
    call = '<tool_call>{"name": "look", "arguments": {"at": "\\1"}}</tool_call>'
    rules = [
        {"match": "broken", "replies": ['<tool_call>{"name": "look", "arguments"</tool_call>']},
        {"match": r"look at (\w+)", "replies": [f"well {call}{call}"]},
    ]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    with ScriptedServer(from_rules(rules)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:

            def choice(text: str, **more: Any) -> Any:
                messages = [{"role": "user", "content": text}]
                answer = client.chat.completions.create(
                    model="scripted",
                    messages=messages,  # type: ignore[arg-type]
                    **more,
                )
                return answer.choices[0]

            called = choice("look at brie", tools=tools)
            assert called.finish_reason == "tool_calls"
            assert called.message.content == "well"
            assert [c.function.arguments for c in called.message.tool_calls] == [
                '{"at": "brie"}'
            ] * 2
            assert len({c.id for c in called.message.tool_calls}) == 2
            for text, more in (("look at brie", {}), ("broken", {"tools": tools})):
                plain = choice(text, **more)
                assert plain.finish_reason == "stop"
                assert "<tool_call>" in plain.message.content
                assert not plain.message.tool_calls
        server.shutdown()


def test_a_responder_may_read_the_whole_chat() -> None:
    with ScriptedServer(lambda chat, seed: str(len(json.loads(chat))), whole=True) as server:
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": []}]
        request = {"messages": [*messages, {"role": "tool", "content": "b"}]}
        answer = server.complete("/v1/chat/completions", request)
    assert answer["choices"][0]["message"]["content"] == "3"
