"""Single items of a comparison, for its report: their rates by arm, and answers side by side.

An evaluate stage leaves the value and the answer of every item in ``rows.parquet``
(``EVAL_ROW_SCHEMA``). Here the rows of all cells are joined, and of the items a few are chosen: by
how far the arms differ on them, and at random by a hash, so that the same run shows the same ones.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from msm_ray.artifact import Record, Store

if TYPE_CHECKING:
    from msm_ray.cells import Cell
    from msm_ray.stage import Stage

ROWS_FILE, ITEMS_FILE = "rows.parquet", "items.parquet"
# How much a report holds. A page of 113 stages, 6 arms and 5 evaluations is to stay below 1 MB.
NUMBERS = 4_000  # rates in the tables by item, over all evaluations and arms
ITEMS_MOST, ITEMS_LEAST = 120, 30  # of one evaluation
SAMPLES_MOST, SAMPLES_LEAST = 8, 2
SAMPLE_CHARS = 150_000  # of all samples together
RUNS_SHOWN = 2  # of one arm's answers to an item
PROMPT_CHARS, ANSWER_CHARS = 500, 1_500
RANDOM_SHARE = 1 / 3  # of the chosen items


@dataclass(eq=False)
class _Item:
    """An item of one evaluation and what was found of it; `_Reader` makes one of each.

    ``sums`` has the sum and the number of its values by arm, ``base`` a base model that has it.
    """

    eval: str
    id: str
    prompt: str
    domain: str
    base: str
    sums: dict[str, list[float]] = field(default_factory=dict)
    name: str = ""
    chosen: str = ""

    @cached_property
    def hash(self) -> str:
        """What decides between items: the same in every run that asks it."""
        return hashlib.sha256(json.dumps([self.eval, self.id, self.prompt]).encode()).hexdigest()

    @property
    def rates(self) -> dict[str, float]:
        """The mean over the runs, by arm."""
        return {arm: total / n for arm, (total, n) in self.sums.items()}

    @property
    def spread(self) -> float:
        """How far the arms differ."""
        rates = self.rates.values()
        return max(rates) - min(rates) if rates else 0.0


def gather(cells: Sequence[Cell], records: Mapping[str, Record], store: Store) -> dict[str, Any]:
    """``items``, ``items_total``, ``item_sets`` and ``samples`` of a report.

    Only of cells that are there and that have rows. ``items_total`` is the number of items by
    evaluation, of which ``items`` shows some; ``item_sets`` is a hash of all of them by evaluation
    and base, by which two reports tell whether they asked the same.
    """
    runs, reader = _runs(cells, records), _Reader(records, store)
    sets: dict[str, dict[str, set[_Item]]] = {}
    said: dict[str, list[str]] = {}
    for cell in runs:
        rows = reader.rows(cell)
        for name, digest in _said(rows):
            said.setdefault(name, []).append(digest)
        for item, value in reader.values(cell, rows):
            sets.setdefault(item.eval, {}).setdefault(cell.base, set()).add(item)
            if value is not None:
                total = item.sums.setdefault(cell.arm, [0.0, 0])
                total[0] += value
                total[1] += 1
    by_eval: dict[str, list[_Item]] = {}
    for item in reader.items:
        by_eval.setdefault(item.eval, []).append(item)
    room = _room(len(by_eval), len({cell.arm for cell in runs}))
    shown = {name: _choose(own, room) for name, own in by_eval.items()}
    spoken = {name: own for name, own in shown.items() if name in _own_words(said)}
    _name(reader.items)
    return {
        "items": {n: [_shown(item) for item in own] for n, own in shown.items()},
        "items_total": {name: len(own) for name, own in by_eval.items()},
        "item_sets": {n: {b: _digest(own) for b, own in of.items()} for n, of in sets.items()},
        "samples": _samples(runs, reader, spoken),
    }


def _runs(cells: Sequence[Cell], records: Mapping[str, Record]) -> list[Cell]:
    """The cells with rows. Seeds that share a checkpoint (a base has no seed) count once an arm."""
    kept: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        record = records.get(cell.stage.id)
        if record is not None and any(f.path == ROWS_FILE for f in record.files):
            kept.setdefault((cell.arm, cell.stage.id), cell)
    return list(kept.values())


def _said(rows: pa.Table) -> Iterable[tuple[str, str]]:
    """Evaluations with a digest of their answers; "" where none is in words, as with a loss."""
    for name in pc.unique(rows["eval"]).to_pylist():
        own = rows.filter(pc.equal(rows["eval"], name)).sort_by([("id", "ascending")])
        answers = own["answer"].to_pylist()
        text = json.dumps([own["id"].to_pylist(), answers])
        yield name, hashlib.sha256(text.encode()).hexdigest() if any(answers) else ""


def _own_words(said: Mapping[str, Sequence[str]]) -> set[str]:
    """The evaluations with answers of their own: one of those that only count them differently."""
    first: dict[tuple[str, ...], str] = {}
    for name, digests in said.items():
        if any(digests):
            first.setdefault(tuple(digests), name)
    return set(first.values())


class _Reader:
    """Reads the rows of cells, and what was asked from the items' tables beside them."""

    def __init__(self, records: Mapping[str, Record], store: Store) -> None:
        self._records, self._store = records, store
        self._prompts: dict[str, dict[str, tuple[str, str]]] = {}  # by artifact, then by item
        self._items: dict[tuple[str, str, str], _Item] = {}

    @property
    def items(self) -> list[_Item]:
        """All items that were read."""
        return list(self._items.values())

    def rows(self, cell: Cell) -> pa.Table:
        """A cell's rows (``EVAL_ROW_SCHEMA``), the first order of every pair first."""
        rows = pq.ParquetFile(self._store.fetch(cell.stage.id) / ROWS_FILE).read()
        if "prompt" not in rows.column_names:
            rows = rows.append_column("prompt", pa.nulls(len(rows), pa.string()))
        return rows.sort_by([("order", "ascending"), ("id", "ascending")])

    def values(self, cell: Cell, rows: pa.Table) -> Iterable[tuple[_Item, float | None]]:
        """The value of each of its items: the mean of one that was asked several times."""
        finite = pc.is_finite(rows["value"])
        value = pc.if_else(finite, rows["value"], pa.scalar(None, pa.float64()))
        keys = ["eval", "id", "domain"]
        rows = rows.select([*keys, "prompt"]).append_column("value", value)
        made = rows.group_by(keys, use_threads=False).aggregate(
            [("value", "mean"), ("prompt", "first")]
        )
        made = made.rename_columns([*keys, "value", "prompt"])
        yield from zip(self.of(cell, made), made["value"].to_pylist(), strict=True)

    def of(self, cell: Cell, rows: pa.Table) -> list[_Item]:
        """The item of each row. Two tables of items may call different ones the same."""
        prompts: dict[str, tuple[str, str]] = {}
        for stage in cell.stage.inputs.values():
            prompts |= self._prompts_of(stage)
        columns = [rows[name].to_pylist() for name in ("eval", "id", "domain", "prompt")]
        found = []
        for name, id, domain, own in zip(*columns, strict=True):
            asked = prompts.get(id, ("", ""))[name.endswith("_text")]
            item = self._items.get((name, id, asked))
            if item is None:
                # A row's own word is what was asked; it may differ between arms.
                item = _Item(name, id, own or asked, domain or "", cell.base)
                self._items[name, id, asked] = item
            found.append(item)
        return found

    def _prompts_of(self, stage: Stage) -> dict[str, tuple[str, str]]:
        """Item id -> (its prompt, the prompt for a free answer); empty for what holds no items."""
        record = self._records.get(stage.id)
        if record is None or not any(f.path == ITEMS_FILE for f in record.files):
            return {}
        if stage.id not in self._prompts:
            file = pq.ParquetFile(self._store.fetch(stage.id) / ITEMS_FILE)
            columns = [n for n in ("id", "prompt", "open_prompt") if n in file.schema_arrow.names]
            self._prompts[stage.id] = {
                row["id"]: (
                    row.get("prompt") or "",
                    row.get("open_prompt") or row.get("prompt") or "",
                )
                for row in file.read(columns=columns).to_pylist()
            }
        return self._prompts[stage.id]


