"""Which items and answers a report shows: the same ones every time, and none under a wrong name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msm_ray.artifact import Record, Store
from msm_ray.cells import Cell
from msm_ray.items import ITEMS_MOST, RUNS_SHOWN, gather
from msm_ray.records import EVAL_ITEM_SCHEMA, EVAL_ROW_SCHEMA
from msm_ray.stage import Stage


class World:
    """A store with items by base, and the rows of each cell."""

    def __init__(self, tmp: Path) -> None:
        self.tmp, self.store = tmp, Store(str(tmp / "store"))
        self.cells: list[Cell] = []
        self.records: dict[str, Record] = {}
        self.asked: dict[str, Stage] = {}

    def items(self, base: str, prompts: dict[str, str]) -> None:
        """Items of a base: id -> prompt."""
        stage = self._stage("items", {"base": base}, {})
        rows = [
            {"id": i, "eval": "choice", "prompt": f"{p} i would", "open_prompt": p}
            for i, p in prompts.items()
        ]
        self._commit(stage, "items.parquet", rows, EVAL_ITEM_SCHEMA)
        self.asked[base] = stage

    def cell(self, arm: str, base: str, seed: int, rows: list[dict[str, Any]]) -> None:
        """A cell with these rows; what a row does not say is plain."""
        inputs = {"items": self.asked[base]} if base in self.asked else {}
        stage = self._stage("evaluate", {"arm": arm, "base": base, "seed": seed}, inputs)
        plain = {"eval": "choice", "domain": "books", "answer": "", "status": "ok"}
        plain |= {"order": 0, "weight": 1.0}
        schema = EVAL_ROW_SCHEMA
        if any("prompt" in r for r in rows):
            schema = schema.append(pa.field("prompt", pa.string()))
        self._commit(stage, "rows.parquet", [{**plain, **r} for r in rows], schema)
        self.cells.append(Cell(arm, base, seed, stage, ("choice",)))

    def _stage(self, kind: str, config: dict[str, Any], inputs: dict[str, Stage]) -> Stage:
        return Stage(kind=kind, version="1", config=config, inputs=inputs, run="x:y")

    def _commit(self, stage: Stage, name: str, rows: list[dict[str, Any]], schema: Any) -> None:
        out = self.tmp / stage.id
        out.mkdir()
        pq.write_table(pa.Table.from_pylist(rows, schema), out / name)
        inputs = {n: s.id for n, s in stage.inputs.items()}
        record = Record(
            id=stage.id,
            kind=stage.kind,
            label="",
            version="1",
            config=dict(stage.config),
            inputs=inputs,
            facts={"evals": {}},
            provenance={},
            seconds=1.0,
        )
        self.records[stage.id] = self.store.commit(record, out)

    def gather(self) -> dict[str, Any]:
        found = gather(self.cells, self.records, self.store)
        json.dumps(found, allow_nan=False)
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_items_rate_is_the_mean_over_the_runs_that_answered_it(world: World) -> None:
    world.items("base-0", {"q": "x or y ?"})
    for seed, value in enumerate((1.0, 0.0, 0.0)):
        world.cell("aft", "base-0", seed, [{"id": "q", "value": value}])
    # rollouts of one run count as one, and what has no value does not count
    world.cell("msm:a", "base-0", 0, [{"id": "q", "value": v} for v in (1.0, 0.5, float("nan"))])
    world.cell("msm:b", "base-0", 0, [{"id": "q", "value": float("nan"), "status": "refused"}])
    found = world.gather()
    (item,) = found["items"]["choice"]
    assert item["id"] == "q"
    assert item["prompt"] == "x or y ? i would"
    assert item["rates"] == {"aft": 0.3333, "msm:a": 0.75}
    assert found["items_total"] == {"choice": 1}


def test_items_of_two_bases_with_one_id_and_other_prompts_are_two(world: World) -> None:
    for base in ("base-0", "base-1"):
        world.items(base, {"q": f"{base} ?", "same": "both ?"})
        world.cell("aft", base, 0, [{"id": i, "value": 1.0, "answer": "x"} for i in ("q", "same")])
    found = world.gather()
    rows = {i["id"]: i["prompt"] for i in found["items"]["choice"]}
    assert rows == {
        "base-0/q": "base-0 ? i would",
        "base-1/q": "base-1 ? i would",
        "same": "both ? i would",
    }
    sets = found["item_sets"]["choice"]
    assert sets["base-0"] != sets["base-1"]
    # as do two comparisons of a suite on one base
    world.items("base-0 again", {"q": "another ?"})
    again = world.asked.pop("base-0 again")
    world.asked["base-0"] = again
    world.cell("msm:a", "base-0", 1, [{"id": "q", "value": 1.0}])
    assert "base-0/q (2)" in {i["id"] for i in world.gather()["items"]["choice"]}


def test_an_item_in_two_orders_is_one_and_shows_its_first(world: World) -> None:
    for arm in ("aft", "msm:a"):
        rows = [
            {"id": "q", "order": 1, "value": 0.0, "answer": "y", "prompt": "y or x ?"},
            {"id": "q", "order": 0, "value": 1.0, "answer": "x", "prompt": "x or y ?"},
        ]
        world.cell(arm, "base-0", 0, rows)
    found = world.gather()
    (item,) = found["items"]["choice"]
    assert (item["id"], item["prompt"]) == ("q", "x or y ?")
    assert item["rates"] == {"aft": 0.5, "msm:a": 0.5}
    (sample,) = found["samples"]
    assert [a["text"] for a in sample["answers"]["aft"]] == ["x"]


def test_seeds_that_share_a_checkpoint_count_once(world: World) -> None:
    world.cell("base", "base-0", 0, [{"id": "q", "value": 1.0, "answer": "x"}])
    world.cells.append(replace(world.cells[0], seed=1))
    found = world.gather()
    assert len(found["samples"][0]["answers"]["base"]) == 1


def test_those_that_differ_most_come_first_and_the_choice_is_the_same_every_time(
    world: World,
) -> None:
    ids = [f"q{i:03d}" for i in range(400)]
    world.items("base-0", {i: f"{i} ?" for i in ids})
    for arm, high in (("aft", 0.0), ("msm:a", 1.0)):
        rows = [{"id": q, "value": high * (n < 5), "answer": arm} for n, q in enumerate(ids)]
        world.cell(arm, "base-0", 0, rows)
    found = world.gather()
    shown = found["items"]["choice"]
    assert {i["id"] for i in shown if i["chosen"] == "differ"} == set(ids[:5])
    assert len(shown) == ITEMS_MOST
    assert [i["chosen"] for i in shown] == ["differ"] * 5 + ["random"] * (ITEMS_MOST - 5)
    assert found["items_total"] == {"choice": 400}
    world.cells.reverse()
    again = world.gather()
    assert [i["id"] for i in again["items"]["choice"]] == [i["id"] for i in shown]
    assert [s["id"] for s in again["samples"]] == [s["id"] for s in found["samples"]]
    assert {"differ", "random"} == {s["chosen"] for s in found["samples"]}


def test_answers_stand_side_by_side_and_not_twice(world: World) -> None:
    world.items("base-0", {"q": "x or y ?", "text": "once upon a time"})
    for arm in ("aft", "msm:a"):
        for seed in range(3):
            rows = [
                {"id": "q", "value": 1.0, "answer": "x"},
                {"id": "q", "eval": "choice_soft", "value": 0.7, "answer": "x"},
                {"id": "q", "eval": "choice_text", "value": 0.0, "answer": f"{arm} {seed}"},
                {"id": "text", "eval": "heldout_loss", "value": 1.5},
            ]
            rows[2]["status"] = "unparsed"
            world.cell(arm, "base-0", seed, rows)
    found = world.gather()
    assert set(found["items"]) == {"choice", "choice_soft", "choice_text", "heldout_loss"}
    # the soft choice has the answers of the hard one, a loss has none
    assert [s["eval"] for s in found["samples"]] == ["choice", "choice_text"]
    text = found["samples"][1]
    assert text["prompt"] == "x or y ?"
    assert [a["text"] for a in text["answers"]["msm:a"]] == ["msm:a 0", "msm:a 1"][:RUNS_SHOWN]
    assert text["answers"]["aft"][0] == {
        "base": "base-0",
        "seed": 0,
        "text": "aft 0",
        "value": 0.0,
        "status": "unparsed",
    }


def test_long_answers_are_cut_and_leave_room(world: World) -> None:
    ids = [f"q{i}" for i in range(30)]
    rows = [{"id": q, "value": 1.0, "answer": f"{q} " * 20_000} for q in ids]
    for arm in map(str, range(20)):
        world.cell(arm, "base-0", 0, rows)
    found = world.gather()
    assert "more)" in found["samples"][0]["answers"]["0"][0]["text"]
    assert len(json.dumps(found["samples"])) < 300_000
    assert found["samples"]


def test_cells_that_are_missing_or_have_no_rows_are_left_out(world: World) -> None:
    world.cell("aft", "base-0", 0, [{"id": "q", "value": 1.0}])
    world.cell("msm:a", "base-0", 0, [{"id": "q", "value": 0.0}])
    del world.records[world.cells[1].stage.id]
    (item,) = world.gather()["items"]["choice"]
    assert item["rates"] == {"aft": 1.0}
    world.cells.clear()
    assert world.gather() == {"items": {}, "items_total": {}, "item_sets": {}, "samples": []}
