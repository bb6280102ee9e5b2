"""LoRA through PEFT: adapters put beside a model's layers, and folders that hold them alone.

An adapter folder is what PEFT and vLLM take as it is (``adapter_config.json``,
``adapter_model.safetensors``), with the tokenizer, the chat template, ``training.json``, the
``fingerprint.json`` of the model *with* the adapter, and ``base.json``: which model it belongs to,
told by that model's own fingerprint, since paths change and weights behind them too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from msm_ray.errors import UserError
from msm_ray.train.config import Lora
from msm_ray.train.model import load_model
from msm_ray.train.weights import seeded_uniform

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_FILE = "base.json"
_PEFT_PREFIX = "base_model.model."  # of names in an adapter's file
_NAME = ".default"  # PEFT's name for a model's one adapter, in names of its parameters


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter, not a model."""
    return (folder / ADAPTER_CONFIG).is_file()


def add_adapter(model: Any, lora: Lora, *, on_meta: bool = False) -> None:
    """Put an adapter beside the target layers; all else of the model is frozen.

    Its weights are PEFT's own until :func:`first_weights` are in place. ``on_meta`` makes them
    without memory.

    Raises:
        UserError: a target that no layer has, or that is the embedding or the output head.
    """
    from peft import inject_adapter_in_model

    outer = {
        name
        for name, module in model.named_modules()
        if module is model.get_input_embeddings() or module is model.get_output_embeddings()
    }
    if lora.targets != ("all-linear",):
        names = [name for name, _ in model.named_modules()]
        for target in lora.targets:
            hit = [n for n in names if n == target or n.endswith("." + target)]
            if not hit:
                raise UserError(f"lora: no layer of the model is called {target}")
            if outer & set(hit):
                raise UserError(f"lora: {target} is an embedding; adapters go into layers only")
    try:
        inject_adapter_in_model(_peft_config(lora, None), model, low_cpu_mem_usage=on_meta)
    except ValueError as error:
        raise UserError(f"lora: {error}") from error


def _peft_config(lora: Lora, base: str | None) -> Any:
    from peft import LoraConfig

    targets: Any = "all-linear" if lora.targets == ("all-linear",) else list(lora.targets)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=targets,
        use_rslora=lora.rslora,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )


def first_weights(model: Any, seed: int, adapter: Path | None) -> dict[str, torch.Tensor]:
    """The adapter's weights at the start, by the names of the model's parameters.

    Those of the folder ``adapter``, or with None fresh ones: A drawn by ``seed`` and name, the same
    on every rank and backend, B zero, so that the model starts as its base.
    """
    shapes = {name: tuple(p.shape) for name, p in _adapter_parameters(model)}
    if adapter is None:
        return {
            name: seeded_uniform(shape, seed, name) if ".lora_A." in name else torch.zeros(shape)
            for name, shape in shapes.items()
        }
    from safetensors.torch import load_file

    stored = load_file(adapter / ADAPTER_WEIGHTS)
    found = {_inside(name): value.float() for name, value in stored.items()}
    if {name: tuple(value.shape) for name, value in found.items()} != shapes:
        raise UserError(f"{adapter}: its weights are not those of an adapter of this model")
    return found


def put(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy an adapter's weights into a model that has memory for them."""
    parameters = dict(_adapter_parameters(model))
    assert parameters.keys() == weights.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def round_frozen(model: Any) -> None:
    """Keep the frozen weights of linear layers in bf16: half their memory, and the same training.

    For bf16 products of an adapted model: autocast rounds these weights whenever they are used, so
    that not a bit of a result changes. What is not only multiplied stays fp32: norms, and the
    embedding, with a head that is tied to it.
    """
    embedding = model.get_input_embeddings().weight
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad and parameter is not embedding:
                    parameter.data = parameter.data.to(torch.bfloat16)


def load_adapted(folder: Path, base: Path) -> Any:
    """The causal language model ``base`` with the adapter of ``folder`` beside its layers."""
    model = load_model(base)
    add_adapter(model, read_adapter(folder).lora)
    put(model, first_weights(model, 0, folder))
    return model


def _adapter_parameters(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    for name, parameter in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            yield name, parameter


def _inside(name: str) -> str:
    """``base_model.model.X.lora_A.weight`` of a file to ``X.lora_A.default.weight``."""
    stem, _, leaf = name.removeprefix(_PEFT_PREFIX).rpartition(".")
    return f"{stem}{_NAME}.{leaf}"


def _outside(name: str) -> str:
    stem, _, leaf = name.rpartition(".")
    return f"{_PEFT_PREFIX}{stem.removesuffix(_NAME)}.{leaf}"


def base_name(name: str) -> str:
    """The name that a parameter had before :func:`add_adapter`."""
    return name.replace(".base_layer.", ".")


@dataclass(frozen=True)
class AdapterFolder:
    """What an adapter folder says of itself."""

    lora: Lora
    base: str  # where the base lay when the adapter was trained
    base_fingerprint: Mapping[str, Any]


def read_adapter(folder: Path) -> AdapterFolder:
    """Read ``adapter_config.json`` and ``base.json``; UserError when they are not what we write."""
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))
        lora = Lora.from_dict(base["lora"])
        return AdapterFolder(lora, config["base_model_name_or_path"], base["fingerprint"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: not an adapter that was trained here ({error})") from error


def same_lora(one: Lora, other: Lora) -> bool:
    """Whether two adapters have the same weights and the same effect; targets in any order."""
    return one.shape == other.shape


def save_adapter(
    state: Mapping[str, torch.Tensor],
    lora: Lora,
    base: Path,
    base_fingerprint: Mapping[str, Any],
    out: Path,
    dtype: torch.dtype,
) -> None:
    """Write the adapter's files; ``state`` are its weights, by the model's parameter names."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    weights = {
        _outside(name): value.to(dtype).clone(memory_format=torch.contiguous_format)
        for name, value in sorted(state.items())
    }
    save_file(weights, out / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = _peft_config(lora, str(base)).to_dict()
    # "all-linear" as what it came to: not all readers know that word
    layers = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in weights})
    config.update(inference_mode=True, target_modules=layers)
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    _write_json(out / ADAPTER_CONFIG, plain)
    _write_json(out / BASE_FILE, {"lora": asdict(lora), "fingerprint": dict(base_fingerprint)})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
