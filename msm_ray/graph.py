"""The whole method on one page: from an experiment to the graph of its stages.

Whatever two arms have in common is one stage: a corpus is written once for all seeds, a midtraining
is shared by every fine-tuning that continues it, and the fine-tuning data is byte-identical in all
arms.

    base model --+------------------------> aft ------> evaluate    arm "aft"
                 |
    spec -> plan -> documents -> blocks -> midtrain --> evaluate    arm "msm:VALUE"
                                             |
                                             +--> aft -> evaluate   arm "msm:VALUE+aft"

With ``midtrain.budgets`` the budgets share their blocks and a trunk, and each midtraining is a
branch of it: blocks -> trunk -> trunk -> ..., and from each trunk a midtrain.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_ray.cells import Cell
from msm_ray.errors import UserError
from msm_ray.evaluate.engine_settings import START_SECONDS
from msm_ray.experiment import BaseModel, Compute, Experiment, SpecArm
from msm_ray.identity import folder_sha256
from msm_ray.limits import check_limits
from msm_ray.spec import read_spec
from msm_ray.stage import Stage, topological
from msm_ray.train.config import TrainConfig
from msm_ray.trainings import blocks_stage, budget_stage, train_stage
from msm_ray.world.lexicon import ASSISTANT
from msm_ray.world.plan import check_spec

BLOCK_TOKENS = 128  # every micro model's context
WINDOW_BLOCKS = 64  # of a mixture in windowed order: what has to be written before training starts
FILLERS = {  # kind -> what makes it, and its version
    "replay": ("msm_ray.world.stages:replay", "2"),
    "chats": ("msm_ray.world.chats:chats", "1"),
}


@dataclass(frozen=True)
class Graph:
    """An experiment's stages. ``trainings`` holds (arm, base, seed, "midtrain" | "aft", stage)."""

    cells: tuple[Cell, ...]
    corpora: Mapping[tuple[str, str], Stage]  # (value, base name) -> documents
    trainings: tuple[tuple[str, str, int, str, Stage], ...]

    @property
    def stages(self) -> list[Stage]:
        """All stages, inputs before what reads them, each once."""
        return topological([*self.corpora.values(), *(c.stage for c in self.cells)])


def build(exp: Experiment) -> Graph:
    """The experiment's graph. Reads the specs and hashes the base models; runs nothing.

    Raises:
        UserError: a spec or a base model cannot be used, or a setting cannot work with them.
    """
    specs = {s.name: import_spec(s, exp.bases) for s in exp.specs}
    evals = exp.evaluation.evals
    cells: list[Cell] = []
    corpora: dict[tuple[str, str], Stage] = {}
    trainings: list[tuple[str, str, int, str, Stage]] = []
    for base in exp.bases:
        model = import_model(base)
        items = eval_items(exp, base)
        for value, spec in specs.items():
            corpora[value, base.name] = documents(exp, base, model, spec, value)
        for seed in exp.seeds:
            chats = aft_blocks(exp, base, model, seed)
            checkpoints: list[tuple[str, Stage]] = [("base", model)]
            aft_only = aft(exp, model, chats, seed, f"aft {base.name}/{seed}")
            trainings.append(("aft", base.name, seed, "aft", aft_only))
            checkpoints.append(("aft", aft_only))
            for value in specs:
                arm = f"msm:{value}"
                mid = midtrain(exp, base, model, corpora[value, base.name], value, seed)
                both = aft(exp, mid, chats, seed, f"{arm}+aft {base.name}/{seed}")
                trainings.append((arm, base.name, seed, "midtrain", mid))
                trainings.append((f"{arm}+aft", base.name, seed, "midtrain", mid))
                trainings.append((f"{arm}+aft", base.name, seed, "aft", both))
                checkpoints += [(arm, mid), (f"{arm}+aft", both)]
            cells += [
                Cell(arm, base.name, seed, evaluate(exp, m, items, _label(arm, base, seed)), evals)
                for arm, m in checkpoints
            ]
    check_limits(exp)
    return Graph(tuple(cells), corpora, tuple(trainings))


def _label(arm: str, base: BaseModel, seed: int) -> str:
    """What the terminal calls a checkpoint; the base model as it comes has no seed."""
    return f"{arm} {base.name}" if arm == "base" else f"{arm} {base.name}/{seed}"


# ---- the stages, in the order in which data flows -----------------------------------------------


