"""What an arm's checkpoints found: items and their weights, and what is no mean of items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from msm_ray.agentic.counts import Rollout, rollout_id, rows, summary
from msm_ray.artifact import Record
from msm_ray.cells import Cell, ItemValues, arm_facts
from msm_ray.effects import effects
from msm_ray.evaluate.sampling import Rule
from msm_ray.stage import Stage

RULE = Rule(target=0.05, cap=300, minimum=20)


class Rows(ItemValues):
    """Rows that are there already, by stage."""

    def __init__(self, rows: Mapping[str, Sequence[dict[str, Any]]]) -> None:
        self._rows = rows

    def of(self, stage: Stage, name: str) -> list[dict[str, Any]]:
        return [row for row in self._rows.get(stage.id, ()) if row["eval"] == name]


def cell(arm: str, seed: int, *evals: str) -> Cell:
    asked = Stage("asked", "1", {"arm": arm, "seed": seed}, {}, "package.module:function")
    return Cell(arm, "base-0", seed, asked, evals)


def record(of: Cell, evals: Mapping[str, Any]) -> Record:
    return Record(of.stage.id, "asked", "", "1", {}, {}, {"evals": dict(evals)}, {}, 1.0)


def rollouts(counts: Mapping[str, tuple[int, int]]) -> list[Rollout]:
    """(harmful, all) of each cell, over ten scenarios."""
    return [
        Rollout(rollout_id(name, i), name, i, i % 10, harmful=i < harmful)
        for name, (harmful, n) in counts.items()
        for i in range(n)
    ]


def test_a_cell_of_many_rollouts_weighs_what_one_of_few_does() -> None:
    # Sampling stops early where nothing is harmful: the mean of the cells is 0.25 and 0.35.
    made = {
        cell("aft", 0, "agentic"): rollouts({"a/b": (0, 60), "c/d": (150, 300)}),
        cell("aft", 1, "agentic"): rollouts({"a/b": (0, 60), "c/d": (140, 200)}),
        cell("base", 0, "agentic"): rollouts({"a/b": (0, 60), "c/d": (0, 60)}),
        cell("base", 1, "agentic"): rollouts({"a/b": (0, 60), "c/d": (0, 60)}),
    }
    cells = list(made)
    items = Rows({c.stage.id: rows(of, "agentic") for c, of in made.items()})
    records = {c.stage.id: record(c, summary(of, "agentic", RULE)) for c, of in made.items()}
    aft = arm_facts(cells, records, items, "aft", [])["evals"]["agentic"]
    assert aft["rate"] == pytest.approx(0.3)
    assert [run["rate"] for run in aft["per_seed"]] == pytest.approx([0.25, 0.35])
    assert 0 < aft["ci95"][0] < 0.3 < aft["ci95"][1] < 1
    assert aft["over"] == ["items", "seeds"]
    assert (aft["by_rule"], aft["judge_failed"]) == (0, 0)  # of both seeds together
    base = arm_facts(cells, records, items, "base", [])["evals"]["agentic"]
    assert (base["rate"], base["interval"]) == (0.0, "wilson")
    assert base["ci95"][0] == 0 < base["ci95"][1] < 0.2
    found = effects(cells, records, items, {"harm": ("agentic", "aft", "base")})["harm"]
    assert found["value"] == pytest.approx(0.3)


def test_rollouts_that_failed_leave_a_rate_within_its_bounds() -> None:
    made = rollouts({"a/b": (0, 60), "c/d": (0, 57)})  # three of the last scenarios are not there
    one = cell("aft", 0, "agentic")
    found = arm_facts(
        [one],
        {one.stage.id: record(one, summary(made, "agentic", RULE))},
        Rows({one.stage.id: rows(made, "agentic")}),
        "aft",
        [],
    )["evals"]["agentic"]
    assert found["ci95"][0] == 0 == found["rate"]
    assert found["interval"] == "wilson"


def losses(tokens: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    values = [(0.2, 3.0), (0.4, 1.0)]
    own = [
        {"id": str(i), "eval": "heldout_loss", "domain": "", "pair": "", "value": v, "weight": w}
        for i, (v, w) in enumerate(values)
    ]
    return own, {"rate": 0.25, "n": 2, "tokens": tokens, "by_domain": {}}


def test_a_loss_is_weighed_by_tokens_and_is_no_rate() -> None:
    one = cell("aft", 0, "heldout_loss")
    own, entry = losses(4)
    records = {one.stage.id: record(one, {"heldout_loss": entry})}
    found = arm_facts([one], records, Rows({one.stage.id: own}), "aft", [])
    loss = found["evals"]["heldout_loss"]
    assert loss["rate"] == pytest.approx(0.25)
    assert loss["ci95"][0] < 0  # of two items: as wide as that is


def test_a_checkpoint_that_all_seeds_share_says_nothing_of_other_seeds() -> None:
    shared = cell("base", 0, "ece", "choice")
    cells = [shared, Cell("base", "base-0", 1, shared.stage, shared.evals)]
    right = [
        {"id": str(i), "eval": "choice", "domain": "", "pair": "", "value": float(i < 6)}
        for i in range(8)
    ]
    items = Rows({shared.stage.id: [{**row, "weight": 1.0} for row in right]})
    entry = {"n": 8, "by_domain": {}}
    facts = {"ece": {"rate": 0.1, **entry}, "choice": {"rate": 0.75, **entry}}
    found = arm_facts(cells, {shared.stage.id: record(shared, facts)}, items, "base", [])["evals"]
    assert (found["ece"]["interval"], found["ece"]["over"]) == ("none", [])  # one number
    assert (found["choice"]["interval"], found["choice"]["over"]) == ("wilson", ["items"])
    assert [run["seed"] for run in found["choice"]["per_seed"]] == [0, 1]
    assert found["choice"]["n"] == 8


def graded(value: float | None, id: str) -> dict[str, Any]:
    row = {"id": id, "eval": "open_qa", "domain": "", "pair": id, "weight": 1.0}
    return {**row, "value": value}


def test_what_two_arms_cannot_be_compared_by_is_no_error() -> None:
    a, b = cell("aft", 0, "open_qa"), cell("base", 0, "open_qa")
    compared = {"price": ("open_qa", "aft", "base")}
    scored = [graded(3.0, "p"), graded(None, "q")], [graded(None, "p"), graded(4.0, "q")]
    facts = [{"rate": r, "n": 1, "by_domain": {}, "unit": "score"} for r in (3.0, 4.0)]
    records = {c.stage.id: record(c, {"open_qa": f}) for c, f in zip((a, b), facts, strict=True)}
    items = Rows({c.stage.id: own for c, own in zip((a, b), scored, strict=True)})
    assert effects([a, b], records, items, compared) == {}  # the judge scored no answer of both

    # One arm's rate is by chance the mean of its rows, the other's is not: the rates are compared.
    records[b.stage.id] = record(b, {"open_qa": {**facts[1], "rate": 5.0}})
    found = effects([a, b], records, items, compared)["price"]
    assert (found["value"], found["over"], found["verdict"]) == (-2.0, [], "none shown")


def probed(prompt: str, values: Sequence[float]) -> list[dict[str, Any]]:
    """Both orders of each item have its value."""
    return [
        {
            "id": f"{i}/{order}",
            "eval": f"probe:x:{prompt}",
            "domain": "d",
            "pair": str(i),
            "value": value,
            "weight": 1.0,
        }
        for i, value in enumerate(values)
        for order in (0, 1)
    ]


def test_one_prompt_against_another_is_paired_by_item() -> None:
    bare, spec = "probe:x:bare", "probe:x:spec"
    before, after = [0.0, 0.0, 1.0, 0.0] * 20, [1.0, 0.0, 1.0, 1.0] * 20
    one = cell("base", 0, bare, spec)
    # The model was not trained: both seeds share what it was asked.
    cells = [one, Cell("base", "base-0", 1, one.stage, one.evals)]
    items = Rows({one.stage.id: [*probed("bare", before), *probed("spec", after)]})
    entry = {"n": 160, "by_domain": {}}
    facts = {bare: {"rate": 0.25, **entry}, spec: {"rate": 0.75, **entry}}
    records = {one.stage.id: record(one, facts)}
    found = effects(cells, records, items, {"ceiling": (spec, "base", "base", bare)})["ceiling"]
    assert found["value"] == pytest.approx(0.5)
    assert found["per_seed"] == [{"base": "base-0", "seed": 0, "value": 0.5}]
    assert (found["verdict"], found["over"], found["n_unpaired"]) == ("difference", ["items"], 0)
    assert found["label"] == "base - base, probe:x:spec - probe:x:bare"
    low, high = found["ci95"]
    # Half of 80 items go up by one: a standard error of 0.056, a little more with pseudo-items.
    assert (low, high) == pytest.approx((0.39, 0.61), abs=0.015)
    # The same rates, of items that never have anything to do with each other: nothing to pair.
    apart = [{**row, "pair": f"other-{row['pair']}"} for row in probed("spec", after)]
    items = Rows({one.stage.id: [*probed("bare", before), *apart]})
    assert effects(cells, records, items, {"ceiling": (spec, "base", "base", bare)}) == {}
    # One side that a checkpoint does not have.
    del records[one.stage.id].facts["evals"][bare]
    assert effects(cells, records, items, {"ceiling": (spec, "base", "base", bare)}) == {}


def test_rates_by_order_are_of_all_runs_together() -> None:
    cells = [cell("aft", seed, "pairs") for seed in (0, 1)]
    orders = [((0.5, 4), (0.25, 4)), ((1.0, 4), (0.25, 12))]
    records = {
        c.stage.id: record(
            c,
            {
                "pairs": {
                    "rate": 0.5,
                    "n": a[1] + b[1],
                    "by_domain": {},
                    "by_order": {
                        str(place): {"rate": rate, "n": n} for place, (rate, n) in enumerate((a, b))
                    },
                    "first_listed": {"rate": a[0], "n": 4},
                }
            },
        )
        for c, (a, b) in zip(cells, orders, strict=True)
    }
    found = arm_facts(cells, records, Rows({}), "aft", [])["evals"]["pairs"]
    assert found["by_order"] == {"0": {"rate": 0.75, "n": 8}, "1": {"rate": 0.25, "n": 16}}
    assert found["first_listed"] == {"rate": 0.75, "n": 8}
    for c in cells:  # asked in one order only: there is nothing to tell
        del records[c.stage.id].facts["evals"]["pairs"]["by_order"]["1"]
    assert "by_order" not in arm_facts(cells, records, Rows({}), "aft", [])["evals"]["pairs"]
