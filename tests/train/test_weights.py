from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from msm_ray.errors import UserError
from msm_ray.train.model import meta_model
from msm_ray.train.weights import Weights, seeded_uniform

from .families import FAMILIES, make_base


def test_rows_of_what_lies_in_files_and_of_what_is_given(tmp_path: Path, small_model: Any) -> None:
    small_model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    weights = Weights(tmp_path, {"extra": torch.arange(6).view(3, 2).bfloat16()})
    for name, value in small_model.named_parameters():
        assert weights.shape(name) == tuple(value.shape)
        assert weights.whole(name).equal(value)
        assert weights.rows(name, 1, 3).equal(value[1:3])
    assert weights.rows("extra", 1, 2).tolist() == [[2.0, 3.0]]
    assert weights.whole("extra").dtype == torch.float32
    weights.check([*dict(small_model.named_parameters()), "extra"])
    for ask in (weights.whole, lambda name: weights.check(["extra", name])):
        with pytest.raises(UserError, match="no weight model.norm.bias"):
            ask("model.norm.bias")
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        Weights(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_without_memory_has_its_buffers(tmp_path: Path, name: str) -> None:
    """They are in no file, and wrong ones would train without an error."""
    from msm_ray.train.model import load_model

    made, loaded = meta_model(make_base(FAMILIES[name], tmp_path)), load_model(tmp_path)
    assert {p.device.type for p in made.parameters()} == {"meta"}
    assert [n for n, _ in made.named_parameters()] == [n for n, _ in loaded.named_parameters()]
    buffers = dict(loaded.named_buffers())
    assert buffers
    for key, value in made.named_buffers():
        assert value.equal(buffers.pop(key)), key
    assert not buffers


def test_seeded_draws_differ_by_seed_and_name() -> None:
    one = seeded_uniform((4, 9), 0, "a")
    assert one.equal(seeded_uniform((4, 9), 0, "a"))
    assert not one.equal(seeded_uniform((4, 9), 1, "a"))
    assert not one.equal(seeded_uniform((4, 9), 0, "b"))
