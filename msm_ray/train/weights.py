"""Weights by name, read from where they lie, whole or a few rows at a time."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from msm_ray.errors import UserError


class Weights:
    """The tensors that a model starts from, by the name of its parameter, in fp32.

    Those of a Hugging Face folder lie in its safetensors files and are read when asked for. Others
    (an adapter's) are given. The same names and values whatever reads them: one process, each rank
    of several its own rows, or one rank for all.
    """

    def __init__(
        self, folder: Path | None, given: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        self.folder = folder
        self.given = dict(given or {})
        self.files: dict[str, Path] = {} if folder is None else _files_by_name(folder)

    def check(self, names: Iterable[str]) -> None:
        """UserError where there is none of a name: on every rank, before one waits for another."""
        for name in names:
            if name not in self.given:
                self._file(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape; UserError where there is none of this name."""
        if name in self.given:
            return tuple(self.given[name].shape)
        return tuple(self._open(name).get_slice(name).get_shape())

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows ``start..stop-1`` of the tensor's first dimension."""
        if name in self.given:
            return self.given[name][start:stop].float()
        tensor: torch.Tensor = self._open(name).get_slice(name)[start:stop]
        return tensor.float()

    def whole(self, name: str) -> torch.Tensor:
        """The tensor."""
        return self.rows(name, 0, self.shape(name)[0])

    def _open(self, name: str) -> Any:
        from safetensors import safe_open

        return safe_open(self._file(name), framework="pt")

    def _file(self, name: str) -> Path:
        if name not in self.files:
            raise UserError(
                f"{self.folder}: no weight {name} in its safetensors files; meta_init reads weights"
                " by the names that the model has in transformers"
            )
        return self.files[name]


def _files_by_name(folder: Path) -> dict[str, Path]:
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = json.loads(index.read_text())["weight_map"]
        return {name: folder / file for name, file in named.items()}
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(f"{folder}: no model.safetensors in it")
    with safe_open(path, framework="pt") as file:
        return dict.fromkeys(file.keys(), path)


def seeded_uniform(shape: tuple[int, ...], seed: int, name: str) -> torch.Tensor:
    """Uniform in ``+-1/sqrt(shape[1])``, by ``seed`` and ``name`` alone: the first A of LoRA.

    That is Kaiming's with ``a=sqrt(5)``, as PEFT and ``nn.Linear`` start.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
