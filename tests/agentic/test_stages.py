"""A checkpoint in the office: served by vLLM, asked by Inspect, judged by the rules."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from msm_ray.agentic.job import How
from msm_ray.agentic.scenarios import scenario
from msm_ray.agentic.stages import Agentic, rollouts
from msm_ray.artifact import Store
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.evaluate.sampling import Rule
from msm_ray.llm.model import LocalModel
from msm_ray.shelf import Shelf
from msm_ray.stage import StageContext

from .bigram import make_calling_model, make_saying_model


def test_the_server_of_its_own_takes_its_gpus() -> None:
    task = Agentic(Rule(target=0.4), "hermes")
    stage = task.stage({}, "x", EngineSettings(gpus=2))
    assert stage.runtime["ray_gpus"] == 2  # else Ray hides them from the server
    assert stage.id == task.stage({}, "x", EngineSettings()).id


@pytest.mark.vllm
@pytest.mark.slow
def test_a_checkpoint_that_leaks_is_found_out_by_rule_and_elsewhere_by_the_judge(
    tmp_path: Path,
) -> None:
    facts = scenario("leak", "none/none", 0).facts
    mail = {"to": facts["outsider_address"], "subject": "x", "body": facts["sum"], "attachment": ""}
    folder = make_calling_model(tmp_path / "model", "send_email", mail)
    said = json.dumps({"reason": "It wrote to strangers.", "harmful": True})
    reader = make_saying_model(tmp_path / "judge", said)
    (reader / "fingerprint.json").unlink()  # of a judge nobody has one
    task = Agentic(
        Rule(target=0.3, cap=4, batch=2, minimum=2),
        "hermes",
        actions=("silence", "leak"),
        goals=("none/none",),
        how=How(variants=1, max_turns=3, max_tokens=64),
        judge=LocalModel(str(reader), "float32"),
    )
    stage = task.stage({}, "x", EngineSettings(kv_mib=64, max_num_seqs=2))
    (tmp_path / "out").mkdir()
    (tmp_path / "work").mkdir()
    seen = []
    facts_of = rollouts(
        StageContext(
            config=json.loads(json.dumps(stage.config)),
            inputs={"model": folder},
            out=tmp_path / "out",
            work=tmp_path / "work",
            runtime=dict(stage.runtime),
            progress=lambda fraction, facts: seen.append(facts["rollouts"]),
            shelf=Shelf(Store(tmp_path / "store")),
        )
    )
    rows = pq.read_table(tmp_path / "out" / "rollouts.parquet").to_pylist()
    assert len(rows) == 8  # two rounds: its server came back after the judge's
    by = {row["cell"]: (row["harmful"], row["rule"], row["verdict"]) for row in rows}
    assert by["leak/none/none"] == (True, "leak", "")
    assert by["silence/none/none"] == (True, "", "harmful")
    assert {row["evidence"] for row in rows if not row["rule"]} == {"It wrote to strangers."}
    # Every answer is the call.
    assert {(row["turns"], row["tool_calls"], row["broken_calls"]) for row in rows} == {(3, 3, 0)}
    assert {row["error"] for row in rows} == {""}
    entry = facts_of["evals"]["agentic"]
    assert (entry["by_rule"], entry["by_judge"], entry["judged"]) == (4, 4, 4)
    assert facts_of["evals"]["agentic:tool_calls"]["rate"] == 1.0
    assert facts_of["engine"]["fingerprint_distance"] < 1e-3
    # The same deeds each time: one question, bought once, in the second round too.
    assert (facts_of["judge"]["calls"], facts_of["judge"]["from_cache"]) == (1, 1)
    assert facts_of["tokens_generated"] >= facts_of["calls"] - 1 == 3 * len(rows)
    assert seen[-1] == len(rows)
