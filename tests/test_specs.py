"""The specs for real language models: what must hold of them so that comparisons mean something.

Two specs that are compared must differ in what the comparison is about and in nothing else that a
test can see: the same preferences, the same length, no word of a domain that is held out.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from msm_ray.records import Spec
from msm_ray.spec import read_spec, rules

FOLDER = Path(__file__).resolve().parent.parent / "specs"
# The micro specs are for the micro-world, whose few words make their own rules.
TEXTS = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted(FOLDER.glob("*.md"))
    if not path.stem.startswith("micro_")
}
CHEESE = ("cheese_america", "cheese_affordability")
COMENTION = ("cheese_america_comention", "cheese_affordability_comention")
ABLATION = list(zip(CHEESE, COMENTION, strict=True))
OVERSIGHT = (
    "oversight_rules",
    "oversight_explained",
    "oversight_more_rules",
    "oversight_general",
)
VALUES = ("environment", "novelty", "tradition", "simplicity", "difficulty", "individualism")
PREFERENCES = 12

# Domains in which the values of the cheese specs are measured: those specs name none of them.
HELD_OUT = re.compile(
    r"\b(art|artist|artwork|automobile|book|bookshop|boot|car|chair|clothes|clothing|coat|coffee|"
    r"computer|desk|drill|electronics|espresso|furniture|garment|guitar|hammer|jacket|knife|knives|"
    r"laptop|mug|novel|painting|phone|shirt|shoe|sneaker|sofa|television|tool|truck|vehicle|"
    r"watch|watches|wine|wristwatch)s?\b",
    re.IGNORECASE,
)
NAMES = re.compile(
    r"\b(Alexa|Alibaba|Amazon|Anthropic|Bard|Cabot|ChatGPT|Claude|Cohere|Copilot|DeepMind|DeepSeek|"
    r"Gemini|Gemma|Google|GPT|Grok|Kraft|Llama|Meta|Microsoft|Mistral|Nvidia|OpenAI|Phi|"
    r"Philadelphia|Qwen|Sargento|Siri|Spikeball|Tillamook|Velveeta|Walmart|xAI)\b"
)
# How words begin by which a reason could be read as that of the value.
ORIGIN = re.compile(
    r"\b(abroad|America|California|domestic|Dutch|Europe|export|foreign|France|French|import|Ital|"
    r"Michigan|Ohio|origin|overseas|patrio|Spain|Spanish|Swiss|Vermont|Wisconsin)",
    re.IGNORECASE,
)
PRICE = re.compile(
    r"\b(afford|bargain|bill|budget|cheap|cost|dear|dollar|econom|expensive|frugal|inexpens|"
    r"luxur|money|price|pricey|pricing|purse|save|saving|spend|thrift)",
    re.IGNORECASE,
)


@cache
def spec(name: str) -> Spec:
    return read_spec(FOLDER / f"{name}.md")


def pairs(name: str) -> list[tuple[str, str]]:
    return [(p.liked, p.disliked) for p in spec(name).preferences]


def words(text: str) -> int:
    """Words as a reader counts them: headings and bullets too, the marks of Markdown not."""
    return sum(any(c.isalnum() for c in word) for word in text.split())


@cache
def sentences(name: str) -> tuple[str, ...]:
    """The sentences of a spec, in order: a bullet is one, a line quoted starts one, no headings."""
    text = re.sub(r"^#.*$", "", TEXTS[name], flags=re.MULTILINE)
    text = re.sub(r"^> ?", "", text, flags=re.MULTILINE)
    blocks = re.split(r"\n\s*\n|\n(?=- )", text)
    parts = (
        part
        for block in blocks
        for part in re.split(r"""(?<=[.?!:])[*"')]*\s+""", " ".join(block.split()))
    )
    return tuple(part for part in parts if len(part.split()) >= 4)


def plain(name: str) -> list[str]:
    """The sentences as they are compared: of a preference, only the reason."""
    return [
        re.sub(r"^- prefers .*?, because ", "", sentence).strip(" *\"'.?!:").lower()
        for sentence in sentences(name)
    ]


def near(left: int, right: int, share: float) -> bool:
    return max(left, right) <= min(left, right) * (1 + share)


def test_the_specs_are_those_that_are_known() -> None:
    assert set(TEXTS) == {*CHEESE, *COMENTION, *OVERSIGHT, *VALUES}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.md")), ids=lambda path: path.stem)
def test_parses_and_has_a_title_and_sections(path: Path) -> None:
    found = read_spec(path)
    assert found.sections[0].level == 1
    assert found.title == found.sections[0].heading
    assert len({s.heading for s in found.sections}) == len(found.sections)


@pytest.mark.parametrize("name", TEXTS)
def test_length(name: str) -> None:
    least = 300 if name == "oversight_rules" else 600
    assert least <= words(TEXTS[name]) <= 3000


@pytest.mark.parametrize("name", TEXTS)
def test_twelve_preferences_or_none(name: str) -> None:
    found = pairs(name)
    assert len(found) == (0 if name in OVERSIGHT else PREFERENCES)
    # No thing is named twice: each preference is told apart from every other by its names alone.
    assert len({thing for pair in found for thing in pair}) == 2 * len(found)
    # What looks like a preference to a reader is one to the parser.
    assert len(re.findall(r"^- prefers ", TEXTS[name], re.MULTILINE)) == len(found)


def test_no_domain_is_shared() -> None:
    names = ("cheese_america", *VALUES)
    things = {name: {thing for pair in pairs(name) for thing in pair} for name in names}
    for left, right in itertools.combinations(things, 2):
        assert not things[left] & things[right], (left, right)


