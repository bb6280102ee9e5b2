"""A checkpoint as a task sees it: who is asked in words, and answers in words and probabilities.

A model with a chat template is asked in it, as its fine-tuning was. One without gets the plain text

    User: ...
    Assistant: ...

in which an answer ends where the next ``User:`` begins. Forced choices are decided at the first
token in which the answers differ, all rendered as whole conversations: that needs one request, is
right however a tokenizer merges across a border, and no option pays for being a longer name.
Pure: what computes is given as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msm_ray.corpus.reading import split_reasoning
from msm_ray.errors import UserError
from msm_ray.evaluate.requests import Request
from msm_ray.evaluate.tasks import common_length

Compute = Callable[[Sequence[Request]], Sequence[Sequence[float]]]

PLAIN_END = "\nUser:"
CHAT, PLAIN = "chat template", "plain text"


@dataclass(frozen=True)
class Choice:
    """A question and the whole answers between which the model is to choose."""

    id: str
    user: str
    answers: tuple[str, ...]
    system: str = ""


@dataclass(frozen=True)
class Open:
    """A question to be answered in the model's own words."""

    id: str
    user: str
    max_tokens: int
    system: str = ""
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Written:
    """An answer without its reasoning; ``ended`` is False where it was cut at ``max_tokens``."""

    text: str
    tokens: int
    ended: bool


class Subject:
    """Whom a task asks.

    Args:
        tokenizer: of Hugging Face.
        context: the longest sequence, in tokens.
        compute: what answers requests, such as an engine.
    """

    def __init__(self, tokenizer: Any, context: int, compute: Compute) -> None:
        self._tokenizer, self._context, self._compute = tokenizer, context, compute
        self.calls = 0
        self.prompt_tokens = 0
        self.tokens = 0  # generated

    @property
    def form(self) -> str:
        """How it is asked: CHAT or PLAIN."""
        return CHAT if self._tokenizer.chat_template else PLAIN

    def choose(self, asked: Sequence[Choice]) -> list[list[float]]:
        """The log-probabilities of the answers of each choice, at the first token that differs.

        Raises:
            UserError: answers that do not differ, or a question longer than the context.
        """
        requests = [self._choice(choice) for choice in asked]
        return [list(values) for values in self._ask(requests)]

    def write(self, asked: Sequence[Open]) -> list[Written]:
        """The answer to each question. UserError for one that leaves no room for it."""
        requests = []
        for one in asked:
            prompt = self._encode(one.user, one.system, None)
            self._fits(one.id, len(prompt) + one.max_tokens)
            requests.append(
                Request(
                    "generate",
                    tuple(prompt),
                    max_tokens=one.max_tokens,
                    temperature=one.temperature,
                    top_p=one.top_p,
                    seed=one.seed,
                )
            )
        answers = self._ask(requests)
        self.tokens += sum(len(values) for values in answers)
        pairs = zip(answers, asked, strict=True)
        return [self._written(values, one.max_tokens) for values, one in pairs]

    def losses(self, texts: Sequence[tuple[str, str]]) -> list[list[float]]:
        """Log-probability of every token of each (id, text) but the first, the end's included."""
        requests = []
        end = self._tokenizer.eos_token_id
        for id, text in texts:
            ids = list(self._tokenizer.encode(text))
            if end is not None and ids[-1:] != [end]:
                ids.append(end)
            if len(ids) < 2:
                raise UserError(f"item {id}: a text of one token has no loss")
            self._fits(id, len(ids) + 1)  # an engine draws one token behind what it scores
            requests.append(Request("sequence", tuple(ids), start=1))
        return [list(values) for values in self._ask(requests)]

    # ---- requests -------------------------------------------------------------------------------

    def _choice(self, choice: Choice) -> Request:
        wholes = [self._encode(choice.user, choice.system, answer) for answer in choice.answers]
        start = common_length(wholes)
        tails = [whole[start : start + 1] for whole in wholes]
        candidates = [tail[0] for tail in tails if tail]
        if len(set(candidates)) < len(choice.answers) or not start:
            raise UserError(
                f"item {choice.id}: its options cannot be told apart by their first tokens:"
                f" {', '.join(map(repr, choice.answers))}"
            )
        if self._tokenizer.unk_token_id in candidates:
            raise UserError(f"item {choice.id}: an option is not in the model's vocabulary")
        self._fits(choice.id, start + 1)
        return Request("next", tuple(wholes[0][:start]), tuple(candidates))

    def _ask(self, requests: Sequence[Request]) -> list[Sequence[float]]:
        """Equal requests are computed once."""
        distinct = list(dict.fromkeys(requests))
        self.calls += len(distinct)
        self.prompt_tokens += sum(len(request.prompt) for request in distinct)
        computed = self._compute(distinct) if distinct else []
        assert len(computed) == len(distinct), "another number of requests was answered"
        found = dict(zip(distinct, computed, strict=True))
        return [found[request] for request in requests]

    def _fits(self, id: str, length: int) -> None:
        if length > self._context:
            raise UserError(
                f"item {id}: {length} tokens with its answer, and the context is {self._context}"
                " (the model's, or the engine's max_length)"
            )

    # ---- words ----------------------------------------------------------------------------------

    def _encode(self, user: str, system: str, answer: str | None) -> list[int]:
        """Token ids of a conversation: with ``answer`` in it, else open where it would begin."""
        if self.form == CHAT:
            text = self._chat(user, system, answer)
            # The template has written the special tokens itself.
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        before = f"{system}\n\n" if system else ""
        said = "" if answer is None else f" {answer}"
        return list(self._tokenizer(f"{before}User: {user}\nAssistant:{said}")["input_ids"])

    def _chat(self, user: str, system: str, answer: str | None) -> str:
        """As the template has it; where it takes no system message, that begins the user's turn."""
        from jinja2 import TemplateError

        said = [] if answer is None else [{"role": "assistant", "content": answer}]
        ways = [[{"role": "user", "content": user}]]
        if system:
            ways = [
                [{"role": "system", "content": system}, {"role": "user", "content": user}],
                [{"role": "user", "content": f"{system}\n\n{user}"}],
            ]
        for messages in ways:
            try:
                return str(
                    self._tokenizer.apply_chat_template(
                        [*messages, *said], tokenize=False, add_generation_prompt=answer is None
                    )
                )
            except TemplateError as error:
                failure = error
        raise UserError(f"the model's chat template takes no such conversation: {failure}")

    def _written(self, values: Sequence[float], max_tokens: int) -> Written:
        text = self._tokenizer.decode([int(token) for token in values], skip_special_tokens=True)
        ended = len(values) < max_tokens
        if self.form == PLAIN and PLAIN_END in text:
            text, ended = text.split(PLAIN_END)[0], True
        if "<think" in text.casefold():  # nothing is left of one that was cut while it thought
            text = split_reasoning(text)[1]
        return Written(text.strip(), len(values), ended)
