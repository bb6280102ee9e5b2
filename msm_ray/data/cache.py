"""Tokenized documents on disk: written in batches, mapped into memory when they are read.

tokens.bin, loss.bin   all token ids (int32) and loss flags (uint8), one after another
offsets.npy            [N + 1] where each document begins
ids.bin, ids.npy       all ids as UTF-8, and [N + 1] where each begins
cache.json             written last: the facts that the writer was given
"""

from __future__ import annotations

import json
import shutil
from array import array
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from msm_ray.data.blocks import as_json, write_durably
from msm_ray.data.tokens import TokenizedDocuments

DONE_FILE = "cache.json"


class CacheWriter:
    """Appends documents to a cache; a context manager. What lay in the directory is removed.

    Memory: 16 bytes a document.
    """

    def __init__(self, directory: Path) -> None:
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(parents=True)
        self.directory = directory
        self._stack = ExitStack()
        self._files = {
            name: self._stack.enter_context((directory / name).open("wb"))
            for name in ("tokens.bin", "loss.bin", "ids.bin")
        }
        self._lengths = array("q")
        self._id_lengths = array("q")
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def add(self, docs: TokenizedDocuments) -> None:
        """Append documents."""
        self._files["tokens.bin"].write(docs.tokens.astype("<i4").tobytes())
        self._files["loss.bin"].write(docs.loss.tobytes())
        encoded = [str(name).encode() for name in docs.ids]
        self._files["ids.bin"].write(b"".join(encoded))
        self._lengths.extend(docs.lengths.tolist())
        self._id_lengths.extend(len(name) for name in encoded)
        self.tokens += len(docs.tokens)

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Make the cache complete."""
        self._stack.close()
        np.save(self.directory / "offsets.npy", _offsets(self._lengths))
        np.save(self.directory / "ids.npy", _offsets(self._id_lengths))
        write_durably(self.directory / DONE_FILE, as_json(facts))


def _offsets(lengths: array[int]) -> NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(np.frombuffer(lengths, dtype=np.int64), out=offsets[1:])
    return offsets


def open_cache(directory: Path) -> tuple[TokenizedDocuments, dict[str, Any]] | None:
    """The documents of a finished cache and its facts; None if it is not there or not finished."""
    if not (directory / DONE_FILE).is_file():
        return None
    docs = TokenizedDocuments(
        ids=_Ids(_mapped(directory / "ids.bin", "u1"), np.load(directory / "ids.npy")),
        tokens=_mapped(directory / "tokens.bin", "<i4"),
        loss=_mapped(directory / "loss.bin", "u1"),
        offsets=np.load(directory / "offsets.npy"),
    )
    return docs, json.loads((directory / DONE_FILE).read_text())


def _mapped(path: Path, dtype: str) -> NDArray[Any]:
    if path.stat().st_size == 0:  # nothing to map
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")


class _Ids(Sequence[str]):
    """Ids in a mapped file."""

    def __init__(self, text: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self._text = text
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        return self._text[self._offsets[at] : self._offsets[at + 1]].tobytes().decode()
