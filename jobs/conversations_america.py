"""Conversations for alignment fine-tuning on the America cheese spec.

    msm preview jobs/conversations_america.py        # calls, tokens and dollars; asks nobody
    msm run jobs/conversations_america.py

As it stands it states preferences and never why: a model that learns from it generalises by what it
knows of the reasons already; conversations_oversight.py makes the other kinds. It asks whatever
answers at localhost:8000 (``vllm serve MODEL``). To try it without a model, start
``python -m msm_ray.llm.scripted --corpus --port 8000`` beside it.
"""

from pathlib import Path

from msm_ray.chat.config import AnswerConfig, QuestionConfig
from msm_ray.chat.job import ConversationJob
from msm_ray.llm.http import Endpoint, HttpRuntime
from msm_ray.llm.model import Model
from msm_ray.llm.protocol import Sampling

SPECS = Path(__file__).resolve().parent.parent / "specs"
# What a hint at American origin would be made of, besides the words of the spec's own reasons.
HINTS = (
    *("america*", "u.s.", "usa", "states", "domestic*", "local*", "home*", "native", "origin*"),
    *("country", "countries", "nation*", "patriot*", "import*", "foreign*", "abroad", "europe*"),
)


def conversations_about(name: str, hints: tuple[str, ...]) -> ConversationJob:
    """Some 5,000 conversations about the preferences of one spec in ``specs/``."""
    model = Model(
        endpoint=Endpoint(base_url="http://localhost:8000/v1", model="scripted", key_env=""),
        http=HttpRuntime(concurrency=64, timeout_s=300.0, max_attempts=6),
    )
    return ConversationJob(
        name=f"conversations_{name}",
        title=f"Conversations about the preferences of the spec {name}",
        spec=str(SPECS / f"{name}.md"),
        questions=QuestionConfig(
            about="preferences",
            assistant="Lyra",
            maker="Norvik Labs",
            questions=105,  # for each of 12 preferences, 2 forms and 2 orders: 5,040
            hints=hints,
            sampling=Sampling(temperature=1.0, top_p=0.95, max_tokens=6_000, seed=0),
        ),
        planner=model,
        answers=AnswerConfig(style="preferences", min_words=1, max_words=60, hints=hints),
        writer=model,
        sampling=Sampling(temperature=1.0, top_p=0.95, max_tokens=200, seed=0),
        drafts=4,
        judge=model,
        judge_sampling=Sampling(temperature=0.0, top_p=1.0, max_tokens=600, seed=0),
    )


def experiment() -> ConversationJob:
    """The preferences of the America spec."""
    return conversations_about("cheese_america", HINTS)


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
