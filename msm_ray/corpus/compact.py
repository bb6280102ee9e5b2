"""What has to be remembered of every document of a corpus, in few bytes each.

Python's own sets and dicts take 100 to 200 bytes an entry, a document of a corpus makes some twenty
entries, and a corpus may have a million documents. These four take up to 32 (`Digests`), 10 more
than its text (`Strings`), up to 24 a band (`BandIndex`), and 9 (`Spool`).
"""

from __future__ import annotations

import os
import sys
import tempfile
from array import array
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.uint64]

_SEED = 20_261_121  # of the hash of a band; which one it is changes no answer
_FIRST_SIZE = 256  # documents that a table has room for at first
SPOOL_BYTES = 4 * 2**20  # of a spool that wait in memory to be written together


class Digests:
    """Numbers digests of 16 bytes, 0, 1, 2 .. as they come.

    A table of numbers, open addressing with linear probing, at most half full.
    """

    WIDTH = 16

    def __init__(self) -> None:
        self._digests = bytearray()
        self._table = array("I", bytes(4 * 2 * _FIRST_SIZE))  # a digest's number + 1; 0 is free

    def __len__(self) -> int:
        return len(self._digests) // self.WIDTH

    @property
    def nbytes(self) -> int:
        """Bytes of memory that are held."""
        return sys.getsizeof(self._digests) + sys.getsizeof(self._table)

    def __getitem__(self, number: int) -> bytes:
        """The digest with a number."""
        return bytes(self._digests[number * self.WIDTH : (number + 1) * self.WIDTH])

    def seen(self, digest: bytes) -> int | None:
        """The number of a digest that was seen before; None for a new one, which is remembered."""
        assert len(digest) == self.WIDTH
        if 2 * len(self) >= len(self._table):
            self._grow()
        slot = self._slot(digest)
        number = self._table[slot]
        if number:
            return number - 1
        self._digests += digest
        self._table[slot] = len(self)
        return None

    def _slot(self, digest: bytes) -> int:
        """Where a digest stands in the table, or the free place where it belongs."""
        table, digests, width = self._table, self._digests, self.WIDTH
        mask = len(table) - 1
        slot = int.from_bytes(digest[:8], "little") & mask
        while number := table[slot]:
            if digests[(number - 1) * width : number * width] == digest:
                break
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        self._table = array("I", bytes(2 * len(self._table) * self._table.itemsize))
        for number in range(len(self)):
            digest = bytes(self._digests[number * self.WIDTH : (number + 1) * self.WIDTH])
            self._table[self._slot(digest)] = number + 1


class Strings:
    """A list of texts that can only be appended to."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = array("Q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of memory that are held."""
        return sys.getsizeof(self._data) + sys.getsizeof(self._ends)

    def append(self, text: str) -> None:
        """Add a text to the end."""
        # surrogatepass: half a surrogate pair is a broken character, not a reason to crash.
        self._data += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._data))

    def __getitem__(self, number: int) -> str:
        start, end = self._ends[number], self._ends[number + 1]
        return self._data[start:end].decode("utf-8", "surrogatepass")


