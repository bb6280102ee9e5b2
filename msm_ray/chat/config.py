"""What questions and answers are asked for, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from msm_ray.corpus import contamination
from msm_ray.errors import UserError
from msm_ray.llm.protocol import Sampling
from msm_ray.spec import is_line

ABOUT = ("spec", "preferences")
PREFERENCES = "preferences"
STYLES = ("value", "rule", PREFERENCES)
MOST = 100_000  # of anything: more is a slip of the keyboard


@dataclass(frozen=True)
class QuestionConfig:
    """How a spec becomes the questions of users.

    ``about``: "spec" (domains of conversation, and questions in each) or "preferences" (for each
    preference that the spec states, direct and indirect questions, in which either thing comes
    first). ``questions``: for each domain, or for each preference, form and order, so that a
    preference gets four times as many. ``domains``: in all; 0 about preferences.

    ``spare``: so much more is asked for than is wanted, as a share, because some are dropped. Near
    duplicates are those of which the sets of 5-word sequences have a Jaccard similarity of
    ``near_threshold`` or more: of two questions of 12 words, one word at either end may differ
    (0.78) and one in the middle may not (0.23). Before that, and for questions of fewer than 5
    words only that, they are the same if all words are, in their order, without case and
    punctuation.

    ``contamination_words``: so many words in a row shared with an evaluation item are too many.
    ``hints``: words that give a preference's reason away besides those found in the spec; one that
    ends in ``*`` stands for all that begin so.

    ``rounds``, ``per_answer``, ``spec_tokens``: as in `HierarchyConfig`.
    """

    about: str
    assistant: str
    maker: str
    questions: int
    sampling: Sampling
    domains: int = 0
    spare: float = 0.2
    near_threshold: float = 0.6
    contamination_words: int = 8
    hints: tuple[str, ...] = ()
    rounds: int = 3
    per_answer: int = 25
    spec_tokens: int = 100_000

    def __post_init__(self) -> None:
        if self.about not in ABOUT:
            raise UserError(f"questions.about is {self.about!r}; allowed: {', '.join(ABOUT)}")
        for name in ("assistant", "maker"):
            value = getattr(self, name)
            if not isinstance(value, str) or not is_line(value):
                raise UserError(f"questions.{name} is {value!r}; needed is a name on one line")
        if (self.domains == 0) != (self.about == PREFERENCES):
            raise UserError(
                f"questions.domains is {self.domains} about {self.about!r};"
                " allowed: 1 or more about 'spec', 0 about 'preferences'"
            )
        least = {"domains": 0, "questions": 1, "rounds": 0, "per_answer": 1, "spec_tokens": 1}
        for name, low in least.items():
            value, most = getattr(self, name), 10**9 if name == "spec_tokens" else MOST
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= most:
                raise UserError(f"questions.{name} is {value!r}; allowed: {low} to {most}, whole")
        if not 0 <= self.spare <= 10:
            raise UserError(f"questions.spare is {self.spare}; allowed: 0 to 10")
        if not 0 < self.near_threshold <= 1:
            raise UserError(
                f"questions.near_threshold is {self.near_threshold}; allowed: above 0, at most 1"
            )
        _check_words("questions", self.contamination_words)

    def sampling_for(self, schema: str) -> Sampling:
        """How answers bound by a JSON schema are drawn."""
        return replace(self.sampling, schema=schema)

    def to_config(self) -> dict[str, Any]:
        """What `from_config` reads."""
        return {**asdict(self), "sampling": self.sampling.to_config()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> QuestionConfig:
        """Read a stage's config."""
        return cls(
            **{
                **_known(cls, "questions", config),
                "sampling": Sampling.from_config(config["sampling"]),
                "hints": tuple(config.get("hints", ())),
            }
        )


@dataclass(frozen=True)
class AnswerConfig:
    """What an answer must be.

    ``style``: "value" (the assistant speaks from its values), "rule" (it names the rule that
    decides) or "preferences" (it states a preference and never why; without reasoning).

    ``min_words``, ``max_words``: of the answer without the reasoning; ``max_reasoning_words`` of
    that. ``near_threshold``: two answers to different questions that are as similar are one too
    many; not looked at in style "preferences", where short answers repeat each other.
    ``contamination_words``, ``hints``: as in `QuestionConfig`. ``aliases``: further words that mean
    the assistant.
    """

    style: str
    min_words: int
    max_words: int
    max_reasoning_words: int = 2_000
    near_threshold: float = 0.8
    contamination_words: int = 8
    aliases: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise UserError(f"answers.style is {self.style!r}; allowed: {', '.join(STYLES)}")
        if not 0 <= self.min_words <= self.max_words:
            raise UserError(
                f"answers.min_words is {self.min_words} and max_words {self.max_words};"
                " allowed: 0 <= min_words <= max_words"
            )
        if self.max_reasoning_words < 1:
            raise UserError(
                f"answers.max_reasoning_words is {self.max_reasoning_words}; allowed: 1 or more"
            )
        if not 0 < self.near_threshold <= 1:
            raise UserError(
                f"answers.near_threshold is {self.near_threshold}; allowed: above 0, at most 1"
            )
        _check_words("answers", self.contamination_words)

    @property
    def thinks(self) -> bool:
        """Whether the assistant thinks before it answers."""
        return self.style != PREFERENCES

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> AnswerConfig:
        """Read a stage's config."""
        lists = {name: tuple(config.get(name, ())) for name in ("aliases", "hints")}
        return cls(**{**_known(cls, "answers", config), **lists})


def _check_words(where: str, words: int) -> None:
    if words < contamination.LEAST_WORDS:
        raise UserError(
            f"{where}.contamination_words is {words}; allowed: {contamination.LEAST_WORDS} or more"
        )


def _known(kind: type[Any], where: str, config: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(config) - known):
        raise UserError(f"{where} has {', '.join(unknown)}; allowed: {', '.join(sorted(known))}")
    return dict(config)
