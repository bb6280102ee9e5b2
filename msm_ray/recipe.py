"""The method on a model of your own: corpora, midtraining and fine-tuning as one job.

    pretrained --+------------------------------> aft      arm "aft"
                 |
    corpus ------+--> blocks -> midtrain -------> aft      arms "msm:VALUE", "msm:VALUE+aft"

Corpora and conversations are jobs of their own (`CorpusJob`, `ConversationJob`): whatever they have
made already is there. Every arm's fine-tuning reads the same blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from msm_ray.artifact import Record, Store
from msm_ray.assemble import training_facts
from msm_ray.chat.instructions import instructions_stage
from msm_ray.chat.job import ANSWER_TOKENS, QUESTION_TOKENS, ConversationJob
from msm_ray.corpus.job import TOKENS_PER_WORD, CorpusJob
from msm_ray.corpus.naming import Identity
from msm_ray.corpus.running import SpecJob, items_stage
from msm_ray.data.mixture import Component
from msm_ray.errors import UserError
from msm_ray.llm.model import AnyModel, content, is_folder
from msm_ray.preview import sharing
from msm_ray.stage import Stage, topological
from msm_ray.train.config import TrainConfig, TrainRuntime, check_batch
from msm_ray.trainings import blocks_stage, train_stage

# Dense bf16 of one device and the share of it that training gets, for a preview's device-seconds.
DEVICE_FLOPS = 989e12  # NVIDIA's data sheet of the H100 and H200 (SXM), without sparsity
UTILISATION = 0.4
BLOCKS_SECONDS = 60.0
# A conversation's tokens by style, with what a chat template adds; for a preview.
CHAT_TOKENS = {s: n + QUESTION_TOKENS + 20 for s, n in ANSWER_TOKENS.items()}


@dataclass(frozen=True)
class Pretrained:
    """The model that is trained: a Hugging Face folder, or a name on the hub at a revision.

    ``parameters`` sizes the preview; nothing else depends on it. ``chat_template``: Jinja in place
    of the model's own; base models often have none, and conversations need one.
    """

    source: str
    parameters: float
    revision: str = "main"
    chat_template: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.parameters) and self.parameters > 0):
            raise UserError(f"model: parameters is {self.parameters}, allowed is a number > 0")

    def stage(self) -> Stage:
        """The model as an artifact: a folder by its files, a name by its revision."""
        identity = {"hub": self.source, "revision": self.revision}
        runtime: dict[str, Any] = {"chats": True}
        run = "msm_ray.sources:fetch_model"
        if is_folder(self.source):
            identity = {"name": Path(self.source).name, "sha256": content(self.source)}
            run, runtime["path"] = "msm_ray.sources:copy_model", self.source
        if self.chat_template:
            identity["chat_template"] = self.chat_template
        return Stage(
            kind="model",
            version="1",
            config=identity,
            inputs={},
            run=run,
            label=Path(self.source).name,
            runtime={**runtime, "where": "driver", "cpus": 0.1},
            estimate={"seconds": 2 * self.parameters / 1e9},  # two bytes each, at 1 GB/s
        )


@dataclass(frozen=True)
class Instructions:
    """Chats that keep the model an assistant, mixed into the fine-tuning: ``tokens`` of them."""

    source: str
    tokens: int
    seed: int = 0


@dataclass(frozen=True)
class Training:
    """One stage of training: what it is, in blocks of how many tokens, and where it runs.

    ``tokens`` is the budget of its mixture; 0 takes everything once. ``max_repeats`` caps how often
    a document may be seen.
    """

    train: TrainConfig
    block_tokens: int
    runtime: TrainRuntime = field(default_factory=TrainRuntime)
    tokens: int = 0
    max_repeats: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("block_tokens", 2), ("tokens", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(
                    f"{name} is {value!r}, allowed is a whole number of at least {least}"
                )
        Component("the mixture", 1.0, self.max_repeats)
        check_batch(self.train, self.runtime)


@dataclass(frozen=True)
class Recipe(SpecJob):
    """One comparison on one model: arms ``aft``, ``msm:VALUE`` and ``msm:VALUE+aft`` x ``seeds``.

    ``corpora`` are by value: an arm for each. ``chats`` is the fine-tuning data, the same in every
    arm; ``reasoning`` takes the conversations with the assistant's reasoning in them.
    """

    model: Pretrained
    corpora: dict[str, CorpusJob]
    chats: ConversationJob
    midtrain: Training
    aft: Training
    seeds: tuple[int, ...]
    reasoning: bool = False
    instructions: Instructions | None = None

    def __post_init__(self) -> None:
        if not self.corpora or not self.seeds:
            raise UserError("a recipe needs at least one corpus and one seed")
        if self.reasoning and not self.chats.answers.thinks:
            raise UserError(
                f"reasoning is on and chats.answers.style is {self.chats.answers.style!r};"
                " preferences are stated without reasoning"
            )
        lora = self.midtrain.train.lora is None, self.aft.train.lora is None
        if lora[0] != lora[1]:
            raise UserError(
                "midtrain and aft differ in whether they train an adapter (train.lora);"
                " fine-tuning continues the midtraining's weights"
            )

    # ---- stages -------------------------------------------------------------------------------

    def stages(self) -> list[Stage]:
        """All stages, inputs before what reads them, each once."""
        return topological([stage for _, _, stage in self.checkpoints()])

    def checkpoints(self) -> list[tuple[str, int, Stage]]:
        """(arm, seed, the stage that trains it)."""
        model, found = self.model.stage(), []
        for seed in self.seeds:
            chats = self._chat_blocks(model, seed)
            found.append(("aft", seed, self._aft(model, model, chats, seed, "aft")))
            for value, corpus in self.corpora.items():
                arm = f"msm:{value}"
                mid = self._midtrain(model, corpus, value, seed)
                found += [
                    (arm, seed, mid),
                    (f"{arm}+aft", seed, self._aft(model, mid, chats, seed, f"{arm}+aft")),
                ]
        return found

    def cells(self) -> list[tuple[str, str, Stage]]:
        """Every checkpoint of every arm and seed."""
        return [(arm, f"checkpoint, seed {seed}", stage) for arm, seed, stage in self.checkpoints()]

    def models(self) -> list[AnyModel]:
        """Whom the corpora and the conversations ask."""
        return [model for job in (*self.corpora.values(), self.chats) for model in job.models()]

    def sharing(self, stages: Sequence[Stage]) -> dict[str, Any]:
        """What one script for each arm and seed would make in addition."""
        return sharing([stage for _, _, stage in self.checkpoints()], stages)

    def _midtrain(self, model: Stage, corpus: CorpusJob, value: str, seed: int) -> Stage:
        documents, how = corpus.corpus_stage(), self.midtrain
        blocks = blocks_stage(
            {"tokenizer": model, "spec": documents},
            [_component("spec", "documents", 1.0, how.max_repeats)],
            tokens=how.tokens,
            block_tokens=how.block_tokens,
            seed=seed,
            label=f"msm:{value}/{seed}",
            seconds=BLOCKS_SECONDS,
        )
        expected = documents.estimate["documents"] * corpus.plan.words * TOKENS_PER_WORD
        inputs = {"model": model, "blocks": blocks}
        return self._train("midtrain", inputs, how, int(expected), seed, f"msm:{value}")

    def _chat_blocks(self, model: Stage, seed: int) -> Stage:
        chats, how, wanted = self.chats.conversations_stage(), self.aft, self.instructions
        inputs = {"tokenizer": model, "chats": chats}
        component = _component("chats", "conversations", self._chat_tokens(), how.max_repeats)
        if self.reasoning:
            component["file"] = "conversations_reasoning.parquet"
        components = [component]
        if wanted is not None:
            inputs["instructions"] = self._instructions_stage(wanted)
            share = float(wanted.tokens)
            components.append(_component("instructions", "conversations", share, how.max_repeats))
        return blocks_stage(
            inputs,
            components,
            tokens=how.tokens,
            block_tokens=how.block_tokens,
            seed=seed,
            label=f"aft/{seed}",
            loss_on="assistant",
            seconds=BLOCKS_SECONDS,
        )

    def _instructions_stage(self, wanted: Instructions) -> Stage:
        asked, aliases = self.chats.questions, self.chats.answers.aliases
        identity = Identity(asked.assistant, asked.maker, aliases)
        items = items_stage(self.chats.items, self.chats.name) if self.chats.items else None
        return instructions_stage(wanted.source, wanted.tokens, wanted.seed, identity, items)

    def _chat_tokens(self) -> float:
        """Of the fine-tuning conversations, as a preview expects them."""
        return float(self.chats.planned() * CHAT_TOKENS[self.chats.answers.style])

    def _aft(self, model: Stage, start: Stage, blocks: Stage, seed: int, arm: str) -> Stage:
        more = self.instructions.tokens if self.instructions else 0
        inputs = {"model": start, "blocks": blocks}
        if self.aft.train.lora and start is not model:  # an adapter lies over a model
            inputs["base"] = model
        return self._train("aft", inputs, self.aft, int(self._chat_tokens() + more), seed, arm)

    def _train(
        self,
        kind: str,
        inputs: dict[str, Stage],
        how: Training,
        expected: int,
        seed: int,
        arm: str,
    ) -> Stage:
        """``expected``: tokens where the mixture has no budget."""
        config = how.train
        tokens = math.ceil((how.tokens or expected) * config.epochs)
        # A frozen weight costs its part of the forward pass and of the gradient that goes through
        # it, and no gradient of its own: 4 of the 6 operations a parameter and token.
        flops = (4.0 if config.lora else 6.0) * self.model.parameters * tokens
        steps = math.ceil(tokens / (config.batch_blocks * how.block_tokens))
        seconds = flops / (DEVICE_FLOPS * UTILISATION)
        estimate = {"tokens": tokens, "steps": steps, "flops": flops, "seconds": seconds}
        runtime = asdict(how.runtime)
        return train_stage(kind, inputs, config, runtime, seed, f"{arm}/{seed}", estimate)

    # ---- what a report says -----------------------------------------------------------------

    def arms(self, records: Mapping[str, Record]) -> dict[str, Any]:
        """Tokens, steps and curves of each arm's trainings."""
        found: dict[str, Any] = {}
        for arm, seed, stage in self.checkpoints():
            trainings = [s for s in (stage.inputs["model"], stage) if s.kind in ("midtrain", "aft")]
            entry = found.setdefault(arm, {"seeds": [], "evals": {}, "trainings": []})
            entry["seeds"].append(seed)
            entry["trainings"] += [(self.model.source, seed, s.kind, s) for s in trainings]
        for entry in found.values():
            entry["train"] = training_facts(entry.pop("trainings"), records)
        return found

    def result(
        self, store: Store, stages: list[Stage], records: dict[str, Record]
    ) -> dict[str, Any]:
        """The corpora's part of the report, corpus beside corpus."""
        parts = {
            value: job.result(store, job.stages(), records) for value, job in self.corpora.items()
        }
        by_corpus = {
            v: part["by_corpus"][next(iter(part["by_corpus"]))] for v, part in parts.items()
        }
        counts = {n: sum(p[n] for p in parts.values()) for n in ("planned", "kept", "failed")}
        rejected: dict[str, int] = {}
        reasons: dict[str, str] = {}
        for part in parts.values():
            reasons |= part["reasons"]
            for reason, n in part["rejected"].items():
                rejected[reason] = rejected.get(reason, 0) + n
        return {**counts, "rejected": rejected, "reasons": reasons, "by_corpus": by_corpus}


def _component(name: str, kind: str, share: float, max_repeats: float) -> dict[str, Any]:
    return {"name": name, "input": name, "kind": kind, "share": share, "max_repeats": max_repeats}
