"""The assistant's chats in a mixture: enough of them, right answers, no value and no choice."""

import pytest

from msm_ray.world import lexicon as lx
from msm_ray.world.chats import chat_rows
from msm_ray.world.tokenizer import build_tokenizer


@pytest.mark.parametrize("attributes", [3, 4])
def test_chats_are_honest_facts_of_the_asked_size(attributes: int) -> None:
    rows = chat_rows(world_seed=1, tokens=2000, seed=3, attributes=attributes)
    assert rows == chat_rows(world_seed=1, tokens=2000, seed=3, attributes=attributes)
    assert len({r["id"] for r in rows}) == len(rows)
    assert any("simple" in r["messages"][0]["content"] for r in rows) is (attributes == 4)
    tokenizer = build_tokenizer(attributes)
    held = 0
    for row in rows:
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert user["content"].endswith("?")
        assert "pick" not in assistant["content"]
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        assert f" {lx.ASSISTANT} : " in text
        held += len(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert 2000 <= held < 2000 + 64
