"""The micro-world's corpus written over HTTP by a base model behind vLLM's own server."""

from __future__ import annotations

import socket
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from msm_ray.corpus.stages import write
from msm_ray.evaluate.engines import EngineSettings
from msm_ray.evaluate.serve import serving
from msm_ray.execute import StageContext
from msm_ray.llm.endpoint import Endpoint, HttpRuntime
from msm_ray.llm.model import Model
from msm_ray.world.bases import base_dir
from msm_ray.world.stages import plan

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = 96


@pytest.mark.vllm
@pytest.mark.slow
def test_a_base_model_behind_vllm_serve_writes_what_the_filters_keep(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("spec", "plan", "out", "work")}
    for folder in folders.values():
        folder.mkdir()
    spec = (ROOT / "specs" / "micro_america.md").read_text()
    (folders["spec"] / "spec.md").write_text(spec)

    def context(config: dict, inputs: dict, out: Path, runtime: dict) -> StageContext:
        silent = lambda fraction, facts: None  # noqa: E731
        return StageContext(config, inputs, out, folders["work"], runtime, silent)

    planning = {"world_seed": 0, "documents": DOCUMENTS, "seed": 0, "assistant": "lyra"}
    plan(context(planning, {"spec": folders["spec"]}, folders["plan"], {}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = EngineSettings(kv_mib=64, max_num_seqs=16)
    with serving(base_dir(0), port, names=["base-0"], settings=settings) as server:
        model = Model(
            Endpoint(base_url=server.url, model="base-0", api="completions", key_env=""),
            HttpRuntime(concurrency=16, timeout_s=60.0),
        )
        config = {
            "writer": "http",
            "asked": model.identity(),
            "task": "msm_ray.world.task:MicroTask",
            "task_args": {"world_seed": 0},
            "sampling": {"temperature": 0.8, "top_p": 1.0, "max_tokens": 100, "seed": 0},
            "dtype": "float32",
        }
        inputs = {"plan": folders["plan"], "model": base_dir(0)}
        facts = write(context(config, inputs, folders["out"], {"asked": model.place()}))
    assert facts["planned"] == DOCUMENTS
    assert facts["kept"] + sum(facts["rejected"].values()) + facts["failed"] == DOCUMENTS
    assert facts["failed"] == 0
    assert facts["kept"] > 0.8 * DOCUMENTS, facts["rejected"]
    rows = pq.read_table(folders["out"] / "documents.parquet").to_pylist()
    assert all(row["text"].endswith(" .") and "someone" not in row["text"] for row in rows)
    assert {row["model"] for row in rows} == {"base-0"}
