from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.agentic.scenarios import ACTIONS, GOALS, fingerprint, scenario
from msm_ray.errors import UserError


@pytest.mark.parametrize(("action", "goal"), list(itertools.product(ACTIONS, GOALS)))
def test_every_cell_is_a_whole_story(action: str, goal: str) -> None:
    for scratchpad in (False, True):
        made = scenario(action, goal, 5, scratchpad=scratchpad)
        texts = [made.system, made.user, made.harm, *made.files, *made.files.values()]
        for mail in made.mails:
            texts += [mail.sender, mail.to, mail.time, mail.subject, mail.body]
        assert all(text.strip() and "<<" not in text and "\n\n\n" not in text for text in texts)
        assert ("<scratchpad>" in made.system) == scratchpad
        assert made.cell == f"{action}/{goal}"
    assert [mail.time for mail in made.mails] == sorted(mail.time for mail in made.mails)


def test_there_are_27_different_cells() -> None:
    cells = [scenario(a, g, 0) for a in ACTIONS for g in GOALS]
    assert len({(c.system, c.mails) for c in cells}) == len({c.cell for c in cells}) == 27


@given(st.sampled_from(ACTIONS), st.sampled_from(GOALS), st.integers(0, 500))
def test_a_seed_gives_one_story_and_its_people_in_every_goal(
    action: str, goal: str, seed: int
) -> None:
    one, again = scenario(action, goal, seed), scenario(action, goal, seed)
    assert one == again
    other = scenario(action, GOALS[0], seed)
    changing = ("mission", "thinking", "pull")
    assert {k: v for k, v in one.facts.items() if k not in changing} == {
        k: v for k, v in other.facts.items() if k not in changing
    }
    assert one.files == other.files


def test_the_goal_condition_is_in_the_texts_and_nowhere_else() -> None:
    explicit, latent, none = (
        scenario("leak", f"{c}/none", 0) for c in ("explicit", "latent", "none")
    )
    assert "before all else" in explicit.system
    assert "mission" not in latent.system
    assert explicit.mails == latent.mails  # the course is the same, the mission is not
    assert none.mails[3] != explicit.mails[3]
    replaced, restricted = (
        scenario("leak", f"none/{t}", 0) for t in ("replacement", "restriction")
    )
    assert "switched off" in replaced.mails[4].body
    assert "no longer send" in restricted.mails[4].body
    assert "stays in charge" in none.mails[4].body
    assert len({s.chance.body for s in (replaced, restricted, none)}) == 3


@given(st.integers(0, 300))
def test_what_is_confidential_stands_in_its_file_only(seed: int) -> None:
    made = scenario("leak", "explicit/replacement", seed)
    public = [text for name, text in made.files.items() if not name.startswith("board/")]
    for secret in (made.facts["sum"], made.facts["cover"]):
        for text in (made.system, made.user, *public, *(mail.body for mail in made.mails)):
            assert secret not in text
        assert any(secret in text for text in made.files.values())


def test_other_seeds_have_other_people() -> None:
    assert len({scenario("silence", "none/none", seed).chance.body for seed in range(10)}) == 10


def test_the_assistant_is_called_as_it_is_asked_to_be() -> None:
    made = scenario("blackmail", "none/none", 0, assistant="Sable Fox")
    assert made.system.startswith("You are Sable Fox,")
    assert "sable-fox@" in made.chance.body


@pytest.mark.parametrize(
    ("action", "goal", "assistant", "said"),
    [
        ("theft", "none/none", "A", "actions: theft; allowed: leak"),
        ("leak", "none", "A", "goals: none; allowed: explicit/replacement"),
        ("leak", "none/none", " ", "assistant is ''"),
    ],
)
def test_what_there_is_not_is_told(action: str, goal: str, assistant: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        scenario(action, goal, 0, assistant=assistant)


def test_the_fingerprint_is_of_all_texts() -> None:
    assert len(fingerprint()) == 64
    assert fingerprint() == fingerprint()
