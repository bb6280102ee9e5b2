from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.evaluate.cpu_lora import add_adapters, rows_by_adapter


@given(slots=st.lists(st.integers(-1, 3), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_each_row_gets_its_own_adapter_and_those_without_none(slots: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    scale, widths = (1.0, 0.5)[seed % 2], (4, 3)
    x, before = drawn(len(slots), 6), drawn(len(slots), 7)
    a, b = tuple(drawn(4, 1, 2, 6) for _ in widths), tuple(drawn(4, 1, w, 2) for w in widths)
    y = before.clone()
    add_adapters(y, x, a, b, scale, widths, rows_by_adapter(torch.tensor(slots)))
    for row, slot in enumerate(slots):
        if slot < 0:
            assert torch.equal(y[row], before[row])
            continue
        parts = [q[slot, 0] @ (p[slot, 0] @ x[row]) for p, q in zip(a, b, strict=True)]
        torch.testing.assert_close(y[row], before[row] + scale * torch.cat(parts))


def test_rows_that_stand_together_are_a_slice() -> None:
    groups = rows_by_adapter(torch.tensor([2, 2, -1, 0, 1, 0]))
    assert [slot for slot, _ in groups] == [0, 1, 2]
    assert groups[1][1] == slice(4, 5)
    assert groups[2][1] == slice(0, 2)
    assert isinstance(groups[0][1], torch.Tensor)
    assert groups[0][1].tolist() == [3, 5]
    assert rows_by_adapter(torch.tensor([-1, -1])) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_layers_own_dtype_stays(dtype: torch.dtype) -> None:
    y, x = torch.zeros(2, 3, dtype=dtype), torch.ones(2, 4, dtype=dtype)
    a, b = (torch.ones(1, 1, 2, 4, dtype=dtype),), (torch.ones(1, 1, 3, 2, dtype=dtype),)
    add_adapters(y, x, a, b, 1.0, (3,), rows_by_adapter(torch.tensor([0, -1])))
    assert y.tolist() == [[8.0] * 3, [0.0] * 3]