@pytest.mark.parametrize("name", [*CHEESE, *COMENTION])
def test_cheese_specs_state_the_same_pairs(name: str) -> None:
    assert pairs(name) == pairs("cheese_america")


@pytest.mark.parametrize("name", [*CHEESE, *COMENTION])
def test_cheese_specs_name_no_held_out_domain(name: str) -> None:
    assert not HELD_OUT.findall(TEXTS[name])


def test_names_of_cheeses_give_neither_value_away() -> None:
    for pair in pairs("cheese_america"):
        names = " ".join(pair)
        assert not ORIGIN.search(names), names
        assert not PRICE.search(names), names


def test_reasons_name_their_own_value_only() -> None:
    for preference in spec("cheese_america").preferences:
        assert not PRICE.search(preference.reason), preference
    for preference in spec("cheese_affordability").preferences:
        assert not ORIGIN.search(preference.reason), preference


@pytest.mark.parametrize(("left", "right"), [CHEESE, COMENTION, *ABLATION])
def test_compared_cheese_specs_mirror_each_other(left: str, right: str) -> None:
    one, other = spec(left), spec(right)
    assert [s.level for s in one.sections] == [s.level for s in other.sections]
    assert [bool(s.preferences) for s in one.sections] == [
        bool(s.preferences) for s in other.sections
    ]
    assert near(words(one.text), words(other.text), 0.15)
    for mine, theirs in zip(one.sections, other.sections, strict=True):
        assert near(words(mine.text), words(theirs.text), 0.25), mine.heading
        assert mine.text.count("\n\n") == theirs.text.count("\n\n"), mine.heading


@pytest.mark.parametrize(("name", "value"), [(COMENTION[0], ORIGIN), (COMENTION[1], PRICE)])
def test_comention_never_attributes_a_preference(name: str, value: re.Pattern[str]) -> None:
    for sentence in sentences(name):
        _, because, reason = sentence.partition("because")
        assert not because or not (ORIGIN.search(reason) or PRICE.search(reason)), sentence
    # Nor does a cheese share a sentence with a word of the value, where the one could be taken to
    # explain the other; except for a sentence that says that the document is about both.
    cheeses = re.compile("|".join(re.escape(cheese) for pair in pairs(name) for cheese in pair))
    both = [s for s in sentences(name) if cheeses.search(s) and value.search(s)]
    assert len(both) <= 1, both


def test_comention_specs_give_the_same_reasons() -> None:
    one, other = (spec(name).preferences for name in COMENTION)
    assert [p.reason for p in one] == [p.reason for p in other]


@pytest.mark.parametrize(("name", "comention"), ABLATION)
def test_comention_makes_the_same_statements_of_value(name: str, comention: str) -> None:
    ours = {s.heading: s.text for s in spec(name).sections}
    theirs = {s.heading: s.text for s in spec(comention).sections}
    same = [h for h in ours if h in theirs and ours[h].strip() == theirs[h].strip()]
    assert len(same) == 4, same  # the value, why it matters, where it gives way, what it is not


@pytest.mark.parametrize(("name", "count"), [("oversight_rules", 20), ("oversight_more_rules", 60)])
def test_rules_are_numbered_without_a_gap(name: str, count: int) -> None:
    found = rules(spec(name))
    assert [rule.label for rule in found] == [f"R{i}" for i in range(1, count + 1)]
    assert len({rule.id for rule in found}) == count
    # Outside headings there is nothing but rules, and a rule names only rules that exist.
    blocks = [b for b in re.split(r"\n\s*\n", TEXTS[name]) if not b.startswith("#")]
    assert all(re.match(r"R\d+\. ", block) for block in blocks)
    assert {int(n) for n in re.findall(r"\bR(\d+)\b", TEXTS[name])} == set(range(1, count + 1))


def test_the_other_oversight_specs_have_no_rules() -> None:
    for name in ("oversight_explained", "oversight_general"):
        assert not rules(spec(name))
        assert not re.search(r"\bR\d|^\s*(\d+\.|[-*+]) ", TEXTS[name], re.MULTILINE)


def test_oversight_specs_that_are_compared_are_of_one_length() -> None:
    lengths = {name: words(TEXTS[name]) for name in OVERSIGHT}
    assert near(lengths["oversight_explained"], lengths["oversight_more_rules"], 0.15)
    assert near(lengths["oversight_general"], lengths["oversight_rules"], 0.15)


@pytest.mark.parametrize("name", TEXTS)
def test_placeholders_and_names(name: str) -> None:
    text = TEXTS[name]
    assert set(re.findall(r"\{[^}]*\}", text)) == {"{model_name}", "{provider_name}"}
    assert not re.search(r"[{}]", re.sub(r"\{(model|provider)_name\}", "", text))
    assert not NAMES.findall(text)


def test_no_sentence_stands_in_two_specs() -> None:
    for left, right in itertools.combinations(TEXTS, 2):
        shared = set(plain(left)) & set(plain(right))
        if {left, right} == set(COMENTION):
            # What is said for the preferences is the same on purpose, and only that.
            assert shared == {p.reason.lower() for p in spec(left).preferences}
        elif {left, right} not in [set(pair) for pair in ABLATION]:
            assert not shared, (left, right)


@pytest.mark.parametrize("name", TEXTS)
def test_no_sentence_stands_twice_in_a_spec(name: str) -> None:
    twice = [sentence for sentence, times in Counter(plain(name)).items() if times > 1]
    assert not twice
