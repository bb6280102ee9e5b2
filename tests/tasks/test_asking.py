"""What asking comes to, and how rows become rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.errors import UserError
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.recipe import Pretrained
from msm_ray.tasks.asking import LEAST_SECONDS, Size, by, rate, row

ENGINE = EngineSettings(max_num_seqs=100)


def test_device_seconds_grow_with_the_model_and_what_it_reads_and_writes() -> None:
    small, large = (Pretrained("owner/name", p).stage() for p in (1e9, 8e9))
    whole = Size(10, 1e6, 1e5).estimate({"model": large}, ENGINE)
    assert (whole["calls"], whole["tokens"], whole["prompt_tokens"]) == (10, 1e5, 1e6)
    # 16 GB to load, 16 GFLOP a token read, and 1,000 steps of a hundred tokens over the weights.
    expected = LEAST_SECONDS + 16 + 16e15 / (989e12 * 0.4) + 1_000 * 16e9 / 3.35e12
    assert whole["seconds"] == pytest.approx(expected)
    adapter = Size(10, 1e6, 1e5).estimate({"model": large, "base": large}, ENGINE)
    assert adapter["seconds"] == pytest.approx(expected - 16)  # its base is held already
    less = Size(10, 1e6, 1e5).estimate({"model": small}, ENGINE)["seconds"]
    assert less < whole["seconds"]


values = st.lists(
    st.tuples(st.none() | st.floats(0, 1), st.integers(1, 5), st.sampled_from("xy")), min_size=1
)


@given(values)
def test_a_rate_is_over_what_has_a_value(drawn: list[tuple[float | None, int, str]]) -> None:
    rows = [
        row({"id": str(i), "domain": domain}, "e", value, prompt="", weight=float(weight))
        for i, (value, weight, domain) in enumerate(drawn)
    ]
    counted = [(v, w) for v, w, _ in drawn if v is not None]
    if not counted:
        with pytest.raises(UserError, match="at least one item with a value"):
            rate(rows)
        assert by(rows, "domain") == {}
        return
    found = rate(rows)
    assert found["n"] == len(counted)
    total = sum(w for _, w in counted)
    assert found["rate"] == pytest.approx(sum(v * w for v, w in counted) / total)
    parts = by(rows, "domain")
    assert sum(part["n"] for part in parts.values()) == found["n"]
