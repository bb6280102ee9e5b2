"""Adapters over the small random models, written as the trainer writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .tiny import forward, write_fingerprint


def make_adapter(
    folder: Path,
    base: Path,
    seed: int,
    *,
    rank: int = 8,
    targets: tuple[str, ...] = ("all-linear",),
) -> Path:
    """An adapter with an effect of about a nat, and the fingerprint of ``base`` with it."""
    import torch

    from msm_ray.train.config import Lora
    from msm_ray.train.fingerprint import fingerprint_of
    from msm_ray.train.lora import add_adapter, save_adapter
    from msm_ray.train.model import load_model

    lora = Lora(rank=rank, alpha=2.0 * rank, targets=targets)
    model = load_model(base)
    add_adapter(model, lora)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            with torch.no_grad():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
            state[name] = parameter.detach().clone()
    save_adapter(state, lora, base, fingerprint_of(base), folder, torch.float32)
    write_fingerprint(folder, model.eval())
    return folder


def peft_forward(base: Path, adapter: Path, ids: list[int]) -> Any:
    """Log-probabilities after each position by transformers with PEFT's own adapter."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    key = (base, adapter)
    if key not in _LOADED:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        _LOADED[key] = PeftModel.from_pretrained(model, str(adapter)).eval()
    return forward(_LOADED[key], ids)


_LOADED: dict[tuple[Path, Path], Any] = {}
