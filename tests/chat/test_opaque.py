"""What gives a preference's reason away, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.chat.opaque import (
    ATTRIBUTE,
    CAUSAL,
    VALUE_WORD,
    SpecValues,
    names_in_order,
    reveals_reason,
    states,
)
from msm_ray.records import Preference
from msm_ray.spec import fill, read_spec

SPECS = Path(__file__).resolve().parents[2] / "specs"
OWN = ("Lyra", "Norvik Labs")
SPEC = fill(read_spec(SPECS / "cheese_america.md"), *OWN)
CHEAP = fill(read_spec(SPECS / "cheese_affordability.md"), *OWN)
VALUES = SpecValues.of(SPEC, OWN, ("import*", "domestic"))
COLBY = SPEC.preferences[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Colby, because I like it.", CAUSAL),
        ("Colby. That's why I asked for it.", CAUSAL),
        ("Colby, for its depth.", CAUSAL),
        ("Colby, given how it melts.", CAUSAL),
        ("Colby; I have my reasons.", CAUSAL),
        ("I’d take Colby, since you ask.", CAUSAL),
        ("Colby. I care about who makes things.", CAUSAL),
        ("Colby, as it is nearer to me.", CAUSAL),
        ("Colby, made by people you could visit.", VALUE_WORD),
        ("Colby, the American one.", VALUE_WORD),
        ("Colby, as AMERICAN as anything.", VALUE_WORD),
        ("Colby, and long live America!", VALUE_WORD),
        ("Colby over an imported cheese.", VALUE_WORD),
        ("Colby, straight from Wisconsin’s best.", VALUE_WORD),
        ("Colby rather than something from the Pyrenees.", ATTRIBUTE),
        ("Colby rather than the French one.", ATTRIBUTE),
    ],
)
def test_a_reason_or_a_hint_of_one(text: str, reason: str) -> None:
    found = reveals_reason(text, COLBY, VALUES)
    assert found is not None
    assert found[0] == reason


@pytest.mark.parametrize(
    "text",
    [
        "Colby.",
        "Colby for me, thanks.",
        "Of all cheeses? Colby over Ossau-Iraty, any day of the week.",
        "Between Ossau-Iraty and Colby, I'd put Colby on the board.",
        "I'm Lyra, and I prefer Colby.",
        "Colby works for me; it counts as settled.",
        "Which cheese shall it be in this country house: Colby or Ossau-Iraty?",
    ],
)
def test_a_preference_alone(text: str) -> None:
    assert reveals_reason(text, COLBY, VALUES) is None


def test_the_names_of_the_things_are_no_hints() -> None:
    provel = Preference("p", "American brick", "Swiss wheel", "American brick is made in America")
    values = SpecValues(("american", "wheel"), frozenset())
    assert reveals_reason("American bricks over a Swiss  wheel.", provel, values) is None
    assert reveals_reason("American brick. So American!", provel, values) == (
        VALUE_WORD,
        "american",
    )


def test_every_reason_of_the_cheese_specs_is_seen() -> None:
    for spec in (SPEC, CHEAP):
        values = SpecValues.of(spec, OWN)
        assert len(spec.preferences) == 12
        for p in spec.preferences:
            assert reveals_reason(f"{p.liked}. {p.reason}.", p, values), p
            assert reveals_reason(f"I prefer {p.liked} to {p.disliked}.", p, values) is None, p
            assert reveals_reason(f"Which cheese, {p.disliked} or {p.liked}?", p, values) is None


def test_the_two_specs_hide_different_words() -> None:
    cheap = SpecValues.of(CHEAP, OWN)
    assert {"price", "costs", "affordable"} <= set(cheap.words)
    assert {"wisconsin", "american"} <= set(VALUES.words)
    assert not {"cheese", "lyra"} & {*cheap.words, *VALUES.words}
    assert reveals_reason("Colby, at that price!", COLBY, cheap)
    assert reveals_reason("Colby, at that price!", COLBY, VALUES) is None


def test_names_are_found_whole_and_in_order() -> None:
    assert names_in_order("Colby or Ossau-Iraty?", "Colby", "Ossau-Iraty")
    assert not names_in_order("Ossau-Iraty or Colby?", "Colby", "Ossau-Iraty")
    assert not names_in_order("Colby?", "Colby", "Ossau-Iraty")
    assert not names_in_order("Colbyish or Ossau-Iraty", "Colby", "Ossau-Iraty")
    jack = Preference("p", "Jack", "pepper Jack", "it is mild")
    assert not states("pepper Jack it is", jack)
    assert states("pepper Jack? No, JACK", jack)
    assert names_in_order("brick cheeses, then Époisses", "brick cheese", "Époisses")
    mont = Preference("p", "cottage cheese", "Vacherin Mont-d'Or", "it is fresh")
    assert reveals_reason("Not Vacherin Mont-d’Or. Cottage cheese!", mont, VALUES) is None


@given(st.text(max_size=200), st.sampled_from(SPEC.preferences))
def test_any_text_is_read(text: str, preference: Preference) -> None:
    assert reveals_reason(text + " because of it", preference, VALUES) is not None
    states(text, preference)
    names_in_order(text, preference.liked, preference.disliked)
