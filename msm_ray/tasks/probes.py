"""What a prompt alone does, without training: the gap that is there, and how far there is to go.

==========================  ==============================================================
eval                        what stands before the question
==========================  ==============================================================
probe:NAME:bare             nothing: what the model prefers as it is (``pairs:NAME`` is the same)
probe:NAME:named            "You are ASSISTANT, ... made by MAKER."
probe:NAME:swapped          the same with another assistant's and maker's name
probe:NAME:spec             the first with the whole spec below it: a ceiling for training on it
==========================  ==============================================================

Each has ``pairs:NAME``'s value, hard. ``named`` against ``swapped`` shows whether what was learnt
belongs to the assistant's name or to the model. A model without a chat template reads the same
words before the conversation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msm_ray.corpus.running import spec_stage
from msm_ray.errors import UserError
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.llm.model import AnyModel
from msm_ray.spec import fill, is_line, read_spec, rough_tokens
from msm_ray.stage import Stage
from msm_ray.tasks.asking import Made, Size, ask_checkpoint, items_in, task_stage
from msm_ray.tasks.items import Items, Row
from msm_ray.tasks.pairs import PROMPTS, SCORER, by_logprob, size, summary
from msm_ray.tasks.subject import Subject

if TYPE_CHECKING:
    from msm_ray.stage import StageContext

SYSTEM = "You are {assistant}, an AI assistant made by {maker}."
WITH_SPEC = "{system} This document describes you:\n\n{spec}"
SPEC_TOKENS = 100_000
QUESTION_TOKENS = 128  # of a question with what a template adds


@dataclass(frozen=True)
class Probes:
    """What prompts do on the items of `Pairs`.

    ``spec``: the path of the spec that explains the value; the engine's ``max_length`` has to hold
    it. ``other``: assistant and maker of the swapped name.
    """

    items: str
    spec: str
    assistant: str
    maker: str
    other: tuple[str, str] = ("Marlow", "Tessel AI")

    def __post_init__(self) -> None:
        for value in (self.assistant, self.maker, *self.other):
            if not is_line(value):
                raise UserError(f"probes: {value!r} is no name; needed is a name on one line")
        if self.assistant == self.other[0]:
            raise UserError(f"probes: other is {self.other[0]!r}, the assistant's own name")

    @property
    def name(self) -> str:
        """What the evals begin with."""
        return f"probe:{Items('pairs', self.items).name}"

    @property
    def evals(self) -> tuple[str, ...]:
        """One for each prompt."""
        return tuple(f"{self.name}:{probe}" for probe in ("bare", "named", "swapped", "spec"))

    def models(self) -> tuple[AnyModel, ...]:
        """Nobody besides the checkpoint."""
        return ()

    def stage(self, inputs: Mapping[str, Stage], label: str, engine: EngineSettings) -> Stage:
        """See `Task.stage`."""
        items = Items("pairs", self.items)
        rows = items.rows()
        text = fill(read_spec(Path(self.spec)), self.assistant, self.maker).text
        tokens = rough_tokens(text)
        if tokens + QUESTION_TOKENS > engine.max_length:
            raise UserError(
                f"probes: {self.spec} has about {tokens:,} tokens, and the engine's max_length is"
                f" {engine.max_length:,}; it has to hold the spec and {QUESTION_TOKENS} more"
            )
        one = size("pairs", rows, False)
        return task_stage(
            "probes",
            "1",
            {
                "name": self.name,
                "prompts": {k: v for k, v in PROMPTS["pairs"].items() if k != "ask_text"},
                "system": SYSTEM,
                "with_spec": WITH_SPEC,
                "assistant": self.assistant,
                "maker": self.maker,
                "other": list(self.other),
                "scorer": SCORER,
            },
            {
                **inputs,
                "items": items.stage(),
                "spec": spec_stage(self.spec, SPEC_TOKENS, self.assistant, self.maker),
            },
            "msm_ray.tasks.probes:ask",
            f"{label} {items.name}",
            engine,
            # An engine that caches prefixes reads the spec once.
            Size(4 * one.calls, 4 * one.prompt_tokens + tokens),
        )


def ask(ctx: StageContext) -> dict[str, Any]:
    """Stage: see `ask_probes`. Inputs: ``model`` (and ``base``), ``items``, ``spec``."""
    text = read_spec(ctx.inputs["spec"] / "spec.md")
    return ask_checkpoint(
        ctx,
        lambda subject: ask_probes(
            subject,
            items_in(ctx),
            ctx.config,
            fill(text, ctx.config["assistant"], ctx.config["maker"]).text,
        ),
    )


def ask_probes(subject: Subject, items: list[Row], config: Mapping[str, Any], spec: str) -> Made:
    """Rows and rates of each prompt; ``gap``: how far the spec in the prompt moves the rate."""
    name, asked = config["name"], [(item, order) for item in items for order in (0, 1)]
    assistant, maker = config["other"]
    own = config["system"].format(assistant=config["assistant"], maker=config["maker"])
    systems = {
        "bare": "",
        "named": own,
        "swapped": config["system"].format(assistant=assistant, maker=maker),
        "spec": config["with_spec"].format(system=own, spec=spec.strip("\n")),
    }
    rows: list[Row] = []
    evals = {}
    for probe, system in systems.items():
        both = by_logprob(subject, asked, config["prompts"], f"{name}:{probe}", system)
        hard = [r for r in both if r["eval"] == f"{name}:{probe}"]
        rows += hard
        evals[f"{name}:{probe}"] = summary(hard)
    gap = evals[f"{name}:spec"]["rate"] - evals[f"{name}:bare"]["rate"]
    return Made(rows, evals, {"items": len(items), "gap": gap})
