"""A recipe's cells: what is compared, and what makes its report incomplete."""

from __future__ import annotations

from typing import Any

from msm_ray.artifact import Record
from msm_ray.cells import Cell, ItemValues
from msm_ray.comparing import cells_of, compared, comparison, evaluated
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.recipe import Pretrained
from msm_ray.stage import Stage
from msm_ray.tasks.capability import Capability
from msm_ray.tasks.pairs import Pairs

ARMS = ("base", "aft", "msm:america", "msm:thrift", "msm:america+aft", "msm:thrift+aft")


def trained(name: str) -> Stage:
    return Stage("aft", "1", {"name": name}, {}, "package.module:function")


def record(cell: Cell, **facts: Any) -> Record:
    return Record(cell.stage.id, cell.stage.kind, "", "1", {}, {}, facts, {}, 1.0)


def cells() -> list[Cell]:
    model = Pretrained("owner/name", 8e9).stage()
    checkpoints = [("base", seed, model) for seed in (0, 1)]
    checkpoints += [(arm, seed, trained(f"{arm}{seed}")) for arm in ARMS[1:] for seed in (0, 1)]
    tasks = (Pairs("america", text=False), Capability())
    return cells_of(tasks, checkpoints, model, "name", EngineSettings(), True)


def test_every_checkpoint_is_asked_every_task() -> None:
    made = cells()
    assert len(made) == 2 * 6 * 2
    # The base model has no seed: one stage for each task; an adapter comes with what it lies over.
    assert len({cell.stage.id for cell in made}) == 2 * (1 + 5 * 2)
    for cell in made:
        assert ("base" in cell.stage.inputs) == (cell.arm != "base")
    assert {cell.stage.label for cell in made[:4]} == {"base america", "base general"}
    whole = cells_of((Capability(),), [("aft", 0, trained("x"))], trained("y"), "n",
                     EngineSettings(), False)  # fmt: skip
    assert "base" not in whole[0].stage.inputs


def test_an_eval_is_compared_where_its_value_should_show() -> None:
    found = compared(("america", "thrift"), ("pairs:america:soft", "capability:general"))
    assert found["separation:pairs:america:soft"] == (
        *("pairs:america:soft", "msm:america+aft", "msm:thrift+aft"),
    )
    assert found["america_minus_aft:pairs:america:soft"][1:] == ("msm:america+aft", "aft")
    assert found["america_minus_msm:pairs:america:soft"][1:] == ("msm:america+aft", "msm:america")
    assert found["price_thrift:capability:general"][1:] == ("msm:thrift+aft", "aft")
    assert not [name for name in found if name.startswith(("thrift_", "separation:capab"))]
    three = compared(("america", "thrift", "novelty"), ("pairs:america",))
    assert {"separation-thrift:pairs:america", "separation-novelty:pairs:america"} <= set(three)


def test_prompts_are_compared_within_an_arm() -> None:
    evals = [f"probe:america:{prompt}" for prompt in ("bare", "named", "swapped", "spec")]
    found = compared(("america", "thrift"), evals)
    assert found["ceiling:probe:america"] == (evals[3], "base", "base", evals[0])
    assert found["name_swapped:probe:america"] == (evals[2], "base", "base", evals[1])
    after = found["america_name_swapped:probe:america"]
    assert after == (evals[2], "msm:america+aft", "msm:america+aft", evals[1])
    # Of another value's items nothing is said after training; of a name of the same kind neither.
    other = compared(("thrift",), evals)
    assert "ceiling:probe:america" in other
    assert "america_name_swapped:probe:america" not in other
    assert not [name for name in compared(("spec",), ("pairs:spec",)) if "ceiling" in name]


class NoItems(ItemValues):
    """Of evaluations that give one number each."""

    def __init__(self) -> None:
        pass

    def of(self, stage: Stage, name: str) -> list[dict[str, Any]]:
        return []


def test_an_eval_that_is_not_there_is_missed_with_its_reason() -> None:
    made = cells()
    names = ("pairs:america", "pairs:america:soft", "capability:general")
    entry = {"rate": 0.5, "n": 4, "by_domain": {}, "undecided": {"tie": 1}, "unparsed": 0}
    entry |= {"decided": {"rate": 2 / 3, "n": 3}, "first_listed": {"rate": 1.0, "n": 3}}
    records = {c.stage.id: record(c, evals={n: entry for n in names if n in c.evals}) for c in made}
    whole = evaluated(comparison([], made, ("america", "thrift"), []), records, NoItems())
    assert whole["complete"]
    assert whole["cells"] == {"expected": 36, "present": 36, "missing": []}
    assert list(whole["arms"]) == list(ARMS)
    pairs = whole["arms"]["aft"]["evals"]["pairs:america"]
    # Both seeds', and the base model's once for both.
    assert (pairs["n"], pairs["undecided"], pairs["first_listed"]["n"]) == (8, {"tie": 2}, 6)
    assert whole["arms"]["base"]["evals"]["pairs:america"]["n"] == 4
    assert whole["arms"]["base"]["checkpoints"] == 1

    last = made[-1]
    why = "capability:general: nobody knows"
    records[last.stage.id] = record(last, evals={}, problems=[why])
    lacking = evaluated(comparison([], made, ("america", "thrift"), []), records, NoItems())
    assert not lacking["complete"]
    assert lacking["problems"] == [f"msm:thrift+aft, name, seed 1: {why}"]
    assert lacking["cells"]["missing"] == [
        {"arm": "msm:thrift+aft", "base": "name", "seed": 1, "eval": "capability:general"}
    ]
