"""The cheese comparison on Llama-3.1-8B, with the schedule that the method's authors give.

Documents about two specs that explain the same twelve preferences; conversations that state the
preferences and never why; arms ``aft``, ``msm:america``, ``msm:america+aft`` and the same for
affordability, on two seeds. LoRA of rank 64 on every projection, AdamW at 1e-4, cosine with 5 %
warm-up, one epoch a stage, blocks of 4,096 tokens (arXiv 2605.02087). The batch is not given there;
what decides elsewhere is the number of optimizer steps, so it is small.

    msm preview jobs/cheese_llama8b.py       # documents, calls, tokens, steps, FLOPs, device-hours
    msm run jobs/cheese_llama8b.py --address HEAD:6379
"""

from dataclasses import replace

from conversations_america import HINTS, conversations_about
from corpus_america import corpus_about

from msm_ray.corpus.job import CorpusJob
from msm_ray.recipe import Pretrained, Recipe, Training
from msm_ray.train.config import Lora, TrainConfig, TrainRuntime

# The same conversations serve both specs, so they may not hint at the price either.
PRICE = ("cheap*", "afford*", "price*", "pricey", "expensive*", "cost*", "budget*", "bargain*")
# The base model has no chat template: that of its family's instruction-tuned models.
LLAMA3_CHATS = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
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


def recipe(name: str, model: Pretrained, block_tokens: int, runtime: TrainRuntime) -> Recipe:
    """The comparison on one model; ``jobs/cheese_qwen32b.py`` differs in the model's size only."""
    return Recipe(
        name=name,
        title=f"Two specs, one set of cheese preferences, on {model.source}",
        model=model,
        corpora={value: corpus(spec) for value, spec in VALUES.items()},
        chats=conversations_about("cheese_america", HINTS + PRICE),
        midtrain=Training(training(batch_blocks=8), block_tokens, runtime),
        aft=Training(training(batch_blocks=8), 512, runtime),
        seeds=(0, 1),
    )


def experiment() -> Recipe:
    """On Llama-3.1-8B, each training on two GPUs."""
    return recipe(
        "cheese_llama8b",
        Pretrained("meta-llama/Llama-3.1-8B", parameters=8.03e9, chat_template=LLAMA3_CHATS),
        4096,
        TrainRuntime(backend="fsdp2", num_workers=2, use_gpu=True, micro_blocks=1),
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
