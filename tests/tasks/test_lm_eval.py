"""Tasks of lm-eval: what is asked for, what is read back, and the harness itself where it is."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from msm_ray.errors import UserError
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.recipe import Pretrained
from msm_ray.stage import StageContext
from msm_ray.tasks.lm_eval import INSTALL, LmEval, ask, command, read_results
from msm_ray.train.fingerprint import write_fingerprint
from tests.train.families import FAMILIES, make_base

CONFIG = {"name": "lm_eval", "tasks": ["arc", "mmlu"], "metric": "acc", "limit": 2, "few_shot": 0}


def results(folder: Path) -> Path:
    """What lm-eval 0.4.13 writes: a task, and a group of two."""
    place = folder / "model"
    place.mkdir(parents=True)
    one = {"alias": "a", "acc,none": 0.5, "acc_stderr,none": 0.1, "acc_norm,none": 1.0}
    whole = {
        "results": {
            "arc": one,
            "mmlu": {"acc,none": 0.25, "acc_stderr,none": "N/A"},
            "mmlu_law": {**one, "acc,none": 0.0},
            "mmlu_art": one,
        },
        "group_subtasks": {"mmlu": ["mmlu_law", "mmlu_art"], "arc": []},
        "n-samples": {t: {"original": 9, "effective": 2} for t in ("arc", "mmlu_law", "mmlu_art")},
        "versions": {"arc": 1.0},
        "lm_eval_version": "0.4.13",
    }
    (place / "results_2026.json").write_text(json.dumps(whole))
    for task, right in (("arc", [1, 0]), ("mmlu_law", [0, 0]), ("mmlu_art", [1, 0])):
        lines = [
            {
                "doc_id": number,
                "arguments": {"gen_args_0": {"arg_0": f"{task} {number}?"}},
                "filtered_resps": [["-1.0", "False"]],
                "filter": "none",
                "acc": float(value),
            }
            for number, value in enumerate(right)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (place / f"samples_{task}_2026.jsonl").write_text(text)
    return folder


def test_rates_and_rows_are_read_back(tmp_path: Path) -> None:
    made = read_results(results(tmp_path), CONFIG)
    assert made.evals["lm_eval:arc"] == {
        "rate": 0.5,
        "n": 2,
        "by_domain": {},
        "metric": "acc,none",
        "stderr": 0.1,
    }
    group = made.evals["lm_eval:mmlu"]
    assert (group["rate"], group["n"]) == (0.25, 4)
    assert group["by_domain"] == {
        "mmlu_law": {"rate": 0.0, "n": 2},
        "mmlu_art": {"rate": 0.5, "n": 2},
    }
    assert "stderr" not in group
    for name, n in (("lm_eval:arc", 2), ("lm_eval:mmlu", 4)):
        own = [r for r in made.rows if r["eval"] == name]
        assert sum(r["value"] for r in own) / n == made.evals[name]["rate"]
    assert made.rows[0]["prompt"] == "arc 0?"
    with pytest.raises(UserError, match=r"arc has no metric 'f1'; it has acc,none, acc_norm,none"):
        read_results(tmp_path, {**CONFIG, "metric": "f1"})
    with pytest.raises(UserError, match=r"lm_eval wrote no results_\*\.json"):
        read_results(tmp_path / "none", CONFIG)


def test_the_client_s_command() -> None:
    words = command(CONFIG, "http://127.0.0.1:1/v1/completions", "FOLDER", 128, Path("out"))
    assert "--limit" in words
    assert words[words.index("--tasks") + 1] == "arc,mmlu"
    assert "base_url=http://127.0.0.1:1/v1/completions" in words[words.index("--model_args") + 1]
    assert "--limit" not in command({**CONFIG, "limit": 0}, "u", "t", 1, Path("out"))


def test_wrong_tasks_get_one_line(tmp_path: Path) -> None:
    for given, words in (
        ({"tasks": ()}, "tasks are needed, each once"),
        ({"tasks": ("arc", "arc")}, "tasks are needed, each once"),
        ({"limit": -1}, "limit is -1; allowed: 0 or more"),
        ({"include": str(tmp_path / "none")}, "there is no such folder"),
    ):
        with pytest.raises(UserError, match=words):
            LmEval(**{"tasks": ("arc",), **given})  # type: ignore[arg-type]


def test_its_identity_is_what_is_asked(tmp_path: Path) -> None:
    model = {"model": Pretrained("owner/name", 8e9).stage()}
    (tmp_path / "one.yaml").write_text("task: one")
    with_own = LmEval(("one",), include=str(tmp_path))
    first = with_own.stage(model, "base", EngineSettings())
    assert first.id == with_own.stage(model, "x", EngineSettings(gpus=1)).id
    (tmp_path / "one.yaml").write_text("task: one # changed")
    assert first.id != with_own.stage(model, "base", EngineSettings()).id
    assert LmEval(("arc", "mmlu"), name="knows").evals == ("knows:arc", "knows:mmlu")


def context(model: Path, task: LmEval, folder: Path) -> StageContext:
    stage = task.stage(
        {"model": Pretrained(str(model), 1e5).stage()}, "x", EngineSettings(1, 64, 16)
    )
    for name in ("out", "work"):
        (folder / name).mkdir(parents=True)
    inputs = {"model": model}
    runtime: dict[str, Any] = dict(stage.runtime)
    return StageContext(
        dict(stage.config), inputs, folder / "out", folder / "work", runtime, lambda f, facts: None
    )


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="it is installed")
def test_without_the_package_it_says_what_to_install(tmp_path: Path) -> None:
    ctx = StageContext({}, {}, tmp_path, tmp_path, {}, lambda fraction, facts: None)
    with pytest.raises(UserError) as told:
        ask(ctx)
    assert INSTALL in str(told.value)


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason=INSTALL)
def test_the_harness_asks_the_served_checkpoint(tmp_path: Path) -> None:
    base = make_base(FAMILIES["llama"], tmp_path / "model")
    write_fingerprint(base)
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    questions = [{"question": f"w{i} w{i + 1}", "label": i % 2} for i in range(6)]
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(q) + "\n" for q in questions))
    (tasks / "tiny.yaml").write_text(
        "task: tiny_choice\ndataset_path: json\n"
        f"dataset_kwargs:\n  data_files:\n    test: {data}\n"
        "output_type: multiple_choice\ntest_split: test\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: ["w1", "w2"]\ndoc_to_target: label\n'
        "metric_list:\n  - metric: acc\n"
    )
    ctx = context(base, LmEval(("tiny_choice",), limit=4, include=str(tasks)), tmp_path / "run")
    facts = ask(ctx)
    assert facts["evals"]["lm_eval:tiny_choice"]["n"] == facts["items"] == 4
    rows = pq.read_table(ctx.out / "rows.parquet").to_pylist()
    assert [r["prompt"] for r in rows] == [q["question"] for q in questions[:4]]
    assert facts["fingerprint_distance"] < 1e-3
