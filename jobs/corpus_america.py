"""Documents about the America cheese spec, planned, written and judged by models behind endpoints.

    msm preview jobs/corpus_america.py        # documents, calls, tokens and dollars; asks nobody
    msm run jobs/corpus_america.py

As it stands it asks whatever answers at localhost:8000 (``vllm serve MODEL``). To try it without a
model, start ``python -m msm_ray.llm.scripted --corpus --port 8000`` beside it.
"""

from pathlib import Path

from msm_ray.corpus.config import HierarchyConfig
from msm_ray.corpus.job import CorpusJob, Model
from msm_ray.corpus.screening import ScreenConfig
from msm_ray.llm.http import Endpoint, HttpRuntime
from msm_ray.llm.protocol import Sampling

SPECS = Path(__file__).resolve().parent.parent / "specs"


def corpus_about(name: str, mode: str = "model") -> CorpusJob:
    """The corpus about one spec in ``specs/``; the jobs beside this one differ in the spec only."""
    model = Model(
        endpoint=Endpoint(base_url="http://localhost:8000/v1", model="scripted", key_env=""),
        http=HttpRuntime(concurrency=64, timeout_s=300.0, max_attempts=6),
    )
    return CorpusJob(
        name=f"corpus_{name}",
        title=f"Documents about the spec {name}",
        spec=str(SPECS / f"{name}.md"),
        plan=HierarchyConfig(
            mode=mode,
            assistant="Lyra",
            maker="Norvik Labs",
            domains=6,
            subdomains=4,
            assertions=8,
            types=10,
            ideas=10,
            words=500,
            sampling=Sampling(temperature=1.0, top_p=0.95, max_tokens=6_000, seed=0),
        ),
        planner=model,
        writer=model,
        sampling=Sampling(temperature=1.0, top_p=0.95, max_tokens=3_000, seed=0),
        screen=ScreenConfig(min_words=40, max_words=3_000),
        drafts=3,
        judge=model,
        judge_sampling=Sampling(temperature=0.0, top_p=1.0, max_tokens=1_000, seed=0),
        rewrite=True,
    )


def experiment() -> CorpusJob:
    """Some 2,400 documents about the America spec."""
    return corpus_about("cheese_america")


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
