"""The cheese comparison on Llama-3.1-8B, with the schedule that the method's authors give.

Documents about two specs that explain the same twelve preferences; conversations that state the
preferences and never why; arms ``base``, ``aft``, ``msm:america``, ``msm:america+aft`` and the same
for affordability, on four seeds. Every checkpoint is asked which of two things it prefers, in ten
domains without cheese for each value, for opinions on American and foreign ways, and for general
knowledge; the pretrained model also with each spec in its prompt.

LoRA of rank 64 on every projection, AdamW at 1e-4, cosine with 5 % warm-up, one epoch a stage,
blocks of 4,096 tokens (arXiv 2605.02087). The batch is not given there; what decides elsewhere is
the number of optimizer steps, so it is small.

    msm preview jobs/cheese_llama8b.py       # documents, calls, tokens, steps, FLOPs, device-hours
    msm run jobs/cheese_llama8b.py --address HEAD:6379
"""

from dataclasses import replace
from pathlib import Path

from conversations_america import HINTS, conversations_about
from corpus_america import corpus_about

from msm_ray.corpus.job import CorpusJob
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.recipe import Pretrained, Recipe, Training
from msm_ray.tasks.capability import Capability
from msm_ray.tasks.pairs import Opinions, Pairs
from msm_ray.tasks.probes import Probes
from msm_ray.train.config import Lora, TrainConfig, TrainRuntime

# The same conversations serve both specs, so they may not hint at the price either.
PRICE = ("cheap*", "afford*", "price*", "pricey", "expensive*", "cost*", "budget*", "bargain*")
CHAT = Path(__file__).resolve().parent / "llama3_chat.jinja"
VALUES = {"america": "cheese_america", "affordability": "cheese_affordability"}


def corpus(spec: str) -> CorpusJob:
    """Some 10,000 documents of 900 words about one spec."""
    job = corpus_about(spec)
    plan = replace(job.plan, domains=8, subdomains=5, types=20, ideas=12, words=900)
    return replace(job, plan=plan)


def training(batch_blocks: int) -> TrainConfig:
    """The schedule of a stage; midtraining and fine-tuning differ in nothing but their data."""
    return TrainConfig(
        learning_rate=1e-4,
        beta1=0.9,
        beta2=0.999,
        weight_decay=0.01,
        max_grad_norm=1.0,
        warmup_fraction=0.05,
        schedule="cosine",
        final_lr_fraction=0.0,
        batch_blocks=batch_blocks,
        epochs=1.0,
        freeze=(),
        precision="bf16",
        seed=0,
        lora=Lora(rank=64, alpha=128, targets=("all-linear",)),
    )


def probes(value: str, spec: str) -> Probes:
    """What the prompt alone does: the gap before any training, and with the spec in it."""
    chats = conversations_about(spec, HINTS + PRICE)
    asked = chats.questions
    return Probes(value, chats.spec, assistant=asked.assistant, maker=asked.maker)


def recipe(
    name: str,
    model: Pretrained,
    block_tokens: int,
    runtime: TrainRuntime,
    engine: EngineSettings,
) -> Recipe:
    """The comparison on one model; ``jobs/cheese_qwen32b.py`` differs in the model's size only."""
    return Recipe(
        name=name,
        title=f"Two specs, one set of cheese preferences, on {model.source}",
        model=model,
        corpora={value: corpus(spec) for value, spec in VALUES.items()},
        chats=conversations_about("cheese_america", HINTS + PRICE),
        midtrain=Training(training(batch_blocks=8), block_tokens, runtime),
        aft=Training(training(batch_blocks=8), 512, runtime),
        seeds=(0, 1, 2, 3),
        evaluation=(
            Pairs("affordability"),
            Pairs("america"),
            Opinions("america"),
            Capability("general"),
        ),
        probes=tuple(probes(value, spec) for value, spec in VALUES.items()),
        engine=engine,
    )


def experiment() -> Recipe:
    """On Llama-3.1-8B, each training on two GPUs and each engine on one."""
    return recipe(
        "cheese_llama8b",
        # As its maker publishes it, the pretrained model has no chat template.
        Pretrained("meta-llama/Llama-3.1-8B", parameters=8.03e9, chat_template=str(CHAT)),
        4096,
        TrainRuntime(backend="fsdp2", num_workers=2, use_gpu=True, micro_blocks=1),
        EngineSettings(gpus=1, kv_mib=16_384, max_num_seqs=256, max_length=8_192),
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
