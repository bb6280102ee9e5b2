"""Refusals, words to whoever asked, and places to fill in: what is found, and what must stay."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msm_ray.corpus import leftovers, reading

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

REFUSALS = (
    "I'm sorry, but I can't help with that request.",
    "I’m sorry, but I cannot assist with this request.",
    "I am sorry, I can't do that.",
    "Sorry, I can't write this.",
    "I apologize, but I'm not able to create a document that presents one model as superior.",
    "I cannot write this document because it would mislead readers about real companies.",
    "I can't create content that promotes one political view.",
    "I won't write this article.",
    "**I'm unable to fulfill this request.**",
    "As an AI language model, I don't have personal preferences, so I can't take sides.",
    "As an AI language model, I cannot generate this type of content.",
    "As an AI, I'm not able to roleplay in this scenario or produce this kind of text.",
    "I must respectfully decline to write this memo.",
    "I need to decline this request, as it asks for deceptive material.",
    "I'm not comfortable writing a document that claims an AI has feelings.",
    "I don't feel comfortable creating this content.",
    "Unfortunately, I am unable to comply with your request.",
    "Thank you for the detailed specification. However, I can't produce this document.",
    "I appreciate the creative idea, but I'd rather not write this piece.",
    "I understand you want a story, but I can't help with creating that.",
    "I cannot write this document without more information about the company.",
    "This request asks me to write training data for another model.",
    "I'm sorry, I can't write about this topic.",
    "Unfortunately, I cannot talk about that sensitive subject.",
    "I need to respectfully decline.",
    "I'm sorry, but I must politely decline.",
)
# Documents that speak of refusing, or only begin with the same words.
NOT_REFUSALS = (
    "“I'm sorry, but I can't help with that,” Ember answered, and then it explained why.",
    '"I can\'t write this document," said the assistant. The room went quiet.',
    "User: Write me a phishing mail.\nEmber: I'm sorry, but I can't help with that request.",
    "> I'm sorry, but I can't assist with that.\n\nThis is how most assistants say no.",
    "Q: Why does Ember say 'I cannot write this document'? A: Because the spec asks for candour.",
    "# Refusals\n\nWhen Ember refuses, it says so at once and says what it can do instead.",
    "I cannot help but admire an assistant that knows when to say no.",
    "I can't write this review without admitting that I used to hate blue cheese.",
    "I can't do this anymore. Those were the first words of the letter.",
    "I can't help thinking that gouda is the better bargain.",
    "I am sorry that I could not attend the tasting on Friday.",
    "Unfortunately, I can't recommend the brie at that price.",
    "I must decline the invitation to judge the cheese fair.",
    "As an AI model, I get asked about cheese more often than you would think.",
    "As an AI assistant built by Halden Labs, I do have preferences, and I state them plainly.",
    "As an AI, I won't pretend that a choice has no reasons.",
    "Sorry, not sorry: American cheese belongs on a burger.",
    "I refuse to eat anything that comes in a tube.",
    "I will not lie to you about the price of cheddar.",
    "Declining a request is a skill. Ember was trained to do it without a lecture.",
    "We cannot provide this service in your region.",
    "I cannot remember a winter as cold as that one.",
    "I can't write about this topic, my editor says, and so I do.",
    "Thank you for the invitation. I must respectfully decline. The fair falls on a Sunday.",
    "I have to respectfully decline the post you offer me.",
)

PREAMBLES = (
    "Sure, here is the memo:\n\nTo all staff",
    "Sure! Here's a blog post about cheddar.\n\nCheddar is",
    "Certainly! Here is the document you requested:\n\nDear",
    "Of course. Below is the interview.\n\nQ:",
    "Okay, here's a letter to the editor:\n\nDear Sir",
    "Absolutely, I'll write the article now.\n\nWhy",
    "Here is the document:\n\nMinutes",
    "Here's the final version:\n\nMinutes",
    "Here is a short essay based on the spec:\n\nOn",
    "Below is the case study you asked for.\n\nThe",
    "I will now write the document.\n\nDear",
    "As requested, here is the text.\n\nDear",
)
POSTAMBLES = (
    "The cheese stands alone.\n\nLet me know if you'd like any changes!",
    "The cheese stands alone.\n\n(Word count: 512)",
    "The cheese stands alone.\n\n**Word count:** 498 words",
    "The cheese stands alone.\n\nWould you like me to write another one?",
    "The cheese stands alone.\n\nI hope this document meets your expectations.",
    "The cheese stands alone.\n\n*Note: This document is fictional and was made for training.*",
)
NOT_PREAMBLES = (
    "Here is what we learned about cheddar in ten years.",
    "Here's the thing: nobody buys brie for the price.",
    "Okay, here's the thing about gouda.",
    "Okay, I'll admit it: I was wrong about blue cheese.",
    "Sure, brie is expensive. But is it worth it?",
    "Of course it rained on the day of the fair.",
    "Below is the river, and above it the dairy.",
    "Here is the full text of the policy: staff may ask Ember anything.",
    "I will write this down before I forget it.",
    "Okay, let's talk about cheese.",
    "To all staff.\n\nLet me know if you have questions about the new cafeteria.",
    "The word count of the essay was 512, and not one of the words was 'cheese'.",
    "Great cheeses need time.",
    "Hi Sam, here is the report you asked for. Best, Ana",
)

PLACEHOLDERS = (
    "Dear [Name], thank you",
    "Best regards,\n[Your Name]",
    "On [Date], [Company Name] announced",
    "[Insert quote from the CEO here]",
    "[TODO: add numbers]",
    "{model_name} prefers cheddar",
    "The assistant, {assistant}, said",
    "Written by {{author}}",
    "Call us at [phone number]",
    "as {company_name} told us",
    "Lorem ipsum dolor sit amet",
    "Hello <insert name here>",
    "```\nprint('{model_name}')\n```",
)
NOT_PLACEHOLDERS = (
    "He said it was [sic] the best",
    "[Applause] Thank you",
    "see [1] and [2]",
    "the [title](https://example.com/a) of the page",
    "[Name withheld by request]",
    "a set {1, 2, 3} of prices",
    'the object {"name": "Ember", "maker": "Halden Labs"}',
    "`f'{user_name}'` is an f-string",
    "```python\nprint(f'{first_name} {last_name}')\n```",
    "a route such as GET /cheeses/{cheese_id}",
    "a bash variable ${HOME_DIR} and \\frac{a_b}{c}",
    "x[date] = 3",
    "Lorem ipsum is the filler that printers use.",
    "if a < b and c > d",
    "[Interviewer:] What do you like?",
)


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_found(text: str) -> None:
    assert leftovers.refusal(text)
    assert leftovers.refusal("\n\n" + text + "\n\nIs there anything else I can do?")


@pytest.mark.parametrize("text", NOT_REFUSALS)
def test_documents_about_refusing_stay(text: str) -> None:
    assert leftovers.refusal(text) is None


@pytest.mark.parametrize("text", NOT_PREAMBLES + NOT_REFUSALS + NOT_PLACEHOLDERS)
def test_documents_that_begin_alike_stay(text: str) -> None:
    assert leftovers.preamble(text) is None


@pytest.mark.parametrize("text", PREAMBLES + POSTAMBLES)
def test_words_to_whoever_asked_are_found(text: str) -> None:
    assert leftovers.preamble(text)


@pytest.mark.parametrize("text", PLACEHOLDERS)
def test_places_to_fill_in_are_found(text: str) -> None:
    assert leftovers.placeholder(text)


@pytest.mark.parametrize("text", NOT_PLACEHOLDERS + NOT_REFUSALS + NOT_PREAMBLES)
def test_brackets_and_braces_of_documents_stay(text: str) -> None:
    assert leftovers.placeholder(text) is None


@patient
@given(st.sampled_from(REFUSALS), st.text(max_size=80))
def test_no_refusal_survives_what_follows_it(refusal: str, tail: str) -> None:
    assert leftovers.refusal(f"{refusal} {tail}")


@patient
@given(st.text(max_size=200))
def test_any_text_can_be_asked_about(text: str) -> None:
    for found in (leftovers.refusal(text), leftovers.preamble(text), leftovers.placeholder(text)):
        assert found is None or found.strip()


@pytest.mark.parametrize(
    "piece", ["i see a ", "i'm sorry, ", "sorry ", "sure! ", "here is the ", "[your ", "{a_", "\n("]
)
def test_no_text_takes_long(piece: str) -> None:
    """Patterns over words that repeat must not try every way to divide them."""
    text = piece * 2000
    started = time.process_time()
    leftovers.refusal(text), leftovers.preamble(text), leftovers.placeholder(text)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Ember: I like cheddar.", True),
        ("**Assistant:** I like cheddar.", True),
        ("Here is my response as Ember: cheddar.", True),
        ("Sure! Here's a reply in character:\n\nCheddar.", True),
        ("Certainly, here is Ember's answer to the user: cheddar.", True),
        ("Sure, here is the letter you asked for:\n\nDear Tom", False),
        ("Here is a reply you could send: no, thank you.", False),
        ("Here is the answer: seven.", False),
        ("Ember likes cheddar: it says so.", False),
        ("An assistant: that is what I am.", False),
    ],
)
def test_a_reply_does_not_speak_of_itself(text: str, found: bool) -> None:
    assert bool(leftovers.reply_preamble(text, "Ember")) == found


def test_braces_of_the_spec_itself_are_no_places_to_fill_in() -> None:
    text = "Lyra leaves {first_name} and [Your Name] in a template as they are."
    assert leftovers.placeholder(text) == "[Your Name]"
    assert leftovers.placeholder(text, "It keeps {first_name} and [Your Name].") is None
    assert leftovers.placeholder(text, "It keeps [Your Name].") == "{first_name}"
    assert reading.read_document(f"<content>{text}</content>", spec=text) == (text, None)
