"""Cross-entropy from hidden states and the output head, in chunks: never [B, T, V] of memory.

Only positions that are targets go through the head, a chunk of them at a time; the logits are
computed again on the way back. That costs a fourth product with the head beside the usual three.
Logits come out of the head in the precision of its products; all that follows is fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from msm_ray.errors import UserError

IGNORED = -100
# Families whose causal model ends in ``head(hidden)`` and at most one factor, divisor or soft cap
# of this name in their configuration: read in transformers 5.19.
FAMILIES = {
    "cohere": "logit_scale",
    "cohere2": "logit_scale",
    "gemma": None,
    "gemma2": "final_logit_softcapping",
    "gemma3_text": "final_logit_softcapping",
    "granite": "logits_scaling",
    "llama": None,
    "mistral": None,
    "olmo2": None,
    "olmo3": None,
    "phi3": None,
    "qwen2": None,
    "qwen3": None,
    "smollm3": None,
}


@dataclass(frozen=True)
class Treatment:
    """What a family does to the head's output: ``softcap * tanh(scale * x / softcap)``."""

    scale: float = 1.0
    softcap: float | None = None

    def apply(self, raw_NV: torch.Tensor) -> torch.Tensor:
        """Logits in fp32, from what the head gave."""
        logits_NV = raw_NV.float()
        if self.scale != 1.0:
            logits_NV = logits_NV * self.scale
        if self.softcap is not None:
            logits_NV = torch.tanh(logits_NV / self.softcap) * self.softcap
        return logits_NV

    def backward_(self, gradient_NV: torch.Tensor, logits_NV: torch.Tensor) -> torch.Tensor:
        """In place: the gradient at the head's output, from that at the logits."""
        if self.softcap is not None:
            gradient_NV.mul_(1 - (logits_NV / self.softcap).square_())
        if self.scale != 1.0:
            gradient_NV.mul_(self.scale)
        return gradient_NV


def treatment_of(config: Any, head: Any) -> Treatment:
    """How the logits of a model are made from its head's output.

    Raises:
        UserError: a family or a head that is not known to be made this way.
    """
    if config.model_type not in FAMILIES or getattr(head, "bias", None) is not None:
        raise UserError(
            f"the chunked loss does not know how a {config.model_type} model makes its logits; "
            f"known are {', '.join(FAMILIES)} without a bias at the head. With smaller micro_blocks"
            " or a larger logits_mib the model's own logits are used"
        )
    name = FAMILIES[config.model_type]
    if name is None:
        return Treatment()
    value = getattr(config, name)
    if name == "final_logit_softcapping":
        return Treatment(softcap=value)
    return Treatment(scale=value if name == "logit_scale" else 1 / value)


def chunked_nats(
    hidden_NH: torch.Tensor,
    weight_VH: torch.Tensor,
    labels_N: torch.Tensor,
    treatment: Treatment,
    chunk: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Nats of each label and ``log(Z)`` at each position, both [N] in fp32 and differentiable.

    ``chunk``: positions whose logits are held at once. Under autocast the products are in its type.
    """
    function: Any = _ChunkedNats
    nats_N, log_z_N = function.apply(hidden_NH, weight_VH, labels_N, treatment, chunk)
    return nats_N, log_z_N


def _product_dtype(hidden: torch.Tensor) -> torch.dtype:
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden.dtype


class _ChunkedNats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: torch.Tensor,
        weight_VH: torch.Tensor,
        labels_N: torch.Tensor,
        treatment: Treatment,
        chunk: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = _product_dtype(hidden_NH)
        ctx.save_for_backward(hidden_NH, weight_VH, labels_N)
        ctx.treatment, ctx.chunk, ctx.dtype = treatment, chunk, dtype
        nats_N = torch.empty(len(labels_N), dtype=torch.float32, device=hidden_NH.device)
        log_z_N = torch.empty_like(nats_N)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            weight_HV = weight_VH.to(dtype).t()
            for at in range(0, len(labels_N), chunk):
                part = slice(at, at + chunk)
                logits_CV = treatment.apply(hidden_NH[part].to(dtype) @ weight_HV)
                log_z_N[part] = logits_CV.logsumexp(-1)
                nats_N[part] = log_z_N[part] - logits_CV.gather(1, labels_N[part, None])[:, 0]
        return nats_N, log_z_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_nats_N: torch.Tensor, of_log_z_N: torch.Tensor) -> Any:
        hidden_NH, weight_VH, labels_N = ctx.saved_tensors
        dtype = ctx.dtype
        of_hidden = torch.empty_like(hidden_NH) if ctx.needs_input_grad[0] else None
        of_weight = None
        if ctx.needs_input_grad[1]:  # summed over chunks in fp32, whatever the products are in
            of_weight = torch.zeros_like(weight_VH, dtype=torch.float32)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            weight = weight_VH.to(dtype)
            for at in range(0, len(labels_N), ctx.chunk):
                part = slice(at, at + ctx.chunk)
                hidden_CH = hidden_NH[part].to(dtype)
                logits_CV = ctx.treatment.apply(hidden_CH @ weight.t())
                # d nats = softmax - one_hot, d log(Z) = softmax
                of_nats = of_nats_N[part, None]
                of_logits_CV = logits_CV.softmax(-1).mul_(of_nats + of_log_z_N[part, None])
                of_logits_CV.scatter_add_(1, labels_N[part, None], -of_nats)
                of_raw_CV = ctx.treatment.backward_(of_logits_CV, logits_CV).to(dtype)
                del logits_CV, of_logits_CV
                if of_hidden is not None:
                    of_hidden[part] = (of_raw_CV @ weight).to(of_hidden.dtype)
                if of_weight is not None:
                    if dtype == torch.float32:
                        of_weight.addmm_(of_raw_CV.t(), hidden_CH)
                    else:
                        of_weight += of_raw_CV.t() @ hidden_CH
        if of_weight is not None:
            of_weight = of_weight.to(weight_VH.dtype)
        return of_hidden, of_weight, None, None, None
