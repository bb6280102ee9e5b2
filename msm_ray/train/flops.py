"""Model FLOPs utilisation: what the model needs a token, over what the device could do."""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np
import torch

from msm_ray.data.blocks import BlockReader

# Dense bf16 FLOP/s by a part of the device's name, from NVIDIA's data sheets; the first that fits.
# The sheets give these with sparsity, which is twice as much.
PEAKS = (
    ("B200", 2.25e15),
    ("H200", 9.89e14),
    ("GH200", 9.89e14),
    ("H100 PCIe", 7.56e14),
    ("H100 NVL", 8.35e14),
    ("H100", 9.89e14),
    ("A100", 3.12e14),
    ("L40S", 3.62e14),
    ("L4", 1.21e14),
    ("A10", 1.25e14),
)
_SAMPLED_BLOCKS = 256
_SIDE = {"cpu": 512, "cuda": 4096}  # of the matrices with which a peak is measured


def attended_tokens(reader: BlockReader) -> float:
    """Mean length of the document that a token lies in, from the first blocks.

    What attention sees of a packed block: over a document of length l it costs l * l.
    """
    n = min(len(reader), _SAMPLED_BLOCKS)
    positions = reader.rows("position_ids", np.arange(n, dtype=np.int64)).astype(np.int64)
    tokens = int(reader.tokens[:n].sum())
    padding = positions.size - tokens  # each has position 0 and counts 1 below
    seen = int((2 * positions + 1).sum()) - padding
    return seen / max(1, tokens)


def flops_per_token(model: Any, attended: float) -> float:
    """FLOPs of one token, forward and backward: ``6 N + 12 L H Q T`` (PaLM, appendix B).

    ``N``: weights that are multiplied: all but the input embedding, which is only looked up; where
    it is the output projection as well, it counts as that. A frozen weight takes 4, for it gets no
    gradient. ``T``: ``attended`` tokens; as in the source, the causal half is not taken off.
    """
    embedding = model.get_input_embeddings().weight
    output = model.get_output_embeddings()
    tied = output is not None and output.weight is embedding
    total: float = 0.0
    for parameter in model.parameters():
        if parameter is embedding and not tied:
            continue
        # DeepSpeed's own parameters are empty while they are not needed.
        size = getattr(parameter, "ds_numel", parameter.numel())
        total += size * (6.0 if parameter.requires_grad else 4.0)
    config = model.config
    heads = config.num_attention_heads
    width = int(heads * (getattr(config, "head_dim", None) or config.hidden_size // heads))
    return total + 12.0 * int(config.num_hidden_layers) * width * attended


def device_peak(device: torch.device, precision: str) -> float:
    """FLOP/s of matrix products on one device: from its data sheet, or else measured here.

    The sheets' numbers hold for ``precision="bf16"``; fp32, CPUs and unknown devices are measured,
    with the threads that torch has now.
    """
    if device.type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name(device)
        for part, peak in PEAKS:
            if part in name:
                return peak
    return measured_peak(device.type, precision, torch.get_num_threads())


@functools.cache
def measured_peak(device: str, precision: str, threads: int) -> float:
    """The best of a few products of square matrices, in FLOP/s. Measured once in a process."""
    side = _SIDE[device]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        matrix @ matrix
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2.0 * side**3 / best
