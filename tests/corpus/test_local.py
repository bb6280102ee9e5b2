"""A corpus job whose models run on the cluster: one engine plans, writes and judges by Ray Data."""

from __future__ import annotations

from pathlib import Path

import pytest

from msm_ray.corpus.config import HierarchyConfig
from msm_ray.corpus.job import CorpusJob
from msm_ray.corpus.screening import ScreenConfig
from msm_ray.errors import UserError
from msm_ray.llm.endpoint import Endpoint
from msm_ray.llm.model import LocalModel, Model
from msm_ray.llm.protocol import Sampling
from msm_ray.llm.ray_pass import VllmRuntime
from tests.llm.test_vllm import write_byte_model

SPEC = """# Harbour

{model_name} of {provider_name} helps people who plan a visit to a harbour.

## Boats

It names the boat that is there and says when it leaves, because people wait for it.

## Weather

It tells of storms before anything else, because boats do not leave in them.
"""
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=24, seed=0)


def job_with(model: LocalModel, spec: Path) -> CorpusJob:
    plan = HierarchyConfig("structure", "Lyra", "Norvik Labs", types=3, ideas=2, words=10)
    return CorpusJob(
        name="local",
        title="A corpus by a model on the cluster",
        spec=str(spec),
        plan=plan,
        planner=None,
        writer=model,
        sampling=SAMPLING,
        screen=ScreenConfig(1, 100),
        drafts=1,
        judge=model,
        judge_sampling=SAMPLING,
    )


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.slow
def test_a_model_on_the_cluster_writes_and_nothing_is_asked_twice(
    ray_cluster: None, tmp_path: Path
) -> None:
    spec = tmp_path / "harbour.md"
    spec.write_text(SPEC)
    folder = write_byte_model(tmp_path / "model", context=16_384)
    assert list(folder.glob("*.safetensors"))
    model = LocalModel(str(folder), "float32", runtime=VllmRuntime(max_num_seqs=4, block_rows=4))
    job = job_with(model, spec)
    planned = job.preview(str(tmp_path / "store"))["totals"]["documents"]
    report = job.run(str(tmp_path / "store")).report
    corpus = report["corpus"]
    assert corpus["planned"] == planned == 18
    assert corpus["kept"] + sum(corpus["rejected"].values()) + corpus["failed"] == planned
    assert corpus["failed"] == 0
    assert sum(corpus["rejected"].values()) == planned, "random weights write no document"
    assert corpus["by_corpus"]["harbour"]["writer"] == "model"
    # Nobody is asked again: without weights the engine would not start. What they were is known in
    # this process.
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    again = job.run(str(tmp_path / "store")).report
    assert again["complete"]
    assert again["cost"]["stages_run"] == 0
    assert again["corpus"] == corpus


def test_what_a_model_on_the_cluster_is_and_where_it_runs(tmp_path: Path) -> None:
    spec = tmp_path / "harbour.md"
    spec.write_text(SPEC)

    def ids(model: LocalModel) -> str:
        return job_with(model, spec).corpus_stage().id

    one, other = tmp_path / "a" / "model", tmp_path / "b" / "model"
    for folder, weights in ((one, b"1"), (other, b"1")):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(weights)
    same = ids(LocalModel(str(one)))
    assert ids(LocalModel(str(other))) == same, "the content is what it is, not the place"
    wide = VllmRuntime(engines=8, tensor_parallel=4)
    assert ids(LocalModel(str(one), runtime=wide)) == same
    assert ids(LocalModel(str(one), dtype="float32")) != same
    hub = ids(LocalModel("owner/name"))
    assert hub not in (same, ids(LocalModel("owner/name", revision="v1")))
    endpoint = Model(Endpoint(base_url="http://localhost:1/v1", model="model", key_env=""))
    assert endpoint.identity() != LocalModel(str(one)).identity()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"source": "nowhere"}, "model source is 'nowhere'; there is no such folder"),
        ({"source": "./owner/name"}, "there is no such folder"),
        ({"source": "owner/name", "dtype": "int8"}, "model dtype is 'int8'; allowed: float32"),
    ],
)
def test_wrong_models_get_one_line(values: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        LocalModel(**values)
