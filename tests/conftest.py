"""What all tests share: one Ray cluster for the whole session."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Who starts the tests in the background has Ctrl-C ignored, and so would every process that they
# start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


# How long an example takes says how busy the machine is, and nothing of the code. The same code is
# asked the same examples, so that a change is not blamed for what was there before;
# HYPOTHESIS_PROFILE=explore draws others at every run.
settings.register_profile("default", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="whole lengths, and tests marked long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Files with slow tests come first: two workers then end at about the same time.
    slow = {item.path for item in items if "slow" in item.keywords}
    items.sort(key=lambda item: item.path not in slow)
    if not config.getoption("--long"):
        skip = pytest.mark.skip(reason="long: make test-long")
        for item in items:
            if "long" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether tests that repeat something at random places do so as often as they can."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster of two CPUs, started by the first test that asks for it.

    Always a new one: a test never attaches to a cluster that happens to run on this machine.
    """
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=200 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()
