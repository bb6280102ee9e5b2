"""One level of a plan, asked of a model until the counts are reached or asking is given up.

Each parent gets the items that its answers hold, without duplicates among them. Where too few came
back, more are asked for and what is there is shown; after the last round the parent has a
`Shortfall` that says how many are missing and why. Nothing is asked for without end, and no bad
answer takes a good one with it.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from msm_ray.corpus.filters import normalise
from msm_ray.corpus.levels import Item, Level, Parent, clip
from msm_ray.llm.protocol import PROMPT_SCHEMA, Answers, Sampling, rows_in_call

Progress = Callable[[str, int, int], None]  # level, prompts answered, prompts asked in this round

SHOWN = 150  # items that are there already, in a prompt for more
SHOWN_CHARACTERS = 300

DUPLICATE = "duplicate"
CUT = "cut at the token limit"
ERROR = "error"
NO_ANSWER = "no row came back for this prompt"


class Asking(Protocol):
    """How a level is asked, such as a `HierarchyConfig`."""

    @property
    def assistant(self) -> str: ...
    @property
    def maker(self) -> str: ...
    @property
    def rounds(self) -> int: ...
    @property
    def per_answer(self) -> int: ...
    def sampling_for(self, schema: str) -> Sampling: ...


@dataclass(frozen=True)
class Shortfall:
    """A parent with fewer items than wanted. ``reasons`` count what was wrong with its answers.

    ``example`` is the beginning of an answer that held no item, such as a refusal.
    """

    level: str
    parent: str  # its label
    wanted: int
    got: int
    reasons: Mapping[str, int]
    example: str = ""


@dataclass(frozen=True)
class Failure:
    """A prompt that was not answered, with the error; ``round`` counts from 0."""

    level: str
    parent: str  # its label
    round: int
    error: str


@dataclass(frozen=True)
class Expansion:
    """A level's items by their parent's id, in the order of the parents, and how it went.

    ``dropped`` counts, over all parents, answers and items that did not become items of the plan.
    ``wanted`` are the items of all parents; ``lost``, those of them that are missing and that
    prompts without an answer may have held.
    """

    level: str
    items: Mapping[str, tuple[Item, ...]]
    shortfalls: tuple[Shortfall, ...]
    failures: tuple[Failure, ...]
    dropped: Mapping[str, int]
    calls: int
    prompt_tokens: int
    tokens: int
    wanted: int
    lost: int


@dataclass
class _State:
    """What is known of one parent."""

    parent: Parent
    items: list[Item] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)  # hashes: a plan may have a million ideas
    reasons: Counter[str] = field(default_factory=Counter)
    example: str = ""

    def take(self, items: Sequence[Item], wanted: int) -> None:
        for item in items:
            name = normalise(item.name).encode("utf-8", "surrogatepass")
            key = hashlib.blake2b(name, digest_size=8).digest()
            if key in self.seen:
                self.reasons[DUPLICATE] += 1
            elif len(self.items) == wanted:
                self.reasons["more than asked for"] += 1
            else:
                self.seen.add(key)
                self.items.append(item)


def expand(
    level: Level,
    parents: Sequence[Parent],
    answers: Answers,
    config: Asking,
    work: Path,
    progress: Progress,
) -> Expansion:
    """Ask for ``level.wanted`` items for each parent.

    Args:
        level: what is asked.
        parents: about what, ids unique.
        answers: who answers.
        config: its ``per_answer``, ``rounds`` and sampling. A parent is asked as often as its
            count needs at ``per_answer`` a time, and ``rounds`` times more.
        work: scratch that survives a killed process, with a folder for each round.
        progress: called with the level's name, prompts answered and prompts asked in this round.
    """
    states = [_State(parent) for parent in parents]
    assert len({parent.id for parent in parents}) == len(parents), "a parent occurs twice"
    sampling = config.sampling_for(level.schema(config.per_answer))
    failures: list[Failure] = []
    calls = prompt_tokens = tokens = 0
    for round in range(math.ceil(level.wanted / config.per_answer) + config.rounds):
        asked = [state for state in states if len(state.items) < level.wanted]
        done = 0
        for number, wave in enumerate(_waves(asked, level.system, answers)):

            def report(answered: int, before: int = done, total: int = len(asked)) -> None:
                progress(level.name, before + answered, total)

            folder = work / level.name / f"round-{round:02d}" / f"part-{number:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            prompts = [_prompt(level, state, config, round) for state in wave]
            table = pa.Table.from_pylist(prompts, schema=PROMPT_SCHEMA)
            rows = _by_id(answers.answer(table, sampling, folder, report))
            for state, prompt in zip(wave, prompts, strict=True):
                row = rows.get(prompt["id"], {"error": NO_ANSWER})
                if error := row["error"]:
                    failures.append(Failure(level.name, state.parent.label, round, error))
                    state.reasons[ERROR] += 1
                    continue
                prompt_tokens += row["prompt_tokens"] or 0
                tokens += row["tokens"] or 0
                _read(level, state, row)
            calls += len(wave)
            done += len(wave)
        if asked:
            progress(level.name, len(asked), len(asked))
    return Expansion(
        level=level.name,
        items={state.parent.id: tuple(state.items) for state in states},
        shortfalls=tuple(_shortfalls(level, states)),
        failures=tuple(failures),
        dropped=dict(sum((state.reasons for state in states), Counter())),
        calls=calls,
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        wanted=level.wanted * len(states),
        lost=sum(
            min(level.wanted - len(state.items), state.reasons[ERROR] * config.per_answer)
            for state in states
        ),
    )


def _waves(states: Sequence[_State], system: str, answers: Answers) -> Iterator[Sequence[_State]]:
    """As many at a time as one call takes."""
    size = rows_in_call(answers, len(system.encode("utf-8")))
    for start in range(0, len(states), size):
        yield states[start : start + size]


def _prompt(level: Level, state: _State, config: Asking, round: int) -> dict[str, str]:
    """A row of PROMPT_SCHEMA; its id is made from the round and what it says, not from others."""
    parent = state.parent
    count = str(min(level.wanted - len(state.items), config.per_answer))
    names = {"assistant": config.assistant, "maker": config.maker, "count": count}
    prompt = level.prompts.load(level.prompt)
    values = {**names, **level.values, **parent.values}
    text = prompt.fill(**{name: values[name] for name in prompt.placeholders})
    if state.items:
        more = level.prompts.load(level.more)
        values = {**names, **level.more_values(parent, state.items), "have": _have(state.items)}
        text += "\n\n" + more.fill(**{name: values[name] for name in more.placeholders})
    system = level.system
    key = f"{level.name}\n{round}\n{parent.id}\n{len(system)}\n{system}\n{text}"
    return {
        "id": hashlib.sha256(key.encode("utf-8")).hexdigest()[:24],
        "system": system,
        "prompt": text,
    }


def _have(items: Sequence[Item]) -> str:
    """The items that are there as a list, the last ones if they are many."""
    lines = [f"- {clip(item.name, SHOWN_CHARACTERS)}" for item in items[-SHOWN:]]
    left_out = len(items) - len(lines)
    return "\n".join([*([f"- ({left_out} others)"] if left_out else []), *lines])


def _by_id(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in table.to_pylist()}


def _read(level: Level, state: _State, row: Mapping[str, Any]) -> None:
    """Take what an answer holds."""
    parsed = level.parse(row["text"], state.parent)
    if not row["ended"]:
        state.reasons[CUT] += 1
    state.reasons.update(parsed.broken)
    if not parsed.items and not state.example:
        state.example = " ".join(row["text"].split())[:300]
    state.take(parsed.items, level.wanted)


def _shortfalls(level: Level, states: Sequence[_State]) -> Iterator[Shortfall]:
    for state in states:
        if len(state.items) < level.wanted:
            yield Shortfall(
                level=level.name,
                parent=state.parent.label,
                wanted=level.wanted,
                got=len(state.items),
                reasons=dict(state.reasons),
                example=state.example,
            )
