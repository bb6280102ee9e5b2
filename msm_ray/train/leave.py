"""What a run leaves: a model's folder or an adapter's, or a trunk's state; its facts and record."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from msm_ray.train.backends.base import Backend
from msm_ray.train.checkpoint import Checkpoints, Plan
from msm_ray.train.fingerprint import write_fingerprint
from msm_ray.train.history import History
from msm_ray.train.lora import save_adapter
from msm_ray.train.model import copy_tokenizer, dtype_of, save_model
from msm_ray.train.start import Start

if TYPE_CHECKING:
    from msm_ray.train.worker import TrainJob

TRAINING_FILE = "training.json"


@dataclass(frozen=True)
class Look:
    """What a model's folder says of it besides its weights; taken before a backend wraps it."""

    architecture: str
    hf_config: Any
    generation_config: Any


def leave_state(job: TrainJob, backend: Backend, history: History, of_run: Checkpoints) -> None:
    """Write the state that branches and the rest of the trunk go on from. Every rank calls it.

    ``of_run``: the checkpoints of the run itself.
    """
    assert job.segment is not None, "a trunk is a segment"
    state = Checkpoints(Path(job.out), of_run.identity, Plan(), of_run.ranks)
    try:
        state.write(backend, history, job.segment.blocks)
    finally:
        state.close()


def leave_model(job: TrainJob, state: dict[str, torch.Tensor], begun: Start, look: Look) -> None:
    """Rank 0: write the model, or the adapter, with its tokenizer and fingerprint."""
    out, dtype = Path(job.out), dtype_of(job.save_dtype)
    if job.config.lora is not None:
        assert begun.base is not None, "an adapter without a base"
        save_adapter(state, job.config.lora, begun.base, begun.base_fingerprint, out, dtype)
        copy_tokenizer(Path(job.tokenizer), out)
    else:
        save_model(
            state,
            look.hf_config,
            Path(job.tokenizer),
            out,
            architecture=look.architecture,
            generation_config=look.generation_config,
            save_dtype=job.save_dtype,
        )
    write_fingerprint(out, begun.base)


def facts_of(history: History) -> dict[str, Any]:
    """What the weights have seen in all, the trunk's part included; ``_new``: in this run."""
    return {
        "tokens": history.tokens,
        "tokens_new": history.tokens - history.tokens_before,
        "loss_tokens": history.loss_tokens,
        "steps": history.steps,
        "steps_new": history.steps - history.steps_before,
        "tokens_per_second": history.tokens_per_second,
        "train_seconds": history.seconds,
        "train_seconds_new": history.seconds - history.seconds_before,
        "waited_seconds": history.waited,
        "loss_first": history.loss[0],
        "loss_last": history.loss[-1],
        "curve": history.curve(),
    }


def write_training(job: TrainJob, history: History, out: Path) -> None:
    record = {
        "config": job.config.to_dict(),
        "runtime": asdict(job.runtime),
        "arch": None if job.arch is None else dict(job.arch),
        "steps": history.steps,
        "tokens": history.tokens,
        "loss_tokens": history.loss_tokens,
        "seconds": history.seconds,
        "tokens_per_second": history.tokens_per_second,
        "loss": history.loss,
        "learning_rate": history.learning_rate,
        "grad_norm": history.grad_norm,
    }
    (out / TRAINING_FILE).write_text(json.dumps(record) + "\n")
