"""vLLM's computation of LoRA on the CPU, mended.

vLLM 0.29 computes adapters on the CPU by gathering each token's own copy of both matrices. That
is wrong in one place and slow everywhere:

- a token without an adapter has the index -1 and so gets the matrices in the *last* slot: the base
  model's requests, beside those of an adapter, are answered with an adapter, silently;
- scoring a prompt (``prompt_logprobs``) with an adapter dies of a shape, because the output head
  is computed for another number of rows than there are answers;
- 4,096 tokens of rank 64 and width 4,096 are 4 GiB of copies for one layer.

Here the tokens of each adapter are multiplied at once, tokens without one are left alone, and the
output head has no adapter at all: `read_checkpoint` refuses an adapter that has weights for it.
"""

from __future__ import annotations

from typing import Any

import torch

Rows = slice | torch.Tensor  # of a batch's tokens


def rows_by_adapter(slots: torch.Tensor) -> list[tuple[int, Rows]]:
    """Which rows each adapter has, as (slot, rows); rows with slot -1 have none.

    Args:
        slots: [tokens], the slot of each token's adapter.
    """
    found: list[tuple[int, Rows]] = []
    for slot in torch.unique(slots).tolist():
        if slot < 0:
            continue
        rows = (slots == slot).nonzero().squeeze(1)
        first, last = int(rows[0]), int(rows[-1])
        together = last - first + 1 == len(rows)
        found.append((slot, slice(first, last + 1) if together else rows))
    return found


def add_adapters(
    y: torch.Tensor,
    x: torch.Tensor,
    a: tuple[torch.Tensor, ...],
    b: tuple[torch.Tensor, ...],
    scale: float,
    widths: tuple[int, ...],
    groups: list[tuple[int, Rows]],
) -> None:
    """``y[:, part] += scale * (x @ a[part].T) @ b[part].T`` for each adapter's rows, in place.

    Args:
        y: [tokens, sum of widths], what the layer itself gave; x: [tokens, width], what went in.
        a: for each part [slots, 1, rank, width]; b: for each part [slots, 1, part, rank].
        groups: of `rows_by_adapter`.
    """
    for slot, rows in groups:
        inside = x[rows]
        start = 0
        for a_part, b_part, width in zip(a, b, widths, strict=True):
            narrow, wide = inside @ a_part[slot, 0].T, b_part[slot, 0].T
            if isinstance(rows, slice):
                y[rows, start : start + width].addmm_(narrow, wide, alpha=scale)
            else:
                y[rows, start : start + width] += scale * (narrow @ wide)
            start += width


def mend() -> None:
    """Put this in the place of vLLM's own, in this process, from now on."""
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    original = PunicaWrapperCPU.update_metadata

    def update_metadata(self: Any, mapping: Any, *arguments: Any, **named: Any) -> None:
        original(self, mapping, *arguments, **named)
        self.groups = rows_by_adapter(self.token_lora_indices)

    PunicaWrapperCPU.update_metadata = update_metadata
    PunicaWrapperCPU.add_lora_linear = _add_lora_linear
    PunicaWrapperCPU.add_lora_logits = _add_lora_logits


def _add_lora_linear(
    self: Any,
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a_stacked: tuple[torch.Tensor, ...],
    lora_b_stacked: tuple[torch.Tensor, ...],
    scale: float,
    output_slices: tuple[int, ...],
    **_: Any,
) -> None:
    y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
    add_adapters(y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, self.groups)


def _add_lora_logits(self: Any, y: torch.Tensor, *_: Any, **__: Any) -> None:
    """No adapter has weights for the output head."""
