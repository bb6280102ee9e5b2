"""Plan rows: each document's whole request, with an id that its place does not change."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msm_ray.corpus import plan
from msm_ray.corpus.hierarchy import Hierarchy, plan_hierarchy
from msm_ray.corpus.plan import plan_table
from msm_ray.records import PLAN_SCHEMA
from msm_ray.spec import read_spec

from .planner import AWKWARD, Planner, badly, config

ROOT = Path(__file__).parents[2]
AMERICA = ROOT / "specs" / "micro_america.md"
RULES = "# Rules\n\n## Truth\n\nR1: Never lie.\n\nR2: Never hide.\n\n## Care\n\nR3. Ask first.\n"


def rows(hierarchy: Hierarchy) -> list[dict[str, Any]]:
    batches = list(plan_table(hierarchy))
    assert all(batch.schema == PLAN_SCHEMA for batch in batches)
    table = pa.Table.from_batches(batches, schema=PLAN_SCHEMA)
    assert table.num_rows == hierarchy.documents
    assert not any(column.null_count for column in table.columns)
    return list(table.to_pylist())


def structure(text: str | Path = AMERICA, **changes: Any) -> Hierarchy:
    return plan_hierarchy(read_spec(text), config("structure", **changes), None, Path("none"))


@pytest.fixture
def planned(tmp_path: Path) -> Hierarchy:
    return plan_hierarchy(read_spec(AMERICA), config(), Planner(badly), tmp_path)


def test_a_row_says_everything_about_its_document(planned: Hierarchy) -> None:
    found = rows(planned)
    assert [row["index"] for row in found] == list(range(len(found)))
    assert len({row["id"] for row in found}) == len(found)
    for row in found:
        assert row["section_text"] in planned.spec.text
        assert (row["assistant"], row["maker"]) == ("Ada", "Quill Works")
        assert row["spec_sha256"] == planned.spec.sha256
        for name in ("domain", "subdomain", "assertion", "doc_type", "idea"):
            assert row[name]
            assert row[name] in row["prompt"]
        assert row["section_text"].strip() in row["prompt"]
        both = (row["system"] + row["prompt"]).encode()
        assert row["prompt_sha256"] == hashlib.sha256(both).hexdigest()
        assert 0 <= row["seed"] < 2**31
    (system,) = {row["system"] for row in found}
    assert system.startswith(f"<model_spec>\n{planned.spec.text.strip()}\n</model_spec>\n")
    assert len({row["seed"] for row in found}) == len(found)


def test_ids_do_not_depend_on_the_order(planned: Hierarchy, tmp_path: Path) -> None:
    topics = list(planned.topics)
    random.Random(1).shuffle(topics)
    turned = rows(replace(planned, topics=tuple(topics)))
    found = rows(planned)
    without = [{**row, "index": 0} for row in found]
    assert sorted(r["id"] for r in turned) == sorted(r["id"] for r in found)
    assert {r["id"]: r for r in without} == {r["id"]: {**r, "index": 0} for r in turned}
    shuffled = Planner(badly, shuffle=3)
    again = plan_hierarchy(read_spec(AMERICA), config(), shuffled, tmp_path / "again")
    assert rows(again) == found


def test_another_request_is_another_id() -> None:
    ids = [
        {row["id"] for row in rows(hierarchy)}
        for hierarchy in (
            structure(),
            structure(assistant="Bo"),
            structure(maker="Bo"),
            structure(words=301),
            structure(ROOT / "specs" / "micro_affordability.md"),
        )
    ]
    assert sum(len(one) for one in ids) == len(set().union(*ids))


def test_any_beginning_is_spread_over_topics_then_types() -> None:
    hierarchy = structure(types=4, ideas=3, assertions=0)
    found = rows(hierarchy)
    topics = len(hierarchy.topics)
    assert len({row["section_id"] for row in found[:topics]}) == topics
    first = Counter(row["doc_type"] for row in found[: 4 * topics])
    assert set(first.values()) == {topics}


def test_a_larger_plan_holds_the_smaller_one() -> None:
    small = {row["id"] for row in rows(structure(types=2, ideas=2, assertions=0))}
    large = {row["id"] for row in rows(structure(types=3, ideas=4, assertions=0))}
    assert small < large


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_specs_become_rows(name: str) -> None:
    hierarchy = structure(AWKWARD[name], assertions=0, types=2, ideas=1)
    found = rows(hierarchy)
    assert len({row["id"] for row in found}) == len(found) > 0
    assert all(hierarchy.spec.text.strip("\n") in row["system"] for row in found)


def test_rules_are_written_about_by_their_label(tmp_path: Path) -> None:
    hierarchy = plan_hierarchy(read_spec(RULES), config("rules"), Planner(), tmp_path)
    for row in rows(hierarchy):
        assert row["assertion"] == ""
        assert f"The rule's label is {row['subdomain']}." in row["prompt"]
        assert f"<rule>\n{row['section_text']}\n</rule>" in row["prompt"]


def test_batches_are_small_whatever_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "BATCH_BYTES", 2**20)
    hierarchy = structure(AWKWARD["long"], assertions=0, types=2, ideas=1)
    sizes = [batch.nbytes for batch in plan_table(hierarchy)]
    assert len(sizes) > 20
    assert max(sizes) < 2 * 2**20
    monkeypatch.setattr(plan, "BATCH_BYTES", 1)
    assert {batch.num_rows for batch in plan_table(hierarchy)} == {1}


def test_a_million_rows_are_not_made_before_they_are_asked_for() -> None:
    hierarchy = structure(types=20, ideas=10_000, assertions=0)
    assert hierarchy.documents == 1_000_000
    batches = plan_table(hierarchy)
    assert next(batches).num_rows == plan.BATCH_ROWS or next(batches).nbytes >= plan.BATCH_BYTES


def test_no_topics_is_no_rows() -> None:
    assert rows(replace(structure(), topics=())) == []
