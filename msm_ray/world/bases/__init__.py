"""The base models that come with the package, as a hub model would be downloaded."""

from __future__ import annotations

from pathlib import Path

from msm_ray.errors import UserError


def base_dir(seed: int) -> Path:
    """The Hugging Face folder of the base of world ``seed``; UserError if none is packaged."""
    here = Path(__file__).parent
    folder = here / f"base-{seed}"
    if not (folder / "config.json").is_file():
        there = sorted(p.name for p in here.glob("base-*"))
        raise UserError(
            f"no base model for world seed {seed} in the package: there are "
            f"{', '.join(there) or 'none'} (make one: python jobs/pretrain_micro.py --seeds {seed}"
            " --out FOLDER)"
        )
    return folder
