"""Single items of a comparison, for its report: their rates by arm, and answers side by side.

An evaluate stage leaves the value and the answer of every item in ``rows.parquet``
(``EVAL_ROW_SCHEMA``). Here the rows of all cells are joined, and of the items a few are chosen: by
how far the arms differ on them, and at random by a hash, so that the same run shows the same ones.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from msm_ray.artifact import Record, Store

if TYPE_CHECKING:
    from msm_ray.stage import Stage

ROWS_FILE, ITEMS_FILE = "rows.parquet", "items.parquet"
# How much a report holds. A page of 113 stages, 6 arms and 5 evaluations is to stay below 1 MB.
NUMBERS = 4_000  # rates in the tables by item, over all evaluations and arms
ITEMS_MOST, ITEMS_LEAST = 120, 12  # of one evaluation
SAMPLES_MOST, SAMPLES_LEAST = 8, 2
SAMPLE_CHARS = 150_000  # of all samples together
RUNS_SHOWN = 2  # of one arm's answers to an item
PROMPT_CHARS, ANSWER_CHARS = 500, 1_500
RANDOM_SHARE = 1 / 3  # of the chosen items


class Cell(Protocol):
    """What is read of a comparison's cell."""

    @property
    def arm(self) -> str:
        """The arm's name."""

    @property
    def base(self) -> str:
        """The base model's name."""

    @property
    def seed(self) -> int:
        """The seed."""

    @property
    def stage(self) -> Stage:
        """The evaluate stage."""


@dataclass(frozen=True, eq=False)
class _Item:
    """An item of one evaluation; `_Reader.item` makes one of each, so that it is its own key."""

    eval: str
    id: str
    prompt: str
    domain: str

    @cached_property
    def hash(self) -> str:
        """What decides between items: the same in every run that asks it."""
        return hashlib.sha256(json.dumps([self.eval, self.id, self.prompt]).encode()).hexdigest()


