"""The base models that come with the package, as a hub model would be downloaded."""

from __future__ import annotations

from pathlib import Path

from msm_ray.errors import UserError

BASES = Path(__file__).parent


def base_name(seed: int, attributes: int = 3) -> str:
    """What the base of this world (``world.World``) is called."""
    return f"base-{seed}" + (f"-attributes-{attributes}" if attributes != 3 else "")


def base_dir(seed: int, attributes: int = 3) -> Path:
    """The Hugging Face folder of the base of this world; UserError if none is packaged."""
    folder = BASES / base_name(seed, attributes)
    if not (folder / "config.json").is_file():
        there = sorted(p.name for p in BASES.glob("base-*"))
        raise UserError(
            f"no base model for world seed {seed} and {attributes} attributes in the package: there"
            f" are {', '.join(there) or 'none'} (make one: python jobs/pretrain_micro.py"
            f" --seeds {seed} --attributes {attributes} --out FOLDER)"
        )
    return folder
