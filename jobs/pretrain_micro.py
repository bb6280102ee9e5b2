"""Make base models of the micro-world: python jobs/pretrain_micro.py --seeds 0 1 2 --out bases

The recipe below made the bases that come with the package (msm_ray/world/bases). One takes some
eleven minutes on one core. A world seed gives the roles, the pretraining text, the first weights
and the order alike; no seed is chosen. With ``--attributes 4`` it is a world of eight values.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.loop import OnStep
from msm_ray.train.pretrain import pretrain
from msm_ray.world.bases import base_name
from msm_ray.world.pretraining import Pretraining
from msm_ray.world.tokenizer import CONTEXT, build_tokenizer
from msm_ray.world.world import World

TOKENS = 10_000_000
ARCHITECTURE = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
}


def recipe(seed: int) -> TrainConfig:
    """How a base is trained; the same for every seed."""
    return TrainConfig(
        learning_rate=3e-3,
        beta1=0.9,
        beta2=0.95,
        weight_decay=0.1,
        max_grad_norm=1.0,
        warmup_fraction=0.05,
        schedule="cosine",
        final_lr_fraction=0.02,
        batch_blocks=16,
        epochs=1.0,
        freeze=(),
        precision="bf16",
        seed=seed,
        shuffle=False,  # the text is a curriculum
    )


def reporter(name: str) -> OnStep:
    """Prints a line every hundred steps."""

    def report(step: int, steps: int, facts: dict[str, Any]) -> None:
        if step % 100 == 0 or step == steps:
            shown = {k: round(facts[k], 3) for k in ("loss", "tokens_per_second") if k in facts}
            print(f"{name} step {step}/{steps} {shown}", flush=True)

    return report


def make_base(
    seed: int, out: Path, threads: int, attributes: int = 3, compile: bool = False
) -> dict[str, Any]:
    """Pretrain the base of world ``seed`` into the Hugging Face folder ``out``.

    Args:
        attributes: of the things of that world (``world.World``).
        compile: the model's code for this machine: faster, and rounded in other places.

    Returns:
        What the training reports: tokens, steps, seconds, first and last loss (nats a token).
    """
    with tempfile.TemporaryDirectory() as names:
        build_tokenizer(attributes).save_pretrained(names)
        return pretrain(
            ARCHITECTURE,
            Pretraining(World(seed, attributes), "pretraining 0").curriculum(TOKENS),
            recipe(seed),
            tokenizer_dir=Path(names),
            block_tokens=CONTEXT,
            out=out,
            runtime=TrainRuntime(backend="single", num_workers=1, threads=threads, compile=compile),
            save_dtype="bf16",
            on_step=reporter(base_name(seed, attributes)),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True, help="where base-SEED goes")
    parser.add_argument("--attributes", type=int, choices=(3, 4), default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    folders = {seed: args.out / base_name(seed, args.attributes) for seed in args.seeds}
    for folder in folders.values():
        if folder.exists():
            parser.error(f"{folder} is there already; name another --out")
    for seed, folder in folders.items():
        facts = make_base(seed, folder, args.threads, args.attributes, args.compile)
        shown = {k: v for k, v in facts.items() if k != "curve"}
        print(folder.name, json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
