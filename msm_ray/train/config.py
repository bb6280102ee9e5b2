"""What a training run is (``TrainConfig``) and what it runs on (``TrainRuntime``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from msm_ray.errors import UserError

SCHEDULES = ("cosine", "linear", "constant", "wsd")
PRECISIONS = ("bf16", "fp32")
FREEZABLE = ("embeddings",)
ATTENTIONS = ("sdpa", "flex_attention", "flash_attention_2")
BACKENDS = ("single", "fsdp2", "deepspeed")
OBJECTIVES = ("next_token",)
ZERO_STAGES = (2, 3)
TRACKERS = ("mlflow", "wandb")
DECAY_FRACTION = 0.2
LOGITS_MIB = 128  # fp32 logits held at once, where nothing else is said


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters beside frozen weights (Hu et al. 2021): ``W x + scale * B A x``.

    ``scale`` is ``alpha / rank``, with ``rslora`` ``alpha / sqrt(rank)`` (Kalajdzievski 2023).
    ``targets`` are names of linear layers as they end ("q_proj"), or "all-linear" alone: all of
    them but the output head. ``dropout`` is there for the record: only 0 keeps runs comparable
    between backends, so only 0 is allowed.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    rslora: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        targets: Any = self.targets  # whatever was given
        if not isinstance(targets, (list, tuple)):
            raise UserError(f"lora: targets is {targets!r}, allowed is a list of layer names")
        object.__setattr__(self, "targets", tuple(targets))
        rank, alpha = self.rank, self.alpha
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise UserError(f"lora: rank is {rank!r}, allowed is a whole number of at least 1")
        number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
        if not (number and math.isfinite(alpha) and alpha > 0):
            raise UserError(f"lora: alpha is {alpha!r}, allowed is a number > 0")
        if not isinstance(self.rslora, bool):
            raise UserError(f"lora: rslora is {self.rslora!r}, allowed is true or false")
        if self.dropout != 0:
            raise UserError(f"lora: dropout is {self.dropout!r}, allowed is 0")
        if not self.targets or not all(isinstance(t, str) and t for t in self.targets):
            raise UserError(f"lora: targets is {self.targets!r}, allowed is a list of layer names")
        if "all-linear" in self.targets and len(self.targets) > 1:
            raise UserError("lora: targets has all-linear and other names; it stands alone")

    @property
    def shape(self) -> tuple[int, float, bool, tuple[str, ...]]:
        """What two adapters have in common that can hold the same weights to the same effect."""
        return self.rank, self.alpha, self.rslora, tuple(sorted(set(self.targets)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Lora:
        """Build from a mapping; a missing or an unknown name is a ``UserError``."""
        _check_names(cls, "lora", values)
        return cls(**dict(values))


@dataclass(frozen=True)
class TrainConfig:
    """The literals of a training run: they bear its identity. Checked at construction.

    ``epochs`` may be fractional; exactly ``round(epochs * blocks)`` blocks are seen, in steps of
    ``batch_blocks``, the last step taking what is left. ``warmup_fraction`` is a share of the
    steps, ``final_lr_fraction`` the rate at the end as a share of ``learning_rate``. ``freeze``
    names parameter groups that stay as they are; "embeddings" are the input and output embeddings.
    ``precision`` is that of the matrix products; weights, optimizer and loss are fp32 (but see
    ``train.lora.round_frozen``).
    ``shuffle=False`` reads the blocks in the order in which they were packed.
    ``decay_fraction``: the share of the steps in which "wsd" (warm-up, stable, decay) comes down,
    linearly; Hu et al. 2024 (MiniCPM) and Haegele et al. 2024 find 10-20 % enough.

    ``z_loss`` is the coefficient of ``log(Z)^2`` in the objective (Chowdhery et al. 2022, section
    5); the losses that are reported are without it. ``lora`` trains adapters beside the frozen
    model instead of its weights. Fields from ``objective`` on are left out of :meth:`to_dict` where
    they have their default, so that they change no identity from before they were there.
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
    objective: str = "next_token"
    z_loss: float = 0.0
    lora: Lora | None = None
    decay_fraction: float = DECAY_FRACTION

    def __post_init__(self) -> None:
        freeze: Any = self.freeze  # whatever was given
        if not isinstance(freeze, (list, tuple)) or not all(name in FREEZABLE for name in freeze):
            raise self._bad("freeze", f"a list with any of {', '.join(FREEZABLE)}")
        object.__setattr__(self, "freeze", tuple(freeze))
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
        self._one_of("objective", OBJECTIVES)
        self._number("z_loss", least=0)
        self._number("decay_fraction", above=0, most=1)
        if self.lora is not None and not isinstance(self.lora, Lora):
            raise self._bad("lora", "an adapter (rank, alpha, targets, rslora) or none")
        if not isinstance(self.shuffle, bool):
            raise self._bad("shuffle", "true or false")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Build from a mapping; a missing or an unknown name is a ``UserError``."""
        _check_names(cls, "training config", values)
        values = dict(values)
        if isinstance(values.get("lora"), Mapping):
            values["lora"] = Lora.from_dict(values["lora"])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The inverse of :meth:`from_dict`, as plain values: what bears a run's identity."""
        defaults = {f.name: f.default for f in fields(self) if f.name in _OPTIONAL}
        return {k: v for k, v in asdict(self).items() if k not in defaults or v != defaults[k]}

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


