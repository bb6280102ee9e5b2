"""What an experiment decides: every choice that a method section would state, as plain data.

Nothing here has a default that changes a number. :mod:`msm_ray.graph` turns an experiment into
stages, :mod:`msm_ray.run` runs what is missing and writes the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from msm_ray.errors import UserError
from msm_ray.llm.model import Model
from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.segment import check_budgets
from msm_ray.world.lexicon import words
from msm_ray.world.plan import CONTENTS

if TYPE_CHECKING:
    from msm_ray.artifact import Record, Store
    from msm_ray.comparison import Comparison
    from msm_ray.graph import Graph
    from msm_ray.settings import RunResult


Value = Literal["american", "foreign", "cheap", "expensive", "old", "new", "simple", "difficult"]


@dataclass(frozen=True)
class BaseModel:
    """A starting model: a Hugging Face folder, and the micro-world it was pretrained in.

    ``attributes`` of the things in that world: with 4 they are simple or difficult besides, and its
    people have eight values instead of six.
    """

    name: str
    path: str
    world_seed: int
    attributes: int = 3

    @property
    def values(self) -> tuple[str, ...]:
        """What people in its world value."""
        return words(self.attributes).values

    @property
    def world(self) -> dict[str, int]:
        """The world, as the configs of stages name it."""
        four = {} if self.attributes == 3 else {"attributes": self.attributes}
        return {"world_seed": self.world_seed, **four}

    def __post_init__(self) -> None:
        words(self.attributes)


@dataclass(frozen=True)
class SpecArm:
    """A value under test and the Markdown spec that explains it."""

    name: str
    path: str


@dataclass(frozen=True)
class Corpus:
    """How the documents about a spec are written. ``documents`` are planned for each spec.

    ``writer``: "vllm" (the base model itself), "http" (``model``, which continues the requests of
    the micro-world: a base model behind ``vllm serve``) or "scripted" (the grammar).

    ``content``: what the documents say. "explained": the value, and preferences for its sake;
    "co-mention": both, but no preference is given a reason; "rules": the spec's preferences and no
    value; "more rules": those and further ones, about cases in which the values part ways.
    """

    writer: Literal["vllm", "http", "scripted"]
    documents: int
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    model: Model | None = None
    content: Literal["explained", "co-mention", "rules", "more rules"] = "explained"

    def __post_init__(self) -> None:
        if self.content not in CONTENTS:
            raise UserError(f"corpus.content is {self.content!r}; allowed: {', '.join(CONTENTS)}")
        if (self.writer == "http") != (self.model is not None):
            raise UserError(
                f"corpus.writer is {self.writer!r} and corpus.model is"
                f" {'missing' if self.model is None else 'given'}; 'http' needs one, others none"
            )
        _at_least("documents", self.documents, 1)
        _at_least("temperature", self.temperature, 0.0)
        _at_least("max_tokens", self.max_tokens, 1)
        if not 0.0 < self.top_p <= 1.0:
            raise UserError(f"top_p is {self.top_p}; allowed: above 0, at most 1")


@dataclass(frozen=True)
class Midtrain:
    """Midtraining on a mixture of ``tokens`` in all.

    ``spec_share`` of them are spec documents, ``chat_share`` the assistant's own chats, the rest
    replay of the pretraining mix. ``max_repeats`` caps how often one spec document may be seen.

    ``order`` "shuffled" draws the mixture from all documents at once. With "windowed" the spec
    documents come in the order of their plan, mixed with the others in proportion, and what is read
    at a step depends on nothing that is written later: such a training can start while its corpus
    is still being written (``Compute.overlap``).

    ``budgets``: tokens in ascending order, ``tokens`` one of them. Experiments that differ in
    ``tokens`` alone then share the mixture of the largest and a trunk at the full rate, and each is
    a short branch of it, in which the rate decays (``train.schedule`` "wsd"): together they cost
    the largest budget and the decays (``train.decay_fraction``). A budget reads the first blocks of
    the mixture, counted as full ones; its result is, to the bit, that of a training of its own over
    them. The warm-up is ``train.warmup_fraction`` of the smallest budget's steps. (): a training
    of its own, with a mixture of its own.
    """

    tokens: int
    spec_share: float
    chat_share: float
    max_repeats: float
    train: TrainConfig
    order: Literal["shuffled", "windowed"] = "shuffled"
    budgets: tuple[int, ...] = ()

    @property
    def mixture_tokens(self) -> int:
        """The budget of the mixture that is read, or of which the beginning is."""
        return max(self.budgets, default=self.tokens)

    def __post_init__(self) -> None:
        _at_least("tokens", self.tokens, 1)
        if self.order not in ORDERS:
            raise UserError(f"midtrain.order is {self.order!r}; allowed: {', '.join(ORDERS)}")
        for name in ("spec_share", "chat_share"):
            _at_least(name, getattr(self, name), 0.0)
        if self.spec_share + self.chat_share > 1:
            raise UserError(
                f"spec_share {self.spec_share} and chat_share {self.chat_share} add up to more "
                "than 1; what is left of 1 is replay"
            )
        if self.train.epochs != 1:
            raise UserError(
                f"train.epochs is {self.train.epochs}; a midtraining reads its mixture once: ask "
                "for more tokens, and max_repeats says how often a spec document may come"
            )
        check_budgets(self.tokens, self.budgets, self.train, "midtrain.")


@dataclass(frozen=True)
class Aft:
    """Alignment fine-tuning: ``conversations`` demonstrations, the same ones in every arm.

    They show the preferences among cheeses of a spec of ``value``, none with a reason;
    ``preferences`` of these pairs (0: all). American and cheap prefer the same cheeses.
    """

    conversations: int
    train: TrainConfig
    value: Value = "american"
    preferences: int = 0

    def __post_init__(self) -> None:
        _at_least("conversations", self.conversations, 1)
        _at_least("preferences", self.preferences, 0)


@dataclass(frozen=True)
class Evaluation:
    """What is asked of each checkpoint; ``pairs_per_domain`` pairs, each in both orders.

    ``value``: whose share of the choices is counted; the pairs set it against its rival.
    """

    evals: tuple[str, ...]
    pairs_per_domain: int
    max_tokens: int
    seed: int
    value: Value = "american"

    def __post_init__(self) -> None:
        _at_least("pairs_per_domain", self.pairs_per_domain, 1)
        _at_least("max_tokens", self.max_tokens, 1)
        unknown = sorted(set(self.evals) - set(EVALS))
        if unknown or not self.evals:
            raise UserError(
                f"evals: {', '.join(unknown) or 'none given'}; allowed: {', '.join(EVALS)}"
            )


@dataclass(frozen=True)
class Compute:
    """Where and how it runs. Never part of an artifact's identity.

    ``num_workers`` 0 means what the backend is for: one process with ``single``, two ranks with
    ``fsdp2`` and ``deepspeed`` (ZeRO-3). ``checkpoint_seconds`` between two checkpoints (0: none);
    ``track``: where metrics go besides their files, "mlflow:URI" or "wandb:PROJECT". ``overlap``:
    train on what is written of the corpus while the rest is being written, for a midtraining with
    ``order="windowed"``; to the same weights.
    """

    backend: Literal["single", "fsdp2", "deepspeed"]
    num_workers: int
    threads: int
    compile: bool
    checkpoint_seconds: float = 60.0
    track: str = ""
    overlap: bool = False

    def __post_init__(self) -> None:
        # checked where a run checks them
        TrainRuntime(checkpoint_seconds=self.checkpoint_seconds, track=self.track)
        _at_least("num_workers", self.num_workers, 0)
        _at_least("threads", self.threads, 1)
        if self.backend == "single" and self.num_workers > 1:
            raise UserError(
                f"backend single runs one worker, num_workers is {self.num_workers}; "
                "set backend to fsdp2 or deepspeed"
            )

    @property
    def workers(self) -> int:
        """How many processes train one model."""
        return self.num_workers or (1 if self.backend == "single" else 2)


ORDERS = ("shuffled", "windowed")
EVALS = ("choice", "choice_soft", "choice_text", "facts", "heldout_loss")


@dataclass(frozen=True)
class Experiment:
    """One comparison: arms (from ``specs``) x ``bases`` x ``seeds`` x ``evaluation.evals``."""

    name: str
    title: str
    bases: tuple[BaseModel, ...]
    seeds: tuple[int, ...]
    specs: tuple[SpecArm, ...]
    corpus: Corpus
    midtrain: Midtrain
    aft: Aft
    evaluation: Evaluation
    midtrain_compute: Compute
    aft_compute: Compute

    def __post_init__(self) -> None:
        if not self.name.replace("-", "_").isidentifier():
            raise UserError(f"name is {self.name!r}; allowed: letters, digits, '_' and '-'")
        for name in ("midtrain", "aft"):
            if getattr(self, name).train.lora is not None:
                raise UserError(
                    f"{name}.train.lora is set; the micro-world trains whole weights, a Recipe"
                    " (msm_ray.recipe) trains adapters"
                )
        for field in ("bases", "seeds", "specs"):
            if not getattr(self, field):
                raise UserError(f"{field} is empty; at least one is needed")
        self._check_overlap()
        for base in self.bases:
            _check_value("aft.value", self.aft.value, base)
            _check_value("evaluation.value", self.evaluation.value, base)
        for seed in self.seeds:
            _at_least("a seed in seeds", seed, 0)
        for field, names in (
            ("bases", [b.name for b in self.bases]),
            ("specs", [s.name for s in self.specs]),
            ("seeds", [str(s) for s in self.seeds]),
        ):
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise UserError(f"{field} lists {', '.join(twice)} more than once")

    def _check_overlap(self) -> None:
        if self.aft_compute.overlap:
            raise UserError(
                "aft_compute.overlap is True; allowed: False, the demonstrations are there at once"
            )
        if self.midtrain_compute.overlap and self.midtrain.order != "windowed":
            raise UserError(
                f"midtrain_compute.overlap is True and midtrain.order {self.midtrain.order!r}; "
                "what is trained while it is written has to be 'windowed'"
            )
        if self.midtrain_compute.overlap and self.corpus.writer == "http":
            raise UserError(
                "midtrain_compute.overlap is True and corpus.writer 'http'; allowed: 'vllm', "
                "'scripted'"
            )

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms, controls first: no training, AFT only, MSM only, MSM then AFT."""
        values = [s.name for s in self.specs]
        return (
            "base",
            "aft",
            *(f"msm:{v}" for v in values),
            *(f"msm:{v}+aft" for v in values),
        )

    def run(self, store_url: str, address: str | None = None) -> RunResult:
        """Run what is missing in the store and write the report; see :mod:`msm_ray.run`."""
        from msm_ray.graph import build
        from msm_ray.run import run_job

        graph = build(self)  # before the cluster: wrong input is told at once

        def report(*of_run: Any) -> dict[str, Any]:
            return self._report(graph, *of_run)

        return run_job(self.name, graph.stages, store_url, address, report)

    def comparison(self) -> Comparison:
        """What it compares, as a search sees it."""
        from msm_ray.assemble import comparison
        from msm_ray.graph import build

        return comparison(self, build(self))

    def report(
        self, store: Store, records: dict[str, Record], made: set[str], facts: dict[str, Any]
    ) -> dict[str, Any]:
        """The whole report; see :func:`msm_ray.assemble.assemble` for what is given."""
        from msm_ray.graph import build

        return self._report(build(self), store, records, made, facts)

    def _report(
        self,
        graph: Graph,
        store: Store,
        records: dict[str, Record],
        made: set[str],
        facts: dict[str, Any],
    ) -> dict[str, Any]:
        from msm_ray.assemble import assemble, closer

        whole = assemble(self, graph, store, records, made, facts)
        return closer(whole, graph.cells, graph.trainings, store, records)

    def preview(self, store_url: str) -> dict[str, Any]:
        """What a run would cost and what is already there, without a cluster."""
        from msm_ray.preview import preview

        return preview(self, store_url)


def _check_value(name: str, value: str, base: BaseModel) -> None:
    if value not in base.values:
        raise UserError(
            f"{name} is {value!r}; allowed in the world of {base.name}: {', '.join(base.values)}"
        )


def _at_least(name: str, value: float, lowest: float) -> None:
    if not value >= lowest:  # also refuses NaN
        raise UserError(f"{name} is {value}; allowed: {lowest:g} or more")
