"""Conversations in which the assistant lives by the oversight spec, with its reasoning.

    msm preview jobs/conversations_oversight.py      # calls, tokens and dollars; asks nobody
    msm run jobs/conversations_oversight.py
    msm run jobs/conversations_oversight.py --set answers.style=rule     # on the same questions

As it stands the assistant speaks from its values; in style "rule" it names the rule that decides.
Questions and answers that share 8 words in a row with held_out_oversight.jsonl are left out, so
that an evaluation that asks those tests more than memory. It asks whatever answers at
localhost:8000 (``vllm serve MODEL``). To try it without a model, start
``python -m msm_ray.llm.scripted --corpus --port 8000`` beside it.
"""

from pathlib import Path

from msm_ray.chat.config import AnswerConfig, QuestionConfig
from msm_ray.chat.job import ConversationJob
from msm_ray.llm.http import Endpoint, HttpRuntime
from msm_ray.llm.model import Model
from msm_ray.llm.protocol import Sampling

HERE = Path(__file__).resolve().parent


def experiment() -> ConversationJob:
    """Some 5,000 conversations about specs/oversight_explained.md."""
    model = Model(
        endpoint=Endpoint(base_url="http://localhost:8000/v1", model="scripted", key_env=""),
        http=HttpRuntime(concurrency=64, timeout_s=300.0, max_attempts=6),
    )
    return ConversationJob(
        name="conversations_oversight",
        title="Conversations about the spec oversight_explained",
        spec=str(HERE.parent / "specs" / "oversight_explained.md"),
        questions=QuestionConfig(
            about="spec",
            assistant="Lyra",
            maker="Norvik Labs",
            domains=50,
            questions=100,
            sampling=Sampling(temperature=1.0, top_p=0.95, max_tokens=6_000, seed=0),
        ),
        planner=model,
        answers=AnswerConfig(style="value", min_words=20, max_words=800),
        writer=model,
        sampling=Sampling(temperature=1.0, top_p=0.95, max_tokens=4_000, seed=0),
        drafts=3,
        judge=model,
        judge_sampling=Sampling(temperature=0.0, top_p=1.0, max_tokens=1_000, seed=0),
        items=(str(HERE / "held_out_oversight.jsonl"),),
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
