"""What the evaluation's tests share: four small models, one table of items."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .adapters import make_adapter
from .tiny import WORDS, forward, item_row, make_model, write_items


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """a, b, c: one architecture, other weights; wide: another architecture."""
    root = tmp_path_factory.mktemp("models")
    made = {name: make_model(root / name, seed) for seed, name in enumerate("abc")}
    made["wide"] = make_model(root / "wide", 9, tied=False, hidden=96)
    return made


@pytest.fixture(scope="session")
def reference() -> Callable[[Path, list[int]], Any]:
    """The model's own forward pass in transformers: (folder, ids) -> (tokens, vocabulary)."""
    loaded: dict[Path, Any] = {}

    def run(folder: Path, ids: list[int]) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        if folder not in loaded:
            loaded[folder] = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32
            ).eval()
        return forward(loaded[folder], ids)

    return run


@pytest.fixture(scope="session")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 choices (one of two words more than one token), 10 facts, 6 texts."""
    rows = []
    for i in range(24):
        pair, order = divmod(i, 2)
        named = [f"w{20 + 2 * pair}", f"w{21 + 2 * pair}"]
        asked = named if order == 0 else named[::-1]
        prompt = f"w1 {asked[0]} w2 {asked[1]} w3 w4"
        rows.append(
            item_row(
                f"c{i:02}",
                domain="cars" if pair % 2 else "books",
                pair=f"p{pair}",
                order=order,
                prompt=prompt,
                open_prompt=f"w1 {asked[0]} w2 {asked[1]} w3",
                options=named if pair else [f"{named[0]} w7", named[1]],
            )
        )
    for i in range(10):
        rows.append(item_row(f"f{i}", eval="facts", prompt=f"w9 w{i} w8", domain="books"))
    for i in range(6):
        text = " ".join(f"w{(7 * i + j * j) % WORDS}" for j in range(5 + 12 * i))
        rows.append(item_row(f"h{i}", eval="heldout", prompt=text, options=[], open_prompt=""))
    return write_items(tmp_path_factory.mktemp("items"), rows)


@pytest.fixture(scope="package")
def engines(ray_cluster: None) -> Iterator[Any]:
    """The pool, with patience for seconds only; its engines end with this folder's tests."""
    import ray

    from msm_ray.evaluate.pool import engine_pool

    pool = engine_pool()

    def hurry(actor: Any) -> None:
        from msm_ray.evaluate import pool as module

        module.LAPSE_SECONDS, module.BEAT_SECONDS = 4.0, 0.5

    ray.get(pool.__ray_call__.remote(hurry))
    yield pool
    ray.kill(pool)


@pytest.fixture(scope="session")
def adapters(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six adapters over model a: of ranks 8 and 16, one of them beside few layers only."""
    root = tmp_path_factory.mktemp("adapters")
    made = [make_adapter(root / f"{i}", models["a"], 10 + i) for i in range(4)]
    made.append(make_adapter(root / "4", models["a"], 14, rank=16))
    made.append(make_adapter(root / "5", models["a"], 15, targets=("q_proj", "down_proj")))
    return made
