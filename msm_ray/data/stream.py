"""Blocks of a corpus that is still being written: appended, committed window by window, and read.

    stream.json      what the stream is: block_tokens, pad_id, window_blocks, and the caller's words
    windows.jsonl    one line a window: its documents, blocks, tokens, shards
    watermark.json   replaced whole: how much of the log counts, and whether it is all
    shard-*.arrow, manifest.json (at the end)   as ``msm_ray.data.blocks`` writes them

Documents arrive in one order, that of their plan. What is below the watermark never changes; what a
killed writer left above it is written again by the next, byte for byte, from the documents that
follow ``StreamWriter.documents``. A finished stream is read by ``BlockReader`` as well.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msm_ray.data.blocks import MANIFEST_FILE, BlockReader, BlockWriter, as_json, write_durably
from msm_ray.data.packing import WINDOW_BLOCKS, Window, pack_windows
from msm_ray.data.tokens import TokenizedDocuments, joined
from msm_ray.errors import UserError
from msm_ray.streams import wait_while_running

HEADER_FILE = "stream.json"
LOG_FILE = "windows.jsonl"
WATERMARK_FILE = "watermark.json"


@dataclass(frozen=True)
class Watermark:
    """What is committed: so many windows, their documents and blocks, so many bytes of the log.

    ``documents`` counts those given to the writer; ``refused`` of them, and ``cut``, as in the pack
    stage, by component and in all.
    """

    windows: int = 0
    documents: int = 0
    blocks: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    cut: int = 0
    log_bytes: int = 0
    is_final: bool = False
    refused: dict[str, dict[str, int]] = field(default_factory=dict)


def read_watermark(directory: Path) -> Watermark:
    """The watermark of a stream, zero where nothing is committed yet."""
    try:
        values = json.loads((directory / WATERMARK_FILE).read_bytes())
    except FileNotFoundError:
        return Watermark()
    return Watermark(**{f.name: values[f.name] for f in fields(Watermark)})


def _log(directory: Path, start: int, stop: int) -> list[dict[str, Any]]:
    """The windows in these bytes of the log."""
    if stop == start:
        return []
    with (directory / LOG_FILE).open("rb") as file:
        file.seek(start)
        return [json.loads(line) for line in file.read(stop - start).splitlines()]


class StreamWriter:
    """Appends documents, packs a window as soon as it is complete, and raises the watermark.

    Args:
        directory: made if it is not there; a stream that lies there is continued.
        block_tokens: T.
        pad_id: the token of padding.
        components: the names that documents come under, where a training is to follow the stream.
        whole: components whose documents are not cut unless they are longer than a block.
        window_blocks: how many blocks' tokens make a window.
        blocks: how many blocks the stream is to have in all, None: as many as its documents fill.
            The last window ends with the document that brings it to the tokens of those that are
            missing; blocks beyond the last are left out.
        facts: what else the header says (where the documents come from, the seed, ...).

    Raises:
        UserError: another stream lies there, or another writer has it open.
    """

    def __init__(
        self,
        directory: Path,
        block_tokens: int,
        pad_id: int,
        *,
        components: Sequence[str] = (),
        whole: Sequence[str] = (),
        window_blocks: int = WINDOW_BLOCKS,
        blocks: int | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.header: dict[str, Any] = {
            "block_tokens": block_tokens,
            "pad_id": pad_id,
            "components": sorted(components),
            "whole": sorted(whole),
            "window_blocks": window_blocks,
            "blocks": blocks,
            "facts": dict(facts or {}),
        }
        self._lock = _lock(directory)
        _same_header(directory, self.header)
        self.watermark = read_watermark(directory)
        log = _log(directory, 0, self.watermark.log_bytes)
        shards = [shard for window in log for shard in window["shards"]]
        self._blocks = BlockWriter(directory, block_tokens, shards, len(log))
        if (directory / LOG_FILE).exists():  # what stands beyond the watermark does not count
            os.truncate(directory / LOG_FILE, self.watermark.log_bytes)
        self._pending: list[tuple[str, TokenizedDocuments]] = []
        self._tokens = 0  # pending
        self._refused: dict[str, dict[str, int]] = {}  # of the pending
        self._documents = self.watermark.documents

    @property
    def documents(self) -> int:
        """How many documents count as given: the next to append is the one of this number."""
        return self._documents

    @property
    def is_full(self) -> bool:
        """Whether the stream has all the blocks that it is to have."""
        return self._left() == 0

    def append(self, component: str, docs: TokenizedDocuments) -> None:
        """Take in the next documents in the order of the plan; commit the windows they complete."""
        if self.watermark.is_final:
            raise UserError(f"{self.directory}: the stream is finished, nothing can be appended")
        for at, targets in enumerate(docs.targets.tolist()):
            one = docs.select(np.array([at]))
            self._documents += 1
            if targets == 0:
                _count(self._refused, component, documents=1, tokens=len(one.tokens))
                continue
            self._pending.append((component, one))
            self._tokens += len(one.tokens)
            if self._tokens >= self._window_blocks() * self._blocks.block_tokens:
                self._commit()
                if self.is_full:
                    return

    def close(self) -> None:
        """Commit what is pending as the last window, write the manifest, and end the stream."""
        if not self.watermark.is_final:
            if self._pending or self._refused:
                self._commit()
            mark = self.watermark
            if mark.blocks == 0:
                raise UserError(
                    f"{self.directory}: no token of {mark.documents} documents is a target; there "
                    "is nothing to learn"
                )
            facts = {k: v for k, v in asdict(mark).items() if k in ("documents", "cut", "refused")}
            padding = 1 - mark.tokens / (mark.blocks * self._blocks.block_tokens)
            self._blocks.finish({**facts, "padding": padding, "stream": self.header})
            self._raise(is_final=True)
        os.close(self._lock)

    def abandon(self) -> None:
        """Let go of the stream without ending it; another writer may continue it."""
        os.close(self._lock)

    def _left(self) -> int | None:
        """Blocks that the stream is still to have; None: no limit."""
        blocks = self.header["blocks"]
        return None if blocks is None else int(blocks) - self.watermark.blocks

    def _window_blocks(self) -> int:
        """Of the window that is pending."""
        most, left = int(self.header["window_blocks"]), self._left()
        return most if left is None else min(most, left)

    def _commit(self) -> None:
        """Pack the pending documents as one window, write it, and make it count."""
        number = self._blocks.window
        window = self._pack()
        shards = [] if window is None else self._blocks.add(window.blocks)
        self._blocks.window = number + 1  # one in which all was refused has no shard
        for name, tokens in ({} if window is None else window.refused).items():
            _count(self._refused, name, block_tokens=tokens)
        line = {"window": number, "documents": self._documents, "shards": shards}
        data = (json.dumps(line, sort_keys=True) + "\n").encode()
        with (self.directory / LOG_FILE).open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mark = self.watermark
        refused = {name: dict(counts) for name, counts in mark.refused.items()}
        for name, counts in self._refused.items():
            _count(refused, name, **counts)
        self._pending, self._tokens, self._refused = [], 0, {}
        self._raise(
            windows=number + 1,
            documents=self._documents,
            blocks=mark.blocks + sum(shard["blocks"] for shard in shards),
            tokens=mark.tokens + sum(shard["tokens"] for shard in shards),
            loss_tokens=mark.loss_tokens + sum(shard["loss_tokens"] for shard in shards),
            cut=mark.cut + (0 if window is None else window.cut),
            log_bytes=mark.log_bytes + len(data),
            refused=refused,
        )

    def _pack(self) -> Window | None:
        if not self._pending:
            return None
        names = sorted({name for name, _ in self._pending})
        packed = list(
            pack_windows(
                [(name, joined([d for n, d in self._pending if n == name])) for name in names],
                np.array([names.index(name) for name, _ in self._pending]),
                _numbered([name for name, _ in self._pending]),
                self._blocks.block_tokens,
                self.header["pad_id"],
                whole=[name in self.header["whole"] for name in names],
                window_blocks=self._window_blocks(),
            )
        )
        assert len(packed) == 1, "what is pending is one window"
        return replace(packed[0], blocks=packed[0].blocks.rows(0, self._left()))

    def _raise(self, **changes: Any) -> None:
        self.watermark = replace(self.watermark, **changes)
        write_durably(self.directory / WATERMARK_FILE, as_json(asdict(self.watermark)))


def _count(
    refused: dict[str, dict[str, int]],
    name: str,
    documents: int = 0,
    tokens: int = 0,
    block_tokens: int = 0,
) -> None:
    counts = refused.setdefault(name, {"documents": 0, "tokens": 0, "block_tokens": 0})
    counts["documents"] += documents
    counts["tokens"] += tokens
    counts["block_tokens"] += block_tokens


def _numbered(names: Sequence[str]) -> NDArray[np.int64]:
    """How many of the same name stand before each."""
    seen: Counter[str] = Counter()
    numbers = []
    for name in names:
        numbers.append(seen[name])
        seen[name] += 1
    return np.array(numbers, dtype=np.int64)


def _lock(directory: Path) -> int:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(f"{directory}: another writer has this stream open") from None
    return descriptor


def _same_header(directory: Path, header: Mapping[str, Any]) -> None:
    path = directory / HEADER_FILE
    if not path.exists():
        write_durably(path, as_json(header))
    elif path.read_bytes() != as_json(header):
        there = json.loads(path.read_bytes())
        other = [name for name in header if there.get(name) != header[name]]
        raise UserError(
            f"{directory}: another stream lies there, its {', '.join(other)} "
            f"{'is' if len(other) == 1 else 'are'} {', '.join(repr(there.get(n)) for n in other)}"
        )


class StreamReader(BlockReader):
    """A ``BlockReader`` of a stream: what is committed when it looks, more after ``refresh``.

    ``planned`` is known from the beginning where the stream's length is, else it is None.
    ``len()``, ``tokens``, ``loss_tokens``, ``windows`` cover what is committed; ``is_final`` says
    whether that is all. ``manifest_sha256`` is the hash of the header, the same before and after
    the end. ``manifest`` is the header with the watermark's counts until there is a manifest.

    Args:
        directory: a stream's, on a file system that this process and the writer share.

    Raises:
        UserError: no stream there, or a shard that is not what the log says.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / HEADER_FILE
        if not path.is_file():
            raise UserError(f"{directory}: no stream of blocks there ({path.name} is missing)")
        data = path.read_bytes()
        self._header: dict[str, Any] = json.loads(data)
        self.manifest_sha256 = hashlib.sha256(data).hexdigest()
        self._start(directory, int(self._header["block_tokens"]))
        self.planned = self._header["blocks"]
        self.components = self._header["components"]
        self.by_window = True
        self.is_final = False
        self._log_bytes = 0
        self.refresh()

    def refresh(self) -> None:
        """Take in what has been committed since the last look."""
        mark = read_watermark(self.directory)
        lines = _log(self.directory, self._log_bytes, mark.log_bytes)
        self._extend(len(lines), [shard for line in lines for shard in line["shards"]], False)
        self._log_bytes = mark.log_bytes
        self.is_final = mark.is_final
        self.manifest = {**self._header, **asdict(mark)}
        if mark.is_final:
            self.manifest = json.loads((self.directory / MANIFEST_FILE).read_bytes())


def follow_blocks(directory: Path) -> StreamReader:
    """The reader of the stream that a running stage writes, once there are blocks.

    Raises:
        StreamStopped: the stage has ended before.
    """
    wait_while_running(directory, (directory / HEADER_FILE).is_file)
    reader = StreamReader(directory)
    wait_for_blocks(reader, 1)
    return reader


def wait_for_blocks(reader: StreamReader, count: int) -> None:
    """Wait until ``count`` blocks are there, or all that there will be.

    Raises:
        StreamStopped: the stage that writes them has ended before.
    """

    def there() -> bool:
        if len(reader) < count and not reader.is_final:
            reader.refresh()
        return len(reader) >= count or reader.is_final

    wait_while_running(reader.directory, there)
