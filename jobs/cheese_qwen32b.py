"""The cheese comparison on Qwen2.5-32B: longer blocks, eight GPUs a training, two an engine.

msm preview jobs/cheese_qwen32b.py
"""

from cheese_llama8b import recipe

from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.recipe import Pretrained, Recipe
from msm_ray.train.config import TrainRuntime


def experiment() -> Recipe:
    """See `cheese_llama8b`."""
    return recipe(
        "cheese_qwen32b",
        Pretrained("Qwen/Qwen2.5-32B", parameters=32.8e9),
        8192,
        TrainRuntime(
            backend="fsdp2",
            num_workers=8,
            use_gpu=True,
            micro_blocks=1,
            activation_checkpointing=True,
            meta_init=True,
        ),
        EngineSettings(gpus=2, kv_mib=16_384, max_num_seqs=256, max_length=8_192),
    )


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
