"""What stages of a store share beside their artifacts: small tables of what was paid for once.

    cache/<name>/<writer>.parquet
    cache/<name>/<token>.adding.json      keys that a process is adding now

A stage reads what earlier ones put there and adds its own. Nothing depends on it: without the
folder the same is asked again.
"""

from __future__ import annotations

import io
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.artifact import Store
from msm_ray.claims import Claims

POLL_SECONDS = 0.5
LOOK_SECONDS = 0.1  # between two tries to look at a shelf, which takes no longer than reading it
ADDING = ".adding.json"


class Shelf:
    """The shared tables of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @contextmanager
    def adding(
        self, name: str, schema: pa.Schema, keys: Collection[str]
    ) -> Iterator[tuple[pa.Table, set[str]]]:
        """The rows that are there, and which of ``keys`` are this process's to add meanwhile.

        Those are the ones that are not there and that nobody else is adding: stages side by side do
        not do the same twice, and do not wait for each other either, as long as one has something
        to do. Where all that is missing is being added by others, waits until one of them is done;
        who is killed there leaves his keys to the rest. Rows of other keys may be missing yet:
        call it again for those.

        Args:
            schema: of the rows; its field ``id`` is the key.
            keys: at least one.
        """
        assert keys, "nothing is asked for"
        token = uuid.uuid4().hex
        mark = f"cache/{name}/{token}{ADDING}"
        claims = Claims(self._store)
        try:
            while True:
                with self._held(name):
                    table = self.read(name, schema)
                    missing = set(keys) - set(table["id"].to_pylist())
                    others = self._others(name, claims)
                    mine = missing.difference(*(self._keys(name, other) for other in others))
                    if mine:
                        assert claims.acquire(_claim(name, token))
                        self._store.write_json(mark, sorted(mine))
                if mine or len(missing) < len(set(keys)):
                    break
                while self._others(name, claims) >= others:
                    time.sleep(POLL_SECONDS)
            yield table, mine
        finally:
            try:
                self._store.remove(mark)
            finally:
                claims.close()  # without its claim, a mark is taken away by who looks next

    def _others(self, name: str, claims: Claims) -> set[str]:
        """The tokens of those who are adding; what a dead process left is taken away.

        ``claims`` are the same ones at each look: that a process is gone shows in time.
        """
        found = set()
        for file in self._store.names(f"cache/{name}"):
            token = file.removesuffix(ADDING)
            if token == file:
                continue
            if not claims.acquire(_claim(name, token)):
                found.add(token)
                continue
            self._store.remove(f"cache/{name}/{file}")
            claims.release(_claim(name, token))
        return found

    def _keys(self, name: str, token: str) -> set[str]:
        try:
            return set(self._store.read_json(f"cache/{name}/{token}{ADDING}"))
        except FileNotFoundError:
            return set()  # done since

    @contextmanager
    def _held(self, name: str) -> Iterator[None]:
        """Wait until nobody else looks at ``name``, and keep others waiting meanwhile."""
        claims = Claims(self._store)
        try:
            while not claims.acquire(f"cache-{name}"):
                time.sleep(LOOK_SECONDS)
            yield
        finally:
            claims.close()

    def read(self, name: str, schema: pa.Schema) -> pa.Table:
        """All rows of ``name``, in the order of their writers."""
        tables = [schema.empty_table()]
        for file in self._store.names(f"cache/{name}"):
            if file.endswith(".parquet"):
                data = self._store.read_bytes(f"cache/{name}/{file}")
                tables.append(pq.read_table(io.BytesIO(data), schema=schema))
        return pa.concat_tables(tables)

    def put(self, name: str, writer: str, table: pa.Table) -> None:
        """Add a table under its writer's name, in the place of an earlier one of the same."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        self._store.write_bytes(f"cache/{name}/{writer}.parquet", buffer.getvalue())


def _claim(name: str, token: str) -> str:
    return f"cache-{name}-{token}"