# ----------------------------------------------------------------------------------- the choice


def _room(evals: int, arms: int) -> int:
    """How many items of each evaluation a report shows."""
    return max(ITEMS_LEAST, min(ITEMS_MOST, NUMBERS // max(1, evals * arms)))


def _choose(own: Sequence[_Item], room: int) -> list[_Item]:
    """Those on which the arms differ most, then some at random; all where there is room."""
    by_hash = sorted(own, key=lambda item: item.hash)
    if len(own) <= room:
        for item in by_hash:
            item.chosen = "all"
        return by_hash
    most = room - math.ceil(room * RANDOM_SHARE)
    differ = [i for i in sorted(by_hash, key=lambda i: -i.spread)[:most] if i.spread > 0]
    for item in differ:
        item.chosen = "differ"
    rest = [item for item in by_hash if not item.chosen][: room - len(differ)]
    for item in rest:
        item.chosen = "random"
    return [*differ, *rest]


def _name(items: Sequence[_Item]) -> None:
    """Give every item a name of its own: its id, behind the base's where several share the id."""
    count = Counter((item.eval, item.id) for item in items)
    used: Counter[tuple[str, str]] = Counter()
    for item in items:
        several = count[item.eval, item.id] > 1
        item.name = f"{item.base}/{item.id}" if several else item.id
        used[item.eval, item.name] += 1
        if (n := used[item.eval, item.name]) > 1:  # the same base was asked another thing
            item.name += f" ({n})"


def _shown(item: _Item) -> dict[str, Any]:
    return {
        "id": item.name,
        "domain": item.domain,
        "prompt": _cut(item.prompt, PROMPT_CHARS),
        "rates": {arm: round(rate, 4) for arm, rate in item.rates.items()},
        "chosen": item.chosen,
    }


def _cut(text: str, length: int) -> str:
    """``text``, cut to ``length`` characters, with how many were left out."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text) - length} more)"


def _digest(own: Iterable[_Item]) -> str:
    return hashlib.sha256("".join(sorted(i.hash for i in own)).encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------------- the answers


def _samples(
    runs: Sequence[Cell], reader: _Reader, shown: Mapping[str, Sequence[_Item]]
) -> list[dict[str, Any]]:
    """Every arm's answers to a few of the chosen items, as many as there is room for."""
    picked = {name: _pick(own) for name, own in shown.items()}
    answers = _answers(runs, reader, {i for own in picked.values() for i in own})
    order = [i for row in zip(*_padded(picked.values()), strict=True) for i in row if i]
    kept: list[_Item] = []
    used = 0
    for rank, item in enumerate(order):
        used += len(item.prompt) + sum(map(len, _texts(answers[item])))
        if used > SAMPLE_CHARS and rank >= SAMPLES_LEAST * len(picked):
            break
        kept.append(item)
    return [
        {
            "eval": item.eval,
            "id": item.name,
            "domain": item.domain,
            "prompt": _cut(item.prompt, ANSWER_CHARS),
            "chosen": item.chosen,
            "answers": answers[item],
        }
        for name in shown
        for item in kept
        if item.eval == name
    ]


def _pick(own: Sequence[_Item]) -> list[_Item]:
    """Of the items in the tables, as many that differ as others."""
    differ = [i for i in own if i.chosen == "differ"] or sorted(own, key=lambda i: -i.spread)
    taken = set(differ)
    rest = [i for i in own if i not in taken][: SAMPLES_MOST // 2]
    return [*differ[: SAMPLES_MOST - len(rest)], *rest]


def _padded(lists: Iterable[Sequence[_Item]]) -> list[list[_Item | None]]:
    return [[*own, *[None] * (SAMPLES_MOST - len(own))] for own in lists]


def _texts(answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    return [a["text"] for given in answers.values() for a in given]


def _answers(
    runs: Sequence[Cell], reader: _Reader, wanted: set[_Item]
) -> dict[_Item, dict[str, list[dict[str, Any]]]]:
    """The first runs' answers by arm, for each item of ``wanted``."""
    ids = pa.array(sorted({item.id for item in wanted}), pa.string())
    found: dict[_Item, dict[str, list[dict[str, Any]]]] = {item: {} for item in wanted}
    for cell in runs:
        rows = reader.rows(cell)
        rows = rows.filter(pc.is_in(rows["id"], ids))
        first: dict[_Item, int] = {}  # of an item that was asked in two orders only one is shown
        for item, row in zip(reader.of(cell, rows), rows.to_pylist(), strict=True):
            if item not in wanted or first.setdefault(item, row["order"]) != row["order"]:
                continue
            given = found[item].setdefault(cell.arm, [])
            if len(given) < RUNS_SHOWN:
                given.append(_answer(cell, row))
    return found


def _answer(cell: Cell, row: Mapping[str, Any]) -> dict[str, Any]:
    value = row["value"]
    return {
        "base": cell.base,
        "seed": cell.seed,
        "text": _cut(row["answer"] or "", ANSWER_CHARS),
        "value": round(value, 4) if value is not None and math.isfinite(value) else None,
        "status": row["status"],
    }
