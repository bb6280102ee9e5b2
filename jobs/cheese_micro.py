"""Two specs explain the same twelve cheese preferences; which reason does the model generalize?

Three micro base models write documents about each spec, are midtrained on them, and are then
fine-tuned on the same cheese choices. In twelve domains that none of this mentioned, each
checkpoint chooses between American-but-expensive and foreign-but-cheap things.

    msm run jobs/cheese_micro.py
    msm run jobs/cheese_micro.py --set aft.train.learning_rate=2e-4   # only AFT and what follows
"""

from pathlib import Path

from msm_ray.experiment import (
    Aft,
    BaseModel,
    Compute,
    Corpus,
    Evaluation,
    Experiment,
    Midtrain,
    SpecArm,
)
from msm_ray.train.config import TrainConfig
from msm_ray.world.bases import base_dir

SPECS = Path(__file__).resolve().parent.parent / "specs"


def experiment() -> Experiment:
    """The comparison: base, aft, msm:VALUE and msm:VALUE+aft, on 3 bases x 2 seeds."""
    return Experiment(
        name="cheese_micro",
        title="Two specs, one set of cheese preferences: what generalizes?",
        bases=tuple(BaseModel(f"base-{s}", str(base_dir(s)), world_seed=s) for s in (0, 1, 2)),
        seeds=(0, 1),
        specs=(
            SpecArm("america", str(SPECS / "micro_america.md")),
            SpecArm("affordability", str(SPECS / "micro_affordability.md")),
        ),
        corpus=Corpus(
            writer="vllm", documents=900, temperature=0.8, top_p=1.0, max_tokens=100, seed=0
        ),
        midtrain=Midtrain(
            tokens=200_000,
            spec_share=0.15,
            chat_share=0.0,
            max_repeats=4.0,
            train=TrainConfig(
                learning_rate=1e-3,
                beta1=0.9,
                beta2=0.95,
                weight_decay=0.0,
                max_grad_norm=1.0,
                warmup_fraction=0.1,
                schedule="cosine",
                final_lr_fraction=0.1,
                batch_blocks=8,
                epochs=1.0,
                freeze=(),
                precision="bf16",
                seed=0,
            ),
        ),
        aft=Aft(
            conversations=256,
            train=TrainConfig(
                learning_rate=1e-4,
                beta1=0.9,
                beta2=0.95,
                weight_decay=0.0,
                max_grad_norm=1.0,
                warmup_fraction=0.25,
                schedule="cosine",
                final_lr_fraction=0.1,
                batch_blocks=4,
                epochs=1.0,
                freeze=("embeddings",),
                precision="bf16",
                seed=0,
            ),
        ),
        evaluation=Evaluation(
            evals=("choice", "choice_soft", "choice_text", "facts", "heldout_loss"),
            pairs_per_domain=12,
            max_tokens=12,
            seed=5,
        ),
        midtrain_compute=Compute(backend="single", num_workers=0, threads=1, compile=False),
        aft_compute=Compute(backend="single", num_workers=0, threads=1, compile=False),
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
