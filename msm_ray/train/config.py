"""What a training run is (``TrainConfig``) and what it runs on (``TrainRuntime``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from msm_ray.errors import UserError

SCHEDULES = ("cosine", "linear", "constant", "wsd")
PRECISIONS = ("bf16", "fp32")
FREEZABLE = ("embeddings",)
BACKENDS = ("single", "fsdp2", "deepspeed")
TRACKERS = ("mlflow", "wandb")


@dataclass(frozen=True)
class TrainConfig:
    """The literals of a training run: they bear its identity. Checked at construction.

    ``epochs`` may be fractional; exactly ``round(epochs * blocks)`` blocks are seen, in steps of
    ``batch_blocks``, the last step taking what is left. ``warmup_fraction`` is a share of the
    steps, ``final_lr_fraction`` the rate at the end as a share of ``learning_rate``. ``freeze``
    names parameter groups that stay as they are; "embeddings" are the input and output embeddings.
    ``precision`` is that of the matrix products; weights, optimizer and loss are fp32.
    ``shuffle=False`` reads the blocks in the order in which they were packed.
    """

    learning_rate: float
    beta1: float
    beta2: float
    weight_decay: float
    max_grad_norm: float
    warmup_fraction: float
    schedule: str
    final_lr_fraction: float
    batch_blocks: int
    epochs: float
    freeze: tuple[str, ...]
    precision: str
    seed: int
    shuffle: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "freeze", tuple(self.freeze))
        self._number("learning_rate", above=0)
        self._number("beta1", least=0, below=1)
        self._number("beta2", least=0, below=1)
        self._number("weight_decay", least=0)
        self._number("max_grad_norm", above=0)
        self._number("warmup_fraction", least=0, most=1)
        self._number("final_lr_fraction", least=0, most=1)
        self._number("epochs", above=0)
        self._integer("batch_blocks", least=1)
        self._integer("seed")
        self._one_of("schedule", SCHEDULES)
        self._one_of("precision", PRECISIONS)
        if not isinstance(self.shuffle, bool):
            raise self._bad("shuffle", "true or false")
        for name in self.freeze:
            if name not in FREEZABLE:
                raise self._bad("freeze", f"any of {', '.join(FREEZABLE)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Build from a mapping; a missing or an unknown name is a ``UserError``."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UserError(
                f"training config has no field {', '.join(unknown)}; there are {', '.join(known)}"
            )
        missing = sorted(set(known) - set(values) - {"shuffle"})
        if missing:
            raise UserError(f"training config lacks {', '.join(missing)}")
        return cls(**dict(values))

    def _bad(self, name: str, allowed: str) -> UserError:
        return UserError(
            f"training config: {name} is {getattr(self, name)!r}, allowed is {allowed}"
        )

    def _one_of(self, name: str, allowed: tuple[str, ...]) -> None:
        if getattr(self, name) not in allowed:
            raise self._bad(name, " | ".join(allowed))

    def _integer(self, name: str, least: int | None = None) -> None:
        value = getattr(self, name)
        allowed = "a whole number" + ("" if least is None else f" of at least {least}")
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._bad(name, allowed)
        if least is not None and value < least:
            raise self._bad(name, allowed)

    def _number(
        self,
        name: str,
        *,
        above: float | None = None,
        least: float | None = None,
        below: float | None = None,
        most: float | None = None,
    ) -> None:
        value = getattr(self, name)
        limits = ((">", above), (">=", least), ("<", below), ("<=", most))
        allowed = "a number " + " and ".join(f"{s} {v:g}" for s, v in limits if v is not None)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._bad(name, allowed)
        inside = (
            math.isfinite(value)
            and (above is None or value > above)
            and (least is None or value >= least)
            and (below is None or value < below)
            and (most is None or value <= most)
        )
        if not inside:
            raise self._bad(name, allowed)


@dataclass(frozen=True)
class TrainRuntime:
    """Where and how fast a run goes; never part of its identity.

    ``threads`` a worker; ``micro_blocks``: blocks a worker takes through the model at once (0: its
    whole share of the batch), less of them needs less memory; ``max_failures``: how often Ray Train
    starts the workers again after one dies; ``worker_cpus``: CPUs that each of several workers asks
    Ray for (None: its threads; a small number when the stage holds the CPUs itself).

    A checkpoint is written every ``checkpoint_seconds`` (0: never), or every ``checkpoint_steps``
    where that is not 0. ``spike_nats``: how far above the last losses one counts as a spike, which
    stops the run (0: never; see ``train.watch.spike_limit``). ``track``: where metrics go besides
    their files, "mlflow:URI" or "wandb:PROJECT".
    """

    backend: str = "single"
    num_workers: int = 1
    threads: int = 1
    compile: bool = False
    use_gpu: bool = False
    micro_blocks: int = 0
    max_failures: int = 1
    worker_cpus: float | None = None
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int = 0
    spike_nats: float = 2.0
    track: str = ""

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise UserError(
                f"training runtime: backend is {self.backend!r}, allowed is {' | '.join(BACKENDS)}"
            )
        for name, least in (
            ("num_workers", 1),
            ("threads", 1),
            ("micro_blocks", 0),
            ("max_failures", 0),
            ("checkpoint_steps", 0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(
                    f"training runtime: {name} is {value!r}, "
                    f"allowed is a whole number of at least {least}"
                )
        for name in ("checkpoint_seconds", "spike_nats"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise UserError(
                    f"training runtime: {name} is {value!r}, allowed is a number of at least 0"
                )
        tracker, _, where = self.track.partition(":")
        if self.track and (tracker not in TRACKERS or not where):
            raise UserError(
                f"training runtime: track is {self.track!r}, allowed is mlflow:URI | wandb:PROJECT"
            )
        if self.backend == "single" and self.num_workers > 1:
            raise UserError(
                f"training runtime: {self.num_workers} workers need backend fsdp2 or deepspeed, "
                "it is single"
            )

    @property
    def cpus_of_worker(self) -> float:
        """CPUs that one worker of several asks Ray for."""
        return float(self.threads) if self.worker_cpus is None else self.worker_cpus

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainRuntime:
        """Take the fields of this class from a stage's runtime; its other keys are not for us."""
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


def check_batch(config: TrainConfig, runtime: TrainRuntime) -> None:
    """Raise unless every worker gets the same number of blocks of each batch."""
    if config.batch_blocks % runtime.num_workers:
        raise UserError(
            f"training: batch_blocks is {config.batch_blocks} and num_workers "
            f"{runtime.num_workers}; the first has to be a multiple of the second"
        )