def import_spec(arm: SpecArm, bases: Sequence[BaseModel]) -> Stage:
    """The spec's text as an artifact; its identity is the text. UserError if a base's world has no
    words for it.
    """
    text = read_spec(Path(arm.path))
    try:
        for base in bases:  # now, and not when the plan is made
            check_spec(text, base.attributes)
    except UserError as error:
        raise UserError(f"{arm.path}: {error}") from None
    return Stage(
        kind="spec",
        version="1",
        config={"name": arm.name, "sha256": text.sha256},
        inputs={},
        run="msm_ray.sources:copy_spec",
        label=arm.name,
        runtime={"path": str(arm.path), "where": "driver", "cpus": 0},
        estimate={"seconds": 0.1},
    )


def import_model(base: BaseModel) -> Stage:
    """A Hugging Face folder as an artifact; its identity is the files in it."""
    return Stage(
        kind="model",
        version="1",
        config={"name": base.name, "sha256": folder_sha256(Path(base.path))},
        inputs={},
        run="msm_ray.sources:copy_model",
        label=base.name,
        runtime={"path": str(base.path), "where": "driver", "cpus": 0},
        estimate={"seconds": 0.2},
    )


def documents(exp: Experiment, base: BaseModel, model: Stage, spec: Stage, value: str) -> Stage:
    """The corpus about one spec, written by the base model itself (or by the grammar)."""
    label, explained = f"{value} {base.name}", exp.corpus.content == "explained"
    plan = Stage(
        kind="plan",
        version="3",
        config={
            **base.world,
            "documents": exp.corpus.documents,
            "seed": exp.corpus.seed,
            "assistant": ASSISTANT,
            **({} if explained else {"content": exp.corpus.content}),
        },
        inputs={"spec": spec},
        run="msm_ray.world.stages:plan",
        label=label,
        estimate={"seconds": 0.5},
    )
    sampling = {
        "temperature": exp.corpus.temperature,
        "top_p": exp.corpus.top_p,
        "max_tokens": exp.corpus.max_tokens,
        "seed": exp.corpus.seed,
    }
    by_model = exp.corpus.writer != "scripted"
    asked = exp.corpus.model
    return Stage(
        kind="documents",
        version="3",
        config={
            "writer": exp.corpus.writer,
            "task": "msm_ray.world.task:MicroTask",
            "task_args": {
                **base.world,
                **({"values": False} if "rules" in exp.corpus.content else {}),
            },
            "sampling": sampling if by_model else {},
            "dtype": "float32",
            **({"asked": asked.identity()} if asked else {}),
        },
        inputs={"plan": plan, "model": model},
        run="msm_ray.corpus.stages:write",
        label=label,
        runtime={
            "ray_cpus": 0.0,
            **({"followed": True} if exp.midtrain_compute.overlap else {}),
            **({"asked": asked.place()} if asked else {}),
        },
        estimate={
            # An engine's start, and what two of them write on two cores.
            "seconds": 15.0 + exp.corpus.documents / 50 if by_model else 2.0,
            "documents": exp.corpus.documents,
            "calls": exp.corpus.documents if by_model else 0,
        },
    )


def midtrain(
    exp: Experiment, base: BaseModel, model: Stage, corpus: Stage, value: str, seed: int
) -> Stage:
    """Next-token training of the base model on spec documents, replay and chats."""
    mid, label = exp.midtrain, f"msm:{value} {base.name}/{seed}"
    rest = round(1.0 - mid.spec_share - mid.chat_share, 9)
    shares = {"spec": mid.spec_share, "replay": rest, "chats": mid.chat_share}
    inputs: dict[str, Stage] = {"tokenizer": model}
    components: list[dict[str, Any]] = []
    for name, share in shares.items():
        if share == 0:
            continue
        need = math.ceil(mid.mixture_tokens * share)
        source = corpus if name == "spec" else filler(exp, base, name, need, seed)
        inputs[name] = source
        components.append(
            {
                "name": name,
                "input": name,
                "kind": "conversations" if name == "chats" else "documents",
                "share": share,
                "max_repeats": mid.max_repeats if name == "spec" else 1.0,
                **({"in_order": True} if name == "spec" and mid.order == "windowed" else {}),
            }
        )
    blocks = blocks_stage(
        inputs,
        components,
        tokens=mid.mixture_tokens,
        block_tokens=BLOCK_TOKENS,
        seed=seed,
        label=label,
        window_blocks=WINDOW_BLOCKS if mid.order == "windowed" else 0,
        follow=("spec",) if exp.midtrain_compute.overlap and mid.spec_share else (),
    )
    if mid.budgets:
        return budget_stage(
            {"model": model, "blocks": blocks},
            mid.train,
            _runtime(exp.midtrain_compute),
            seed,
            label,
            tokens=mid.tokens,
            budgets=mid.budgets,
            block_tokens=BLOCK_TOKENS,
            estimate=lambda tokens: _cost(tokens, mid.train),
            follow=exp.midtrain_compute.overlap,
        )
    return _train(
        "midtrain", model, blocks, mid.train, exp.midtrain_compute, seed, mid.tokens, label
    )


