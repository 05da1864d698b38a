"""What the tests of rollout workers share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray cluster of four CPUs, joined by this process; its address."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_prestart_worker_first_driver", "0")  # workers that nobody has asked for
        warnings.simplefilter("ignore")
        ray.init(address="local", num_cpus=4, object_store_memory=100_000_000, include_dashboard=False)
    yield str(ray.get_runtime_context().gcs_address)
    ray.shutdown()
