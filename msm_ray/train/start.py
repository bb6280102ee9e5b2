"""What a run starts from: a folder's model, a fresh one, an adapter that goes on or a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msm_ray.errors import UserError
from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.fingerprint import fingerprint_of, same_fingerprint
from msm_ray.train.lora import (
    add_adapter,
    first_weights,
    is_adapter,
    put,
    read_adapter,
    round_frozen,
    same_lora,
)
from msm_ray.train.model import init_model, load_model, meta_model
from msm_ray.train.weights import Weights


@dataclass(frozen=True)
class Start:
    """A causal language model, with its adapter if the run has one.

    ``weights``: where its parameters are read from, when they have no values yet (``meta_init``).
    ``base`` and ``base_fingerprint``: what an adapter belongs to.
    """

    model: Any
    weights: Weights | None = None
    base: Path | None = None
    base_fingerprint: Mapping[str, Any] = field(default_factory=dict)


def start(
    config: TrainConfig,
    runtime: TrainRuntime,
    model: str | None,
    base: str | None,
    arch: Mapping[str, Any] | None,
    tokenizer: str,
) -> Start:
    """See :class:`msm_ray.train.worker.TrainJob` for the arguments.

    Raises:
        UserError: nothing to start from, or an adapter whose base or shape is another.
    """
    if model is None:
        begun = _fresh(config, runtime, arch, tokenizer)
        _attend(begun, runtime)
        return Start(begun)
    folder, adapter = Path(model), None
    fingerprint: Mapping[str, Any] = {}
    if is_adapter(folder):
        adapter, folder = folder, _base_of(folder, base, config)
    if config.lora is not None:
        fingerprint = fingerprint_of(folder)
        if adapter is not None and not same_fingerprint(
            fingerprint, read_adapter(adapter).base_fingerprint
        ):
            raise UserError(f"{adapter}: it was trained on another model than {folder}")
    begun = _model(folder, runtime)
    _attend(begun, runtime)
    if config.lora is None:
        return Start(begun, Weights(folder) if runtime.meta_init else None)
    on_meta = runtime.meta_init and runtime.backend == "fsdp2"
    add_adapter(begun, config.lora, on_meta=on_meta)
    first = first_weights(begun, config.seed, adapter)
    if not on_meta:
        put(begun, first)
    # ZeRO shares out parameters of one type, and DeepSpeed's autocast sees to them itself.
    if config.precision == "bf16" and runtime.backend != "deepspeed":
        round_frozen(begun)
    weights = Weights(folder, first) if runtime.meta_init else None
    return Start(begun, weights, folder.absolute(), fingerprint)


def _fresh(
    config: TrainConfig, runtime: TrainRuntime, arch: Mapping[str, Any] | None, tokenizer: str
) -> Any:
    if arch is None:
        raise UserError("training needs a model folder, or the architecture of a new model")
    if config.lora is not None or runtime.meta_init:
        raise UserError("training: lora and meta_init need a model folder, not a new model")
    from transformers import AutoTokenizer

    return init_model(arch, AutoTokenizer.from_pretrained(tokenizer), config.seed)


def _base_of(adapter: Path, base: str | None, config: TrainConfig) -> Path:
    """The folder of the model below ``adapter``, and the run is to continue that adapter."""
    about = read_adapter(adapter)
    if config.lora is None or not same_lora(config.lora, about.lora):
        raise UserError(
            f"{adapter} is an adapter; to go on with it a run needs the same lora: {about.lora}"
        )
    folder = Path(base or about.base)
    if is_adapter(folder) or not (folder / "config.json").is_file():
        raise UserError(
            f"{adapter}: the model below it is not at {folder}; give its folder as base"
        )
    return folder


def _attend(model: Any, runtime: TrainRuntime) -> None:
    """Another attention than the one that the model was loaded with, if the run asks for it."""
    if runtime.attention != "sdpa":
        model.set_attn_implementation(runtime.attention)


def _model(folder: Path, runtime: TrainRuntime) -> Any:
    if not runtime.meta_init:
        return load_model(folder)
    if runtime.backend == "fsdp2":
        return meta_model(folder)
    from msm_ray.train.backends.deepspeed import partitioned_model

    return partitioned_model(folder, runtime)
