"""The method on a model of your own: corpora, midtraining and fine-tuning as one job.

    pretrained --+------------------------------> aft      arms "base", "aft"
                 |
    corpus ------+--> blocks -> midtrain -------> aft      arms "msm:VALUE", "msm:VALUE+aft"

Corpora and conversations are jobs of their own (`CorpusJob`, `ConversationJob`): whatever they have
made already is there. Every arm's fine-tuning reads the same blocks, and every arm's checkpoints
are asked every task of ``evaluation``; without one the job ends at the checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from msm_ray.artifact import Record, Store
from msm_ray.assemble import closer
from msm_ray.cells import Cell, ItemValues, training_facts
from msm_ray.cells import Training as Trained
from msm_ray.chat.job import ANSWER_TOKENS, QUESTION_TOKENS, ConversationJob
from msm_ray.comparing import cells_of, check_tasks, comparison, evaluated, joined_corpora
from msm_ray.comparison import Comparison
from msm_ray.corpus.job import TOKENS_PER_WORD, CorpusJob
from msm_ray.corpus.naming import Identity
from msm_ray.corpus.running import SpecJob, items_stage
from msm_ray.data.mixture import Component
from msm_ray.errors import UserError
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.evaluate.protocol import Task
from msm_ray.llm.model import AnyModel
from msm_ray.mix import (
    Instructions,
    Mix,
    check_documents,
    component,
    few_documents,
    mixture,
)
from msm_ray.mixes import ArmTraining
from msm_ray.pretrained import Pretrained
from msm_ray.preview import sharing
from msm_ray.replay import Replay
from msm_ray.stage import Stage, topological
from msm_ray.train.config import TrainConfig, TrainRuntime, check_batch
from msm_ray.train.segment import check_budgets
from msm_ray.trainings import blocks_stage, budget_stage, train_stage, training_cost

__all__ = ["Instructions", "Mix", "Pretrained", "Recipe", "Replay", "Training"]

BLOCKS_SECONDS = 60.0
# A conversation's tokens by style, with what a chat template adds; for a preview.
CHAT_TOKENS = {s: n + QUESTION_TOKENS + 20 for s, n in ANSWER_TOKENS.items()}


@dataclass(frozen=True)
class Training:
    """One stage of training: what it is, in blocks of how many tokens, and where it runs.

    ``tokens`` is the budget of its mixture; 0 takes everything once. ``max_repeats`` caps how often
    a document may be seen.

    ``budgets``, of a midtraining: as in `msm_ray.experiment.Midtrain`, budgets that share the
    largest one's mixture and a trunk.
    """

    train: TrainConfig
    block_tokens: int
    runtime: TrainRuntime = field(default_factory=TrainRuntime)
    tokens: int = 0
    max_repeats: float = 1.0
    budgets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("block_tokens", 2), ("tokens", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(
                    f"{name} is {value!r}, allowed is a whole number of at least {least}"
                )
        Component("the mixture", 1.0, self.max_repeats)
        check_batch(self.train, self.runtime)
        check_budgets(self.tokens, self.budgets, self.train)

    @property
    def mixed(self) -> int:
        """Tokens of the mixture: those of the largest budget."""
        return max(self.budgets, default=self.tokens)


@dataclass(frozen=True)
class Recipe(SpecJob):
    """One comparison on one model: arms ``aft``, ``msm:VALUE``, ``msm:VALUE+aft`` x ``seeds``.

    ``corpora`` are by value: an arm for each. ``chats`` is the fine-tuning data, the same in every
    arm; ``reasoning`` takes the conversations with the assistant's reasoning in them.
    ``instructions`` are mixed into the fine-tuning. ``mix``: what the midtraining reads beside the
    spec documents; None: nothing. ``lora_rank``: of the adapters of both trainings, with the same
    ``alpha / rank`` as theirs; None: as ``train.lora`` says.

    ``evaluation``: tasks (`msm_ray.tasks`) that every checkpoint is asked, the pretrained model as
    it comes among them, as arm ``base``. ``probes``: tasks that only that is asked. ``engine``: how
    the engines run that answer them.
    """

    model: Pretrained
    corpora: dict[str, CorpusJob]
    chats: ConversationJob
    midtrain: Training
    aft: Training
    seeds: tuple[int, ...]
    reasoning: bool = False
    instructions: Instructions | None = None
    evaluation: tuple[Task, ...] = ()
    probes: tuple[Task, ...] = ()
    engine: EngineSettings = field(default_factory=EngineSettings)
    mix: Mix | None = None
    lora_rank: int | None = None

    def __post_init__(self) -> None:
        check_tasks("evaluation", self.evaluation)
        check_tasks("probes", self.probes, besides=self.evaluation)
        if self.mix is not None:
            self.mix.check(self.midtrain.mixed)
        if not self.corpora or not self.seeds:
            raise UserError("a recipe needs at least one corpus and one seed")
        if self.reasoning and not self.chats.answers.thinks:
            raise UserError(
                f"reasoning is on and chats.answers.style is {self.chats.answers.style!r};"
                " preferences are stated without reasoning"
            )
        self._check_adapters()
        if self.aft.budgets:
            raise UserError(
                f"aft.budgets is {list(self.aft.budgets)}; allowed: none, only midtrain has them"
            )

    def _check_adapters(self) -> None:
        """UserError unless both trainings have adapters of one shape, or none."""
        first, then = self.midtrain.train.lora, self.aft.train.lora
        if (first and first.shape) != (then and then.shape):
            raise UserError(
                f"midtrain.train.lora is {first} and aft.train.lora {then}; fine-tuning continues"
                " the midtraining's weights, so both have to be the same (lora_rank sets the rank"
                " of both)"
            )
        if self.lora_rank is not None and first is None:
            raise UserError(f"lora_rank is {self.lora_rank} and train.lora is none; allowed: none")
        self._adapted(self.midtrain.train)

    def _adapted(self, train: TrainConfig) -> TrainConfig:
        """``train`` with the adapter that it has here."""
        lora, rank = train.lora, self.lora_rank
        if lora is None or rank in (None, lora.rank):
            return train
        return replace(train, lora=replace(lora, rank=rank, alpha=lora.alpha * rank / lora.rank))

    # ---- stages -------------------------------------------------------------------------------

    def stages(self) -> list[Stage]:
        """All stages, inputs before what reads them, each once."""
        made = [stage for _, _, stage in self.checkpoints()]
        return topological([*made, *(cell.stage for cell in self.evaluations())])

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

    def evaluations(self) -> list[Cell]:
        """What every checkpoint is asked: (arm, seed) x tasks, controls first."""
        if not (self.evaluation or self.probes):
            return []
        model = self.model.stage()
        trained = self.checkpoints()
        arms = dict.fromkeys(arm for arm, _, _ in trained)
        asked = [("base", seed, model) for seed in self.seeds]
        order = [
            c
            for arm in sorted(arms, key=lambda arm: (arm != "aft", "+" in arm))
            for c in trained
            if c[0] == arm
        ]
        how = model, self.model.name, self.engine, self.aft.train.lora is not None
        return [
            *cells_of(self.evaluation, [*asked, *order], *how),
            *cells_of(self.probes, asked, *how),
        ]

    def cells(self) -> list[tuple[str, str, Stage]]:
        """Every checkpoint of every arm and seed."""
        return [(arm, f"checkpoint, seed {seed}", stage) for arm, seed, stage in self.checkpoints()]

    def models(self) -> list[AnyModel]:
        """Whom the corpora and the conversations ask, and the judges of the evaluation."""
        jobs, tasks = (*self.corpora.values(), self.chats), (*self.evaluation, *self.probes)
        asked = [model for job in jobs for model in job.models()]
        return asked + [model for task in tasks for model in task.models()]

    def sharing(self, stages: Sequence[Stage]) -> dict[str, Any]:
        """What one script for each arm and seed would make in addition."""
        cells = [cell.stage for cell in self.evaluations()]
        return sharing(cells or [stage for _, _, stage in self.checkpoints()], stages)

    def warnings(self, missing: Sequence[Stage]) -> list[str]:
        """Trainings of few steps, what is given and not read, and documents that may be too few."""
        expected = {
            value: self._document_tokens(corpus, corpus.corpus_stage())
            for value, corpus in self.corpora.items()
        }
        few = few_documents(expected, self.midtrain.max_repeats, self._read())
        return super().warnings(missing) + few + (self.mix.unread() if self.mix else [])

    def _midtrain(self, model: Stage, corpus: CorpusJob, value: str, seed: int) -> Stage:
        documents, how, tokens = corpus.corpus_stage(), self.midtrain, self.midtrain.mixed
        sources, components = mixture(
            self.mix, documents, tokens, how.max_repeats, self._identity(), self._items()
        )
        blocks = blocks_stage(
            {"tokenizer": model, **sources},
            components,
            tokens=tokens,
            block_tokens=how.block_tokens,
            seed=seed,
            label=f"msm:{value}/{seed}",
            seconds=BLOCKS_SECONDS,
        )
        expected = self._document_tokens(corpus, documents)
        check_documents(value, expected, how.max_repeats, self._read())
        inputs = {"model": model, "blocks": blocks}
        return self._train("midtrain", inputs, how, int(expected), seed, f"msm:{value}")

    def _document_tokens(self, corpus: CorpusJob, documents: Stage) -> float:
        """Of a corpus and its stage, as a preview expects them."""
        return float(documents.estimate["documents"] * corpus.plan.words * TOKENS_PER_WORD)

    def _read(self) -> float:
        """Tokens of spec documents that a midtraining reads; 0: all there are."""
        return self.midtrain.mixed * (self.mix.spec_share if self.mix else 1.0)

    def _chat_blocks(self, model: Stage, seed: int) -> Stage:
        chats, how, wanted = self.chats.conversations_stage(), self.aft, self.instructions
        inputs = {"tokenizer": model, "chats": chats}
        own = component("chats", "conversations", self._chat_tokens(), how.max_repeats)
        if self.reasoning:
            own["file"] = "conversations_reasoning.parquet"
        components = [own]
        if wanted is not None:
            inputs["instructions"] = wanted.stage(self._identity(), self._items())
            share = float(wanted.tokens)
            components.append(component("instructions", "conversations", share, how.max_repeats))
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

    def _identity(self) -> Identity:
        """Who the trained model is."""
        asked = self.chats.questions
        return Identity(asked.assistant, asked.maker, self.chats.answers.aliases)

    def _items(self) -> Stage | None:
        """Of the evaluation, that no text from elsewhere may hold."""
        return items_stage(self.chats.items, self.chats.name) if self.chats.items else None

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
        config, runtime, label = self._adapted(how.train), asdict(how.runtime), f"{arm}/{seed}"

        def estimate(tokens: int) -> dict[str, float]:
            return training_cost(tokens, self.model.parameters, config, how.block_tokens)

        if how.budgets:
            return budget_stage(
                inputs,
                config,
                runtime,
                seed,
                label,
                tokens=how.tokens,
                budgets=how.budgets,
                block_tokens=how.block_tokens,
                estimate=estimate,
            )
        tokens = math.ceil((how.tokens or expected) * config.epochs)
        return train_stage(kind, inputs, config, runtime, seed, label, estimate(tokens))

    # ---- what a report says -----------------------------------------------------------------

    def trainings(self) -> list[tuple[str, Trained]]:
        """(arm, (base, seed, kind, stage)) of each training behind an arm's checkpoints."""
        return [
            (arm, (self.model.name, seed, of.kind, of))
            for arm, seed, stage in self.checkpoints()
            for of in (stage.inputs["model"], stage)
            if of.kind in ("midtrain", "aft")
        ]

    def arms(self, records: Mapping[str, Record]) -> dict[str, Any]:
        """Tokens, steps and curves of each arm's trainings."""
        of_arm: dict[str, list[Trained]] = {}
        for arm, training in self.trainings():
            of_arm.setdefault(arm, []).append(training)
        return {
            arm: {"seeds": list(self.seeds), "evals": {}, "train": training_facts(own, records)}
            for arm, own in of_arm.items()
        }

    def comparison(self) -> Comparison:
        """What it compares, as a search sees it."""
        return comparison(self.stages(), self.evaluations(), list(self.corpora), self.trainings())

    def report(
        self, store: Store, records: dict[str, Record], made: set[str], facts: dict[str, Any]
    ) -> dict[str, Any]:
        """The whole report; see :func:`msm_ray.assemble.assemble` for what is given."""
        return self._report(store, self.stages(), records, made, facts)

    def _report(
        self,
        store: Store,
        stages: list[Stage],
        records: dict[str, Record],
        made: set[str],
        facts: dict[str, Any],
    ) -> dict[str, Any]:
        report = self.measured(store, stages, records, made, facts)
        return closer(report, *self.looked_into(), store, records) if self.evaluations() else report

    def measured(
        self,
        store: Store,
        stages: list[Stage],
        records: dict[str, Record],
        made: set[str],
        facts: dict[str, Any],
    ) -> dict[str, Any]:
        """The report without single items and answers."""
        report = super()._report(store, stages, records, made, facts)
        if cells := self.evaluations():
            whole = comparison(stages, cells, list(self.corpora), self.trainings())
            report |= evaluated(whole, records, ItemValues(store))
        return report

    def looked_into(self, member: str = "") -> tuple[list[Cell], list[ArmTraining]]:
        """Cells and trainings whose items and mixtures a report shows; arms ``ARM@member``."""
        at = f"@{member}" if member else ""
        cells = [replace(cell, arm=f"{cell.arm}{at}") for cell in self.evaluations()]
        return cells, [(f"{arm}{at}", *training) for arm, training in self.trainings()]

    def result(
        self, store: Store, stages: list[Stage], records: dict[str, Record]
    ) -> dict[str, Any]:
        """The corpora's part of the report, corpus beside corpus."""
        parts = {
            value: job.result(store, job.stages(), records) for value, job in self.corpora.items()
        }
        named = [
            {**part, "by_corpus": {value: next(iter(part["by_corpus"].values()))}}
            for value, part in parts.items()
            if part
        ]
        return joined_corpora(named)
