"""A checkpoint as an engine sees it: a model's folder, or an adapter's over that of its base."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_ray.errors import UserError
from msm_ray.llm.memory import adapter_rank, kv_cache_bytes_per_token

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_FILE = "base.json"  # what the trainer writes about the model below an adapter
BASE_ATOL = 1e-3  # nats, between two records of one model's log-probabilities
_PEFT_PREFIX = "base_model.model."  # of names in an adapter's file


@dataclass(frozen=True)
class Fingerprint:
    """Log-probabilities of ``token_ids[i]`` right after ``prompts[i]``, by the model itself."""

    prompts: tuple[tuple[int, ...], ...] = ()
    token_ids: tuple[tuple[int, ...], ...] = ()
    logprobs: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """What is served: whole weights, or an adapter over the weights of ``base``.

    ``architecture`` is equal for checkpoints that one engine can hold one after the other (whole
    weights), or together (adapters over one base); ``key`` is equal for the same weights only.
    """

    path: str
    model_class: str  # LlamaForCausalLM, ...
    architecture: str
    key: str
    context: int  # longest sequence, in tokens
    kv_bytes_per_token: int  # in float32
    weight_bytes: int  # of the whole model's files, or of the adapter's
    fingerprint: Fingerprint
    base: Checkpoint | None = None
    rank: int = 0  # of an adapter


def read_checkpoint(folder: str | Path, base: str | Path | None = None) -> Checkpoint:
    """What has to be known of a folder before an engine may hold it.

    Args:
        folder: a Hugging Face model with ``fingerprint.json``; or a PEFT adapter with the
            fingerprint of the model *with* the adapter.
        base: the folder of the model below an adapter. Ignored for a whole model, so that a caller
            need not know which of the two it has.

    Raises:
        UserError: no config, no safetensors weights, or no usable ``fingerprint.json``; an adapter
            without ``base``, over another model than ``base``, or of a kind that vLLM does not
            serve.
    """
    folder = Path(folder).resolve()
    if (folder / ADAPTER_CONFIG).is_file():
        if base is None:
            raise UserError(f"{folder}: an adapter; the folder of the model below it is needed too")
        return _adapter(folder, Path(base).resolve())
    return _whole(folder)


def unproven(folder: str | Path) -> Checkpoint:
    """A whole model that nobody recorded a fingerprint of: what serves it proves nothing."""
    return _whole(Path(folder).resolve(), Fingerprint())


def _whole(folder: Path, known: Fingerprint | None = None) -> Checkpoint:
    config = _json(folder / "config.json", "a model's configuration")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{folder}: no *.safetensors in it; a Hugging Face model folder is needed")
    fingerprint = read_fingerprint(folder) if known is None else known
    # What the weights are called or were stored as does not change which engine can take them.
    same = {
        k: v
        for k, v in config.items()
        if k not in ("dtype", "torch_dtype", "_name_or_path", "transformers_version")
    }
    stamp = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in weights]
    nested = config.get("text_config")  # models of images keep the numbers of their text part there
    numbers = {**config, **nested} if isinstance(nested, dict) else config
    if not isinstance(numbers.get("max_position_embeddings"), int):
        raise UserError(f"{folder / 'config.json'}: no max_position_embeddings in it")
    return Checkpoint(
        path=str(folder),
        model_class=str((config.get("architectures") or [""])[0]),
        architecture=_digest(same),
        key=_digest([str(folder), stamp, fingerprint.logprobs]),
        context=numbers["max_position_embeddings"],
        kv_bytes_per_token=kv_cache_bytes_per_token(numbers, "float32"),
        weight_bytes=sum(p.stat().st_size for p in weights),
        fingerprint=fingerprint,
    )


# --------------------------------------------------------------------------------------- adapters


def _adapter(folder: Path, base: Path) -> Checkpoint:
    if (base / ADAPTER_CONFIG).is_file():
        raise UserError(f"{base}: an adapter itself; the base of {folder} has to be a whole model")
    recorded = _recorded_base(folder)
    here = read_fingerprint(base) if (base / "fingerprint.json").is_file() else recorded
    if recorded is not None and here is not None and not _same(here, recorded):
        raise UserError(f"{folder}: it was trained on another model than {base}")
    below = _whole(base, here or Fingerprint())
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise UserError(f"{folder}: no {ADAPTER_WEIGHTS} in it")
    config = _json(folder / ADAPTER_CONFIG, "an adapter's configuration")
    rank = adapter_rank(folder)
    _check_kind(folder, config)
    _check_shapes(weights, base)
    digest = hashlib.sha256((folder / ADAPTER_CONFIG).read_bytes())
    with weights.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    return Checkpoint(
        path=str(folder),
        model_class=below.model_class,
        architecture=f"adapters over {below.key}",
        # By content: vLLM tells adapters apart by their names only, so the same name must never
        # stand for other weights.
        key=_digest([below.key, digest.hexdigest()]),
        context=below.context,
        kv_bytes_per_token=below.kv_bytes_per_token,
        weight_bytes=weights.stat().st_size,
        fingerprint=read_fingerprint(folder),
        base=below,
        rank=rank,
    )


def _recorded_base(folder: Path) -> Fingerprint | None:
    """The fingerprint of the model that an adapter was trained on, if its trainer wrote it down."""
    path = folder / BASE_FILE
    if not path.is_file():
        return None
    return _fingerprint(_json(path, "what is below the adapter").get("fingerprint"), path)


def _same(one: Fingerprint, other: Fingerprint) -> bool:
    if (one.prompts, one.token_ids) != (other.prompts, other.token_ids):
        return False
    pairs = zip(one.logprobs, other.logprobs, strict=True)
    return all(
        abs(a - b) <= BASE_ATOL for row, same in pairs for a, b in zip(row, same, strict=True)
    )


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse what vLLM would ignore or crash on."""
    for name in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern"):
        if config.get(name):
            raise UserError(f"{folder / ADAPTER_CONFIG}: {name} cannot be served; plain LoRA can")
    if config.get("bias", "none") != "none":
        raise UserError(f"{folder / ADAPTER_CONFIG}: bias cannot be served; plain LoRA can")