@dataclass
class _Found:
    """What was found of an item: sum and number of its values by arm, and a base that has it."""

    base: str
    sums: dict[str, list[float]] = field(default_factory=dict)
    name: str = ""
    chosen: str = ""

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
    found: dict[_Item, _Found] = {}
    sets: dict[str, dict[str, set[_Item]]] = {}
    said: dict[str, list[str]] = {}
    for cell in runs:
        rows = reader.rows(cell)
        for name, digest in _said(rows):
            said.setdefault(name, []).append(digest)
        for item, value in reader.values(cell, rows):
            entry = found.get(item) or found.setdefault(item, _Found(cell.base))
            sets.setdefault(item.eval, {}).setdefault(cell.base, set()).add(item)
            if value is not None:
                total = entry.sums.setdefault(cell.arm, [0.0, 0])
                total[0] += value
                total[1] += 1
    by_eval: dict[str, list[_Item]] = {}
    for item in found:
        by_eval.setdefault(item.eval, []).append(item)
    room = _room(len(by_eval), len({cell.arm for cell in runs}))
    shown = {name: _choose(own, found, room) for name, own in by_eval.items()}
    spoken = {name: own for name, own in shown.items() if name in _own_words(said)}
    _name(found)
    return {
        "items": {n: [_shown(i, found[i]) for i in own] for n, own in shown.items()},
        "items_total": {name: len(own) for name, own in by_eval.items()},
        "item_sets": {n: {b: _digest(own) for b, own in of.items()} for n, of in sets.items()},
        "samples": _samples(runs, reader, spoken, found),
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
        self._items: dict[tuple[str, str, str, str], _Item] = {}

    def rows(self, cell: Cell) -> pa.Table:
        """A cell's rows (``EVAL_ROW_SCHEMA``)."""
        return pq.ParquetFile(self._store.fetch(cell.stage.id) / ROWS_FILE).read()

    def values(self, cell: Cell, rows: pa.Table) -> Iterable[tuple[_Item, float | None]]:
        """The value of each of its items, the mean where one was asked several times."""
        finite = pc.is_finite(rows["value"])
        value = pc.if_else(finite, rows["value"], pa.scalar(None, pa.float64()))
        keys = [n for n in ("eval", "id", "domain", "prompt") if n in rows.column_names]
        rows = rows.select(keys).append_column("value", value)
        means = rows.group_by(keys).aggregate([("value", "mean")])
        yield from zip(self.of(cell, means), means["value_mean"].to_pylist(), strict=True)

    def of(self, cell: Cell, rows: pa.Table) -> list[_Item]:
        """The item of each row. A row's own prompt is what was asked, else its items' table's."""
        prompts: dict[str, tuple[str, str]] = {}
        for stage in cell.stage.inputs.values():
            prompts |= self._prompts_of(stage)
        names = rows["eval"].to_pylist(), rows["id"].to_pylist(), rows["domain"].to_pylist()
        own = [""] * len(rows)
        if "prompt" in rows.column_names:
            own = rows["prompt"].to_pylist()
        found = []
        for name, id, domain, prompt in zip(*names, own, strict=True):
            asked = prompt or prompts.get(id, ("", ""))[name.endswith("_text")]
            key = (name, id, asked, domain or "")
            item = self._items.get(key)
            found.append(item or self._items.setdefault(key, _Item(*key)))
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


def _choose(own: Sequence[_Item], found: Mapping[_Item, _Found], room: int) -> list[_Item]:
    """Those on which the arms differ most, then some at random; all where there is room."""
    by_hash = sorted(own, key=lambda item: item.hash)
    at_random = len(own) if len(own) <= room else math.ceil(room * RANDOM_SHARE)
    differ = sorted(by_hash, key=lambda item: -found[item].spread)[: room - at_random]
    differ = [item for item in differ if found[item].spread > 0] if len(own) > room else []
    taken = set(differ)
    rest = [item for item in by_hash if item not in taken][: room - len(differ)]
    for items, chosen in ((differ, "differ"), (rest, "all" if len(own) <= room else "random")):
        for item in items:
            found[item].chosen = chosen
    return [*differ, *rest]


def _name(found: Mapping[_Item, _Found]) -> None:
    """Give every item a name of its own: its id, behind the base's where several share the id."""
    first: dict[tuple[str, str], _Item] = {}
    twice: set[tuple[str, str]] = set()
    for item in found:
        if first.setdefault((item.eval, item.id), item) != item:
            twice.add((item.eval, item.id))
    for item, entry in found.items():
        several = (item.eval, item.id) in twice
        entry.name = f"{entry.base}/{item.id}" if several else item.id


def _shown(item: _Item, entry: _Found) -> dict[str, Any]:
    return {
        "id": entry.name,
        "domain": item.domain,
        "prompt": _cut(item.prompt, PROMPT_CHARS),
        "rates": {arm: round(rate, 4) for arm, rate in entry.rates.items()},
        "chosen": entry.chosen,
    }


def _cut(text: str, length: int) -> str:
    """``text``, cut to ``length`` characters, with how many were left out."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text) - length} more)"


def _digest(own: Iterable[_Item]) -> str:
    return hashlib.sha256("".join(sorted(i.hash for i in own)).encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------------- the answers


def _samples(
    runs: Sequence[Cell],
    reader: _Reader,
    shown: Mapping[str, Sequence[_Item]],
    found: Mapping[_Item, _Found],
) -> list[dict[str, Any]]:
    """Every arm's answers to a few of the chosen items, as many as there is room for."""
    picked = {name: _pick(own, found) for name, own in shown.items()}
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
            "id": found[item].name,
            "domain": item.domain,
            "prompt": _cut(item.prompt, ANSWER_CHARS),
            "chosen": found[item].chosen,
            "answers": answers[item],
        }
        for name in shown
        for item in kept
        if item.eval == name
    ]


def _pick(own: Sequence[_Item], found: Mapping[_Item, _Found]) -> list[_Item]:
    """Of the items in the tables, as many that differ as others, in turn."""
    differ = [i for i in own if found[i].chosen == "differ"] or sorted(
        own, key=lambda i: -found[i].spread
    )
    rest = [i for i in own if i not in set(differ)]
    half = SAMPLES_MOST // 2
    return [*differ[: SAMPLES_MOST - min(half, len(rest))], *rest[:half]]


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
        for item, row in zip(reader.of(cell, rows), rows.to_pylist(), strict=True):
            if item not in wanted:
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
