"""Which answers are safely on disk: the bookkeeping that makes a killed run continue.

Each attempt at the open prompts has a folder of its own::

    work/0000/prompts.parquet   what this attempt was to answer
    work/0000/answers/          Parquet files, written by Ray Data
    work/0000/checkpoint/       one file for each *committed* answers file, with the ids in it

Ray Data writes ``X.pending.parquet`` to the checkpoint before the answers file and renames it to
``X.parquet`` after it, so an answers file ``X-0.parquet`` counts if, and only if, there is a
checkpoint file ``X.parquet``. The next attempt reads only prompts without a committed answer. That
filter runs here, before Ray Data starts: Ray's own filter on resume is one more actor that asks for
a CPU and 1 GiB, and on two cores the engine then waits for it for ever.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_PENDING = ".pending.parquet"


class Attempts:
    """The attempts in one work folder.

    Args:
        work: the folder; made if it is not there.
        schema: of the answers, with a column ``id``.
    """

    def __init__(self, work: Path, schema: pa.Schema) -> None:
        self._work = work.resolve()  # read and written by processes in other directories
        self._schema = schema
        self._rows: dict[Path, int] = {}  # of committed files, which never change
        self._returned: set[Path] = set()  # by `unread`
        self._work.mkdir(parents=True, exist_ok=True)

    def folders(self) -> list[Path]:
        """The attempts so far, oldest first."""
        return sorted(p for p in self._work.iterdir() if p.name.isdigit())

    def open_new(self, prompts: pa.Table) -> Path:
        """Make the folder of the next attempt, with its prompts in it, and return it."""
        names = [int(p.name) for p in self.folders()]
        folder = self._work / f"{max(names, default=-1) + 1:04d}"
        folder.mkdir()
        pq.write_table(prompts, folder / "prompts.parquet")
        return folder

    def count_committed(self) -> int:
        """How many answers are committed; cheap enough to ask every second."""
        for file in self._commits():
            if file not in self._rows:
                self._rows[file] = pq.read_metadata(file).num_rows
        return sum(self._rows.values())

    def committed(self) -> pa.Table:
        """All committed answers, in no particular order."""
        table = self._read(self._commits())
        ids = table["id"].to_pylist()
        assert len(set(ids)) == len(ids), "an id was answered twice"
        return table

    def unread(self) -> pa.Table:
        """Those committed answers that no earlier call has returned."""
        commits = [file for file in self._commits() if file not in self._returned]
        self._returned.update(commits)
        return self._read(commits)

    def _read(self, commits: list[Path]) -> pa.Table:
        tables = []
        for commit in commits:
            answers = commit.parent.parent / "answers"
            for file in sorted(answers.glob(f"{commit.stem}-*.parquet")):
                tables.append(pq.read_table(file).select(self._schema.names).cast(self._schema))
        return pa.concat_tables(tables) if tables else self._schema.empty_table()

    def _commits(self) -> list[Path]:
        return [
            file
            for folder in self.folders()
            for file in sorted((folder / "checkpoint").glob("*.parquet"))
            if not file.name.endswith(_PENDING)
        ]
