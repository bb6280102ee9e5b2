"""Subjects for the tests of tasks: a real tokenizer, and a function in the place of an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msm_ray.evaluate.requests import Request
from msm_ray.tasks.subject import Subject
from tests.train.families import FAMILIES, make_tokenizer


def tokenizer(family: str = "llama", chat: bool = True) -> Any:
    """A byte-level tokenizer; without ``chat`` it has no chat template."""
    made = make_tokenizer(FAMILIES[family])
    if not chat:
        made.chat_template = None
    return made


class Recorder:
    """Computes what ``one`` says for each request, and remembers what it was asked, in words."""

    def __init__(self, tokens: Any, one: Callable[[str, Request], Sequence[float]]) -> None:
        self.tokens, self.one = tokens, one
        self.requests: list[Request] = []
        self.texts: list[str] = []

    def __call__(self, requests: Sequence[Request]) -> list[list[float]]:
        made = []
        for request in requests:
            text = self.tokens.decode(list(request.prompt))
            self.requests.append(request)
            self.texts.append(text)
            made.append(list(self.one(text, request)))
        return made


def subject(
    one: Callable[[str, Request], Sequence[float]],
    family: str = "llama",
    chat: bool = True,
    context: int = 4096,
) -> tuple[Subject, Recorder]:
    """A subject that answers as ``one`` says, and what records its requests."""
    tokens = tokenizer(family, chat)
    recorder = Recorder(tokens, one)
    return Subject(tokens, context, recorder), recorder


def says(tokens: Any, text: str) -> list[float]:
    """Generated ids that read ``text``."""
    return [float(i) for i in tokens(text, add_special_tokens=False)["input_ids"]]