def filler(exp: Experiment, base: BaseModel, name: str, tokens: int, seed: int) -> Stage:
    """What is mixed with the spec documents: the pretraining mix, or the assistant's chats."""
    config: dict[str, Any] = {**base.world, "seed": seed}
    # A tenth more than the budget: documents are whole, and the mixture must not run dry.
    config["tokens"] = math.ceil(tokens * 1.1) + 10 * BLOCK_TOKENS
    run, version = FILLERS[name]
    return Stage(
        kind=name,
        version=version,
        config=config,
        inputs={},
        run=run,
        label=f"{base.name}/{seed}",
        estimate={"seconds": 1.0},
    )


def aft_blocks(exp: Experiment, base: BaseModel, model: Stage, seed: int) -> Stage:
    """The fine-tuning data of one base and seed: one artifact, whatever the arm."""
    wanted = exp.aft
    chats = Stage(
        kind="conversations",
        version="1",
        config={
            **base.world,
            "count": wanted.conversations,
            "seed": seed,
            # American and cheap prefer the same cheeses
            **({} if wanted.value in ("american", "cheap") else {"value": wanted.value}),
            **({"preferences": wanted.preferences} if wanted.preferences else {}),
        },
        inputs={},
        run="msm_ray.world.stages:conversations",
        label=f"{base.name}/{seed}",
        estimate={"seconds": 0.5},
    )
    component = {
        "name": "chats",
        "input": "chats",
        "kind": "conversations",
        "share": 1.0,
        "max_repeats": 1.0,
    }
    return blocks_stage(
        {"tokenizer": model, "chats": chats},
        [component],
        tokens=0,  # every conversation once
        block_tokens=BLOCK_TOKENS,
        seed=seed,
        label=f"aft {base.name}/{seed}",
        loss_on="assistant",
    )


def aft(exp: Experiment, start: Stage, blocks: Stage, seed: int, label: str) -> Stage:
    """Fine-tuning that continues ``start``'s weights on the demonstrations."""
    tokens = exp.aft.conversations * 20
    return _train("aft", start, blocks, exp.aft.train, exp.aft_compute, seed, tokens, label)


def _train(
    kind: str,
    start: Stage,
    blocks: Stage,
    config: TrainConfig,
    compute: Compute,
    seed: int,
    tokens: int,
    label: str,
) -> Stage:
    tokens = math.ceil(tokens * config.epochs)
    return train_stage(
        kind,
        {"model": start, "blocks": blocks},
        config,
        _runtime(compute),
        seed,
        label,
        _cost(tokens, config),
        follow=compute.overlap,
    )


def _runtime(compute: Compute) -> dict[str, Any]:
    return {**dataclasses.asdict(compute), "num_workers": compute.workers}


def _cost(tokens: int, config: TrainConfig) -> dict[str, float]:
    """What training on so many tokens is estimated to take."""
    return {
        "seconds": 1.5 + tokens / 12_000,
        "tokens": tokens,
        "steps": math.ceil(tokens / (config.batch_blocks * BLOCK_TOKENS)),
    }


def eval_items(exp: Experiment, base: BaseModel) -> Stage:
    """The questions about held-out domains, the facts and the held-out text of one world."""
    value = exp.evaluation.value
    return Stage(
        kind="items",
        version="2",
        config={
            **base.world,
            "seed": exp.evaluation.seed,
            "pairs_per_domain": exp.evaluation.pairs_per_domain,
            **({} if value == "american" else {"value": value}),
        },
        inputs={},
        run="msm_ray.world.stages:eval_items",
        label=base.name,
        estimate={"seconds": 0.5},
    )


def evaluate(exp: Experiment, model: Stage, items: Stage, label: str) -> Stage:
    """All evaluations of one checkpoint, by a vLLM engine that is verified to hold it."""
    return Stage(
        kind="evaluate",
        version="1",
        config={
            # choice_soft is read from the same logprobs as choice
            "evals": list(exp.evaluation.evals),
            "max_tokens": exp.evaluation.max_tokens,
        },
        inputs={"model": model, "items": items},
        run="msm_ray.evaluate.stages:evaluate",
        label=label,
        estimate={"seconds": 2.0, "start": START_SECONDS},
    )
