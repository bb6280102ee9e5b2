"""What ranks tell each other besides gradients: small values, over gloo, also where NCCL trains."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

T = TypeVar("T")


class Ranks:
    """This process among those of its run; alone where no process group was started.

    Its collectives have a process group of their own, so that they never meet those of a
    checkpoint that is being written meanwhile. Every rank constructs it, and calls its methods in
    the same order.
    """

    def __init__(self) -> None:
        grouped = dist.is_initialized()
        self.rank = dist.get_rank() if grouped else 0
        self.world_size = dist.get_world_size() if grouped else 1
        self._group: Any = dist.new_group(backend="gloo") if self.world_size > 1 else None

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes what there is one of."""
        return self.rank == 0

    def from_first(self, value: T) -> T:
        """Rank 0's ``value``; those of the others do not matter."""
        if self._group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group, device=torch.device("cpu"))
        return box[0]

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum over all ranks."""
        if self._group is None:
            return values
        total = torch.from_numpy(values.copy())
        dist.all_reduce(total, group=self._group)
        return total.numpy()
