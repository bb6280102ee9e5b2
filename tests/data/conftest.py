"""The micro-world's tokenizer."""

from __future__ import annotations

from typing import Any

import pytest

from msm_ray.world.tokenizer import build_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return build_tokenizer()
