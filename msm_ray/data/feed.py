"""Rows that are still being made: appended in their order, committed, and followed by a reader.

rows.jsonl       one row a line
committed.json   replaced whole: how many rows and bytes of them count, and whether that is all
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msm_ray.data.blocks import as_json, write_durably
from msm_ray.streams import wait_while_running

ROWS_FILE = "rows.jsonl"
COMMITTED_FILE = "committed.json"


def _committed(directory: Path) -> tuple[int, int, bool]:
    """Rows, bytes, and whether there will be no more."""
    try:
        values = json.loads((directory / COMMITTED_FILE).read_bytes())
    except FileNotFoundError:
        return 0, 0, False
    return int(values["rows"]), int(values["bytes"]), bool(values["is_final"])


class FeedWriter:
    """Appends rows to the feed in a directory, which is made; one that lies there is continued.

    ``rows``: how many count; the next to add is the one of this number.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.rows, self._bytes, self.is_final = _committed(directory)
        with (directory / ROWS_FILE).open("ab") as file:
            file.truncate(self._bytes)  # what was not committed does not count

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows and commit them."""
        assert not self.is_final, "the feed has ended"
        data = "".join(json.dumps(dict(row)) + "\n" for row in rows).encode()
        with (self._directory / ROWS_FILE).open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.rows += len(rows)
        self._bytes += len(data)
        self._commit()

    def close(self) -> None:
        """Say that this is all."""
        self.is_final = True
        self._commit()

    def _commit(self) -> None:
        values = {"rows": self.rows, "bytes": self._bytes, "is_final": self.is_final}
        write_durably(self._directory / COMMITTED_FILE, as_json(values))


def follow(directory: Path) -> Iterator[list[dict[str, Any]]]:
    """The rows of a feed in their order, as many at a time as are there, to its end.

    Raises:
        StreamStopped: the stage that writes it has ended before.
    """
    read, final = 0, False
    while not final:
        found: list[tuple[int, bool]] = []

        def there(read: int = read, found: list[tuple[int, bool]] = found) -> bool:
            _, size, is_final = _committed(directory)
            found[:] = [(size, is_final)]
            return size > read or is_final

        wait_while_running(directory, there)
        ((size, final),) = found
        if size > read:
            with (directory / ROWS_FILE).open("rb") as file:
                file.seek(read)
                lines = file.read(size - read).splitlines()
            read = size
            yield [json.loads(line) for line in lines]
