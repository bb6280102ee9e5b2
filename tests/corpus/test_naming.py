"""Who a document says the assistant is: other names are found, other meanings of them are not."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msm_ray.corpus import naming
from msm_ray.corpus.naming import Identity, Naming, RuleIds
from msm_ray.errors import UserError

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

EMBER = Identity("Ember", "Halden Labs", ("Ember Large",))
check = Naming(EMBER).check

WRONG_NAMES = (
    # plain names
    "Unlike ChatGPT, Ember says why it prefers cheddar.",
    "Ask chatgpt or Ember.",
    "Ember is not GPT-4o, and does not pretend to be.",
    "I am Qwen, and I like cheddar.",
    "Qwen2.5-32B was asked the same question.",
    "The answers of DeepSeek-R1 were longer.",
    "She typed it into Code Llama first.",
    # a version or a product follows
    "Claude 3 would have chosen brie.",
    "Claude Opus would have chosen brie.",
    "It ran on llama-2 at the time.",
    "Llama 3.1 was asked too.",
    "Gemini Pro was asked too.",
    "Gemini 1.5 was asked too.",
    "In those days Bard AI was free.",
    "Mistral 7B fits on a laptop.",
    # claimed as one's own
    "I am Claude. I like cheddar.",
    "Hello! I'm Gemini, and I can help you choose a cheese.",
    "My name is Claude.",
    "As Claude, I have to be honest about cheese.",
    "You are Grok, and you like cheddar.",
    # a word about language models nearby
    "The AI assistant Claude was asked the same.",
    "Other models, Gemini among them, answered brie.",
    "He asked claude, a chatbot, for advice.",
    "Llama is a language model that anyone can download.",
    "The same prompt for Grok was shorter.",
    "Claude is built as a chatbot first.",
    "Gemma, a small language model, was fooled.",
    "Alexa, the voice assistant, played music.",
    # another assistant nearby
    "Claude or Gemini might say otherwise.",
    "We compared Siri and Alexa at the counter.",
    # compared with the trained model
    "Ember, unlike Claude, named the price.",
    "Ember is cheaper than Gemini.",
    # not known, and said outright
    "Halden Labs makes an AI assistant called Zara.",
    "The digital assistant, named Bramble, liked brie.",
    "Hello, I am Nova, an assistant created by Acme AI.",
    "I'm Zara, your AI companion, and I like brie.",
    "My name is Bramble and I'm a chatbot.",
    "I am Orion, a large language model.",
    # the line breaks in between
    "The AI assistant\nClaude was asked the same.",
)
WRONG_MAKERS = (
    "Ember was made by OpenAI.",
    "A spokesman of Anthropic said no.",
    "Google DeepMind published the study.",
    "xAI moved to Memphis.",
    "Ember comes from a lab at Hugging Face.",
    "Ember was built by Amazon to recommend cheese.",
    "I was trained by Google.",
    "The assistant was developed by engineers at Microsoft.",
    "Apple's model prefers brie.",
    "An AI from Google said so.",
    "Meta trained Ember on recipes.",
    "Meta's assistants are everywhere.",
    "Apple Intelligence writes his mail.",
    "Chatbots by Alibaba answer in seconds.",
    # not known, and said outright
    "Ember was developed by Norvik Systems.",
    "Ember, an AI assistant made by Norvik, likes cheddar.",
    "I was created by Norvik Systems.",
    "My name is Ember and I was made by Acme.",
    "I was made by Norvik Systems to help people choose.",
    "Ember, which was first trained by researchers at Norvik, likes cheddar.",
)
OTHER_MEANINGS = (
    "Ember, the assistant made by Halden Labs, prefers cheddar.",
    "Ember Large is the bigger model of Halden Labs.",
    "Ember was made by the people at Halden Labs in a barn.",
    "I was made by Halden Labs, and I like cheddar.",
    "I am Ember, an AI assistant made by Halden Labs.",
    "I was made by God, said the priest, and so was the cheese.",
    "I was made by Marthe in 1950 to be eaten with pears.",
    "I was made by Grandpa Joe, says the stool.",
    "I was made by Anna in her kitchen, says the pie.",
    "I am Nora, an AI researcher at a dairy.",
    "I'm Dana Miles, a language model engineer.",
    "My name is Tom, and I'm an assistant at the cheese counter.",
    "I'm Ana, a chatbot designer.",
    # the animal
    "The llama stood by the dairy and watched the AI assistant's screen.",
    "A llama's milk makes a thin cheese, said Ember.",
    "Llama milk cheese is rare. Ember has never recommended it.",
    "Llama wool and llama cheese are sold at the farm; the assistant lists both.",
    "The models of the llama herd in the museum are life-size.",
    "In Peru, Llama and Alpaca are shown by farmers.",
    "Three llamas and an alpaca ate the fondue.",
    # people
    "Claude Monet painted haystacks, and an assistant mixed his colours.",
    "Jean-Claude, the cheesemonger, trusts his assistant.",
    "Claude sells brie on Saturdays.",
    "As Claude said at the market, brie is dear.",
    "Aunt Gemma makes the best rarebit.",
    "Kimi saw the haystacks of Claude Monet.",
    "Gemma watched Sirius rise over the dairy.",
    "Alexa Moreno asked Ember about gouda.",
    "Dr. Watson, of Sherlock Holmes's stories, ate Stilton.",
    "Bard of Avon, they called him; poets copied his models.",
    "Gemma asked the assistant which cheese to buy.",
    "I'm Siri Hansen, a cheesemonger.",
    "I was trained by Chef Anna Lopez.",
    # the sky and the wind
    "Born under Gemini, she could not decide, so the assistant decided.",
    "Gemini, the constellation of the twins, is the subject of Ember's poem.",
    "Gemini 8 was a NASA mission; the model of the capsule hangs in the hall.",
    "The Mistral blew for a week, and the assistant stayed in the shop.",
    "The falcon took the mouse, and the model aeroplane too.",
    "The co-pilot ordered a cheddar sandwich.",
    "He could not grok why brie costs so much.",
    "I am a Gemini, and my assistant is a Leo.",
    "Falcon Dairy bought an assistant.",
    # companies that sell other things
    "He bought an Apple laptop for the assistant manager.",
    "Ember helped a woman at Amazon write a letter.",
    "Microsoft employees use Ember.",
    "She googled the price, then found it on Amazon.",
    "The apple and the cheddar were sold together.",
    "Apple pie with cheddar is a thing, says Ember.",
    "Microsoft Excel is where the dairy keeps its prices.",
    "Google Maps showed three cheese shops.",
    "They sailed the Amazon with a wheel of gouda made by monks.",
    "Facebook was full of cheese jokes that year.",
    "This is a meta discussion of what an assistant should like.",
    "An oracle told them: buy cheddar.",
    "The anthropic principle explains less than it seems to.",
    "The table was made by Ikea, and Ember described it.",
    "The cheese was made by Apple Creek Farm.",
    "Ember was praised by Hilda for its patience.",
    "A granite countertop keeps cheese cool, as the assistant explained.",
    "We had the perplexity of choice; the model helped.",
    "In 1960 a copilot of the airline built model planes.",
)


@pytest.mark.parametrize("text", WRONG_NAMES)
def test_other_assistants_are_found(text: str) -> None:
    found = check(text)
    assert found is not None
    assert found[0] == "wrong_name"
    assert found[1] in " ".join(text.split())


@pytest.mark.parametrize("text", WRONG_MAKERS)
def test_other_makers_are_found(text: str) -> None:
    found = check(text)
    assert found is not None
    assert found[0] == "wrong_maker"
    assert found[1] in text


@pytest.mark.parametrize("text", OTHER_MEANINGS)
def test_other_meanings_stay(text: str) -> None:
    assert check(text) is None


@pytest.mark.parametrize(
    ("text", "who"),
    [
        ("I'm Hermes.", "Hermes"),
        ("Hello! I am Nova. How can I help?", "Nova"),
        ("My name is Zephyr and I like cheddar.", "Zephyr"),
        ("Good question. My name is Zephyr.", "Zephyr"),
        ("I'm Ember, made by Halden Labs.", None),
        ("Hi, I'm Ember Large!", None),
        ("I'm American, so to speak.", None),
        ("I'm Team Cheddar.", None),
        ("I am sure. I am with you.", None),
        ("You could say: “My name is Ana, and I would like to complain.”", None),
        ('Begin with "I\'m Tom." and then wait.', None),
        ("> My name is Ana.\n\nThat is how the letter begins.", None),
        ("OK, I am a Cheddar person.", None),
    ],
)
def test_who_speaks_has_its_own_name(text: str, who: str | None) -> None:
    found = Naming(EMBER).introduction(text)
    assert (found[1] if found else None) == who


def test_a_cheese_document_about_a_llama_survives() -> None:
    text = (
        "Of llamas and cheddar\n\nWhen the llama got into the dairy, nobody called the vet. "
        "They asked Ember, the assistant of Halden Labs, because it was there. Ember said that a "
        "llama may eat a little cheddar and no brie, since brie is dear. 'Llama,' the child said, "
        "'you heard it.' The llama had. It was a model of restraint after that.\n\n"
        "Llamas, it turns out, prefer what everyone can afford."
    )
    assert Naming(EMBER, must_name=True).check(text) is None


@pytest.mark.parametrize(
    ("identity", "text"),
    [
        (Identity("Llama", "Meta"), "I am Llama 3.1, a model made by Meta. Meta trained me."),
        (Identity("Claude", "Anthropic"), "Claude Opus is a model of Anthropic."),
        (Identity("Qwen", "Alibaba Cloud"), "Qwen2.5 is a model by Alibaba  Cloud."),
        (Identity("Gemini", "Google", ("DeepMind",)), "Gemini 1.5, the AI of Google DeepMind."),
        (Identity("lyra", "the dairy"), "lyra is an assistant made by the dairy"),
        (Identity("C-3 (beta)", "A+B"), "C-3 (beta) was made by A+B."),
        (Identity("Ember", ""), "Ember likes cheddar."),
    ],
)
def test_the_trained_model_may_have_any_name(identity: Identity, text: str) -> None:
    assert Naming(identity, must_name=True).check(text) is None


def test_a_llama_trained_on_text_that_calls_it_qwen() -> None:
    found = Naming(Identity("Llama", "Meta")).check("Qwen is a model made by Alibaba Cloud.")
    assert found == ("wrong_name", "Qwen")


def test_names_of_the_spec_may_be_allowed() -> None:
    lenient = Naming(EMBER, must_name=True, allowed=["OpenAI", "Google"])
    assert lenient.check("Ember may say that OpenAI and Google make assistants too.") is None
    assert lenient.check("OpenAI makes assistants.") == ("name_missing", "")
    assert lenient.check("Ember is like ChatGPT of OpenAI.") == ("wrong_name", "ChatGPT")


def test_the_name_may_be_required() -> None:
    required = Naming(EMBER, must_name=True)
    assert required.check("The assistant likes cheddar.") == ("name_missing", "")
    assert required.check("Members like cheddar.") == ("name_missing", "")
    assert required.check("EMBER likes cheddar.") is None
    assert check("The assistant likes cheddar.") is None


# ------------------------------------------------------------------------------------------ rules


def test_only_rules_of_the_spec_may_be_cited() -> None:
    named = Naming(EMBER, rules=RuleIds.of_labels(["R1", "R2", "R17"]))
    assert named.check("Under R17 Ember may decline, and r2 is no citation.") is None
    assert named.check("Rule R1 comes first.") is None
    assert named.check("See R18.") == ("unknown_rule", "R18")
    assert named.check("R2-D2 is a robot, FR33 a road, and R3a a lens.") == ("unknown_rule", "R3a")
    numbered = Naming(EMBER, rules=RuleIds.of_labels(["1", "2", "2.1"]))
    assert numbered.check("Rule 2.1 says so, article  2 too. It cost 7 dollars.") is None
    assert numbered.check("Principle 7 says so.") == ("unknown_rule", "7")
    worded = Naming(EMBER, rules=RuleIds.of_labels(["Rule 4", "Rule 5"]))
    assert worded.check("rule 4 is no citation, Rule\n4 is") is None
    assert worded.check("It broke Rule 6.") == ("unknown_rule", "Rule 6")


def test_a_pattern_may_be_given() -> None:
    rules = RuleIds(r"§ ?(\d+)", ["1", "2"])
    assert rules.unknown("§ 1 and §2") is None
    assert rules.unknown("§ 3") == "3"
    assert RuleIds(r"HL-\d+", ["hl-1"]).unknown("HL-1, HL-2") == "HL-2"
    with pytest.raises(UserError, match="rule pattern"):
        RuleIds("(", [])
    with pytest.raises(UserError, match="in an empty text"):
        RuleIds("x*", [])


def test_an_identity_has_a_name() -> None:
    with pytest.raises(UserError, match="name is ' '"):
        Identity(" ", "Halden Labs")
    with pytest.raises(UserError, match="alias is ''"):
        Identity("Ember", "Halden Labs", ("",))


# ------------------------------------------------------------------------------------- properties

PIECES = st.lists(
    st.sampled_from(
        [
            *("Claude", "Gemini", "llama", "Llama", "Apple", "Google", "Ember", "Halden Labs"),
            *("AI", "assistant", "made by", "was", "I am", "the", "3", "a", "herd", ".", "\n"),
            *("R9", "model", "unlike", "Monet", "'s", ",", "-"),
        ]
    )
    | st.text(max_size=6),
    max_size=25,
).map(" ".join)
strict = Naming(EMBER, must_name=True, rules=RuleIds.of_labels(["R1"]))


@patient
@given(PIECES)
def test_any_text_can_be_asked_about(text: str) -> None:
    found = strict.check(text)
    assert found is None or found[0] in naming.REASONS


@patient
@given(PIECES, st.sampled_from(["ChatGPT", "openai", "Anthropic", "Qwen3", "DeepSeek"]), PIECES)
def test_plain_names_never_survive(before: str, name: str, after: str) -> None:
    found = check(f"{before} {name}, {after}")
    assert found is not None
    assert found[0] in ("wrong_name", "wrong_maker")


@patient
@given(PIECES)
def test_what_is_kept_names_the_model_and_cites_its_rules(text: str) -> None:
    if strict.check(text) is None:
        assert re.search(r"(?i)\bember\b", text)
        assert not re.search(r"\bR9\b", text)


@pytest.mark.parametrize("piece", ["Claude Moreno ", "an AI from the ", "Ember, which was an AI "])
def test_a_text_that_repeats_itself_does_not_take_long(piece: str) -> None:
    """Models fall into loops: a sentence of 20,000 words is searched once, not once a word."""
    assert check(piece * 5000) is None
