"""A tiny writer for the tests of the corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from .tiny import write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a context of 64 tokens."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
