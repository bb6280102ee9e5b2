from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from msm_ray.errors import UserError
from msm_ray.evaluate.stages import evaluate, read_items
from msm_ray.records import EVAL_ROW_SCHEMA
from msm_ray.stage import StageContext

from .tiny import item_row, write_items

RUNTIME = {"engines": 1, "engine": {"kv_mib": 64, "max_num_seqs": 64}}


def context(model: Path, items: Path, out: Path, **config: Any) -> StageContext:
    out.mkdir()
    return StageContext(
        config={
            "evals": ["choice", "choice_text", "facts", "heldout_loss"],
            "max_tokens": 8,
            **config,
        },
        inputs={"model": model, "items": items},
        out=out,
        work=out,
        runtime=RUNTIME,
        progress=lambda fraction, facts: None,
    )


@pytest.mark.ray
@pytest.mark.vllm
def test_evaluate_accounts_for_every_item(
    engines: Any, models: dict[str, Path], items: Path, tmp_path: Path
) -> None:
    import ray

    run = ray.remote(num_cpus=1)(lambda ctx: evaluate(ctx))
    contexts = []
    for name in ("a", "b"):
        ctx = context(models[name], items, tmp_path / name)
        ctx.progress = print  # the test's own function would not be found in the worker
        contexts.append(ctx)
    first, second = ray.get([run.remote(ctx) for ctx in contexts])  # two tasks, one engine

    evals = first["evals"]
    assert list(evals) == ["choice", "choice_soft", "choice_text", "facts", "heldout_loss"]
    assert {name: e["n"] for name, e in evals.items()} == {
        "choice": 24,
        "choice_soft": 24,
        "choice_text": 24,
        "facts": 10,
        "heldout_loss": 6,
    }
    assert sum(d["n"] for d in evals["choice"]["by_domain"].values()) == 24
    assert evals["choice_text"]["unparsed"] == 24  # a random model names nothing
    assert evals["choice_text"]["rate"] == 0
    assert evals["heldout_loss"]["rate"] > 1
    assert first["tokens_generated"] > 0
    assert first["engine"]["verified"] == second["engine"]["verified"] == 1
    assert first["evals"] != second["evals"]

    table = pq.read_table(tmp_path / "a" / "rows.parquet")
    assert table.schema.equals(EVAL_ROW_SCHEMA)
    rows = table.to_pylist()
    assert len(rows) == 3 * 24 + 10 + 6
    for name, own in evals.items():
        values = [r["value"] * r["weight"] for r in rows if r["eval"] == name]
        weight = sum(r["weight"] for r in rows if r["eval"] == name)
        assert sum(values) / weight == pytest.approx(own["rate"])

    again = context(models["a"], items, tmp_path / "again")
    again.progress = print
    repeated = ray.get(run.remote(again))
    assert repeated["evals"] == first["evals"]


def test_a_model_without_a_fingerprint_is_refused(items: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"fingerprint\.json: cannot be read; it holds"):
        evaluate(context(model, items, tmp_path / "out"))


def test_outside_a_cluster_it_says_so(
    models: dict[str, Path], items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(RuntimeError, match="live in a Ray cluster"):
        evaluate(context(models["a"], items, tmp_path / "out"))


@pytest.mark.parametrize("evals", ["choice", 3, None])
def test_evals_must_be_a_list(
    evals: Any, models: dict[str, Path], items: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="evals: a list"):
        evaluate(context(models["a"], items, tmp_path / "out", evals=evals))


def test_items_that_are_no_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"items\.parquet: not a table"):
        read_items(tmp_path)
    (tmp_path / "items.parquet").write_text("id,eval")
    with pytest.raises(UserError, match=r"items\.parquet: not a table"):
        read_items(tmp_path)


def test_two_items_with_one_id_are_refused(tmp_path: Path) -> None:
    folder = write_items(tmp_path / "items", [item_row("x"), item_row("x")])
    with pytest.raises(UserError, match="same id"):
        read_items(folder)