def _check_shapes(weights: Path, base: Path) -> None:
    """UserError unless every matrix of the adapter lies beside a layer of ``base`` that it fits."""
    layers = {name: shape for p in base.glob("*.safetensors") for name, shape in _shapes(p).items()}
    for name, shape in _shapes(weights).items():
        stem, _, part = name.removeprefix(_PEFT_PREFIX).removesuffix(".weight").rpartition(".")
        layer = layers.get(f"{stem}.weight")
        if part not in ("lora_A", "lora_B") or "embed" in stem or stem.endswith("lm_head"):
            raise UserError(f"{weights}: {name} cannot be served; adapters go beside layers only")
        if layer is None:
            raise UserError(f"{weights}: {stem} is no layer of {base}")
        inside, outside = (layer[1], shape[1]) if part == "lora_A" else (layer[0], shape[0])
        if inside != outside:
            raise UserError(f"{weights}: {name} has shape {shape}, {base} has {layer} there")


def _shapes(path: Path) -> dict[str, list[int]]:
    """Name -> shape, from the header of a safetensors file."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return {k: list(v["shape"]) for k, v in header.items() if k != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from error


# ------------------------------------------------------------------------------------ fingerprints


def read_fingerprint(folder: Path) -> Fingerprint:
    """The folder's ``fingerprint.json``; UserError when it is missing or not one."""
    path = folder / "fingerprint.json"
    return _fingerprint(
        _json(path, "the log-probabilities that prove which weights an engine holds"), path
    )


def _fingerprint(raw: Any, path: Path) -> Fingerprint:
    try:
        made = Fingerprint(
            tuple(tuple(int(t) for t in p) for p in raw["prompts"]),
            tuple(tuple(int(t) for t in ids) for ids in raw["token_ids"]),
            tuple(tuple(float(x) for x in row) for row in raw["logprobs"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a fingerprint ({error})") from error
    lengths = [len(ids) for ids in made.token_ids]
    if (
        not made.prompts
        or len(made.prompts) != len(lengths)
        or [len(row) for row in made.logprobs] != lengths
        or not all(lengths)
        or not all(math.isfinite(x) for row in made.logprobs for x in row)
    ):
        raise UserError(f"{path}: prompts, token_ids and logprobs do not fit together")
    return made


def _json(path: Path, what: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read; it holds {what}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object is needed")
    return value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