class BandIndex:
    """Locality-sensitive hashing: which earlier sketches agree with one in all hashes of a band.

    Args:
        bands: into how many parts a sketch is divided.
        rows: 32-bit hashes in each part; a sketch may have more than ``bands * rows``, not used.

    Each band has a table of chains: ``heads`` has the newest sketch of every bucket, ``before`` the
    one before it in the same bucket, and ``tags`` the 32-bit hash of the band, whose lower bits are
    the bucket. Numbers are one too high, so that 0 is the end of a chain. 12 bytes a band for each
    sketch that there is room for; the room doubles.

    Two bands that differ have the same tag with probability 2^-32 (multilinear hashing of 32-bit
    words with 64-bit factors is strongly universal: Lemire, Kaser 2014, "Strongly Universal String
    Hashing is Fast"): then a sketch is found that does not agree. What is found is a candidate.
    """

    def __init__(self, bands: int, rows: int) -> None:
        self._bands, self._rows = bands, rows
        random = np.random.RandomState(_SEED)  # its stream never changes
        self._factors = random.randint(0, 2**64, rows + 1, dtype=np.uint64)
        self._count = 0
        self._size = _FIRST_SIZE
        self._heads = self._before = self._tags = np.zeros(0, np.uint32)
        self._tags, self._before, self._heads = (self._empty() for _ in range(3))

    def _empty(self) -> NDArray[np.uint32]:
        """Zeros, [band * size + number or bucket]."""
        return np.zeros(self._bands * self._size, np.uint32)

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of memory that are held."""
        return self._heads.nbytes + self._before.nbytes + self._tags.nbytes

    def tags(self, sketch: NDArray[np.uint32]) -> list[int]:
        """The 32-bit hash of each band of a sketch."""
        parts = sketch[: self._bands * self._rows].reshape(self._bands, self._rows)
        mixed = (parts * self._factors[1:]).sum(axis=1, dtype=np.uint64) + self._factors[0]
        found: list[int] = (mixed >> np.uint64(32)).tolist()
        return found

    def find(self, tags: list[int]) -> list[int]:
        """The numbers of the sketches that have one of the tags in its band, lowest first."""
        # Single elements of a memoryview are read in half the time that those of an array take.
        heads, before, known = self._heads.data, self._before.data, self._tags.data
        found: set[int] = set()
        mask, start = self._size - 1, 0
        for tag in tags:
            number = heads[start + (tag & mask)]
            while number:
                place = start + number - 1
                if known[place] == tag:
                    found.add(number - 1)
                number = before[place]
            start += self._size
        return sorted(found)

    def add(self, tags: list[int]) -> None:
        """Add a sketch by its tags; the first has number 0."""
        if self._count == self._size:
            self._grow()
        heads, before, known = self._heads.data, self._before.data, self._tags.data
        mask, start = self._size - 1, 0
        for tag in tags:
            bucket, place = start + (tag & mask), start + self._count
            known[place], before[place] = tag, heads[bucket]
            heads[bucket] = self._count + 1
            start += self._size
        self._count += 1

    def _grow(self) -> None:
        """Double the room, and divide every chain among the buckets that there are now."""
        old = self._tags.reshape(self._bands, self._size)
        self._size *= 2
        self._heads = self._before = np.zeros(0, np.uint32)  # freed before the new ones are made
        self._tags, self._before, self._heads = (self._empty() for _ in range(3))
        for band, tags in enumerate(old):
            start = band * self._size
            self._tags[start : start + self._count] = tags
            buckets = tags & np.uint32(self._size - 1)
            order = np.argsort(buckets, kind="stable")  # by bucket, and the oldest first in each
            buckets = buckets[order]
            is_same = buckets[1:] == buckets[:-1]
            self._before[start + order[1:]] = np.where(is_same, order[:-1] + 1, 0)
            is_last = np.append(~is_same, True)
            self._heads[start + buckets[is_last].astype(np.int64)] = order[is_last] + 1


class Spool:
    """A list of arrays of 64-bit numbers on disk, which can only be appended to.

    Args:
        folder: where the file is made, once there are more than ``SPOOL_BYTES``; None for the
            system's folder for temporary files. The file has no name, so that it is gone with the
            process, however that ends.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._written = 0  # bytes in the file
        self._waiting = bytearray()  # the bytes after them
        self._ends = array("Q", [0])  # of each array, in numbers

    def __len__(self) -> int:
        return len(self._ends) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of memory that are held; the waiting ones are at most ``SPOOL_BYTES`` and one."""
        return sys.getsizeof(self._waiting) + sys.getsizeof(self._ends)

    def length(self, number: int) -> int:
        """How many numbers an array has."""
        return self._ends[number + 1] - self._ends[number]

    def append(self, values: Values) -> None:
        """Add an array to the end."""
        self._waiting += values.tobytes()
        self._ends.append(self._ends[-1] + len(values))
        if len(self._waiting) >= SPOOL_BYTES:
            if self._file is None:
                if self._folder is not None:
                    self._folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            self._file.write(self._waiting)
            self._file.flush()
            self._written += len(self._waiting)
            self._waiting = bytearray()

    def __getitem__(self, number: int) -> Values:
        start, end = 8 * self._ends[number], 8 * self._ends[number + 1]
        if start >= self._written:
            data = bytes(self._waiting[start - self._written : end - self._written])
        else:  # arrays are written whole
            assert self._file is not None
            data = os.pread(self._file.fileno(), end - start, start)
            assert len(data) == end - start, "the spool's file was cut short"
        return np.frombuffer(data, np.uint64)

    def close(self) -> None:
        """Delete the file. Nothing can be read or added any more."""
        if self._file is not None:
            self._file.close()