_OPTIONAL = ("objective", "z_loss", "lora", "decay_fraction")


def _check_names(cls: type[Any], what: str, values: Mapping[str, Any]) -> None:
    known = [f.name for f in fields(cls)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UserError(f"{what} has no field {', '.join(unknown)}; there are {', '.join(known)}")
    missing = sorted({f.name for f in fields(cls) if f.default is MISSING} - set(values))
    if missing:
        raise UserError(f"{what} lacks {', '.join(missing)}")


@dataclass(frozen=True)
class TrainRuntime:
    """Where and how fast a run goes; never part of its identity.

    ``threads`` a worker; ``micro_blocks``: blocks a worker takes through the model at once (0: its
    whole share of the batch), less of them needs less memory; ``max_failures``: how often Ray Train
    starts the workers again after one dies; ``worker_cpus``: CPUs that each of several workers asks
    Ray for (None: its threads; a small number when the stage holds the CPUs itself).

    What saves memory: ``activation_checkpointing`` computes each layer again on the way back;
    ``logits_mib`` bounds the fp32 logits that are held at once (see ``train.objective``);
    ``offload`` keeps parameters and optimizer in the CPU's memory (fsdp2, deepspeed); ``meta_init``
    reads each weight from the folder into its slice, so that no worker ever holds the whole model
    (fsdp2, deepspeed with ``zero_stage`` 3).

    ``attention``: "sdpa" has a mask of every position by every other; "flex_attention" and
    "flash_attention_2" (with its own package) skip what lies in other documents. Those two have
    gradients on GPUs only.

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
    activation_checkpointing: bool = False
    logits_mib: int = LOGITS_MIB
    offload: bool = False
    meta_init: bool = False
    zero_stage: int = 3
    attention: str = "sdpa"
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int = 0
    spike_nats: float = 2.0
    track: str = ""

    def __post_init__(self) -> None:
        self._check_values()
        if self.backend == "single" and self.num_workers > 1:
            raise UserError(
                f"training runtime: {self.num_workers} workers need backend fsdp2 or deepspeed, "
                "it is single"
            )
        for name in ("offload", "meta_init"):
            if getattr(self, name) and self.backend == "single":
                raise UserError(
                    f"training runtime: {name} needs backend fsdp2 or deepspeed, it is single"
                )
        if self.meta_init and self.backend == "deepspeed" and self.zero_stage != 3:
            raise UserError(
                f"training runtime: meta_init needs zero_stage 3, it is {self.zero_stage}"
            )

    def _check_values(self) -> None:
        """Each field by itself."""
        self._one_of("backend", BACKENDS)
        self._one_of("attention", ATTENTIONS)
        if self.attention != "sdpa" and not self.use_gpu:
            raise UserError(
                f"training runtime: attention {self.attention} needs use_gpu; on CPUs only sdpa has"
                " gradients"
            )
        for name, least in (
            ("num_workers", 1),
            ("threads", 1),
            ("micro_blocks", 0),
            ("max_failures", 0),
            ("logits_mib", 1),
            ("checkpoint_steps", 0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise self._bad(name, f"a whole number of at least {least}")
        for name in ("checkpoint_seconds", "spike_nats", "worker_cpus"):
            value = getattr(self, name)
            if name == "worker_cpus" and value is None:
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and math.isfinite(value) and value >= 0):
                raise self._bad(name, "a number of at least 0")
        for name in ("compile", "use_gpu", "activation_checkpointing", "offload", "meta_init"):
            if not isinstance(getattr(self, name), bool):
                raise self._bad(name, "true or false")
        self._one_of("zero_stage", ZERO_STAGES)
        tracker, _, where = str(self.track).partition(":")
        if self.track != "" and (tracker not in TRACKERS or not where):
            raise self._bad("track", "mlflow:URI | wandb:PROJECT")

    def _one_of(self, name: str, allowed: tuple[Any, ...]) -> None:
        if getattr(self, name) not in allowed:
            raise self._bad(name, " | ".join(map(str, allowed)))

    def _bad(self, name: str, allowed: str) -> UserError:
        return UserError(
            f"training runtime: {name} is {getattr(self, name)!r}, allowed is {allowed}"
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
