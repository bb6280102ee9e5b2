"""What stages of a store share beside their artifacts: small tables of what was paid for once.

    cache/<name>/<writer>.parquet

A stage reads what earlier ones put there and adds its own. Nothing depends on it: without the
folder the same is asked again.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from msm_ray.artifact import Store
from msm_ray.claims import Claims

POLL_SECONDS = 0.5


class Shelf:
    """The shared tables of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Wait until nobody else adds to ``name``, and keep others waiting meanwhile.

        So that two stages side by side do not both ask for what they have in common.
        """
        claims = Claims(self._store)
        try:
            while not claims.acquire(f"cache-{name}"):
                time.sleep(POLL_SECONDS)
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
