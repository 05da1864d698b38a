"""Joining a Ray cluster, or starting one on this machine for as long as the engine runs."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from woodshed.engine.client.ray_cluster import LOCAL, knock, no_ray
from woodshed.errors import ConfigError, EngineError

_STARTS, _TOO_SLOW = 3, "timed out during startup"
"""How often a cluster is started here, on a machine that is too busy for the half minute that Ray waits for it."""
_LOCAL_STORE_BYTES = 200 * 2**20
"""Of a cluster that is started here; what it cannot hold goes to disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RayCluster:
    """A cluster that this process has joined."""

    address: str
    """As other processes of this machine can use it."""
    ip: str
    """Of this machine, in the cluster."""
    gpu: bool
    """Whether any node has a GPU."""


@contextmanager
def joined(address: str, *, processes: int) -> Iterator[RayCluster]:
    """Join the cluster at `address` until the block ends; `processes` is how many a cluster of this machine must fit.

    It must be called from the main thread, and before signal handlers are set: Ray sets one of its own.

    Raises:
        ConfigError: Ray is not installed.
        EngineError: There is no such cluster, or it runs another version of Ray or Python.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(no_ray(sys.executable))
    # Under `uv run`, Ray would have every node make the environment of this process anew, and not use its own.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    ray: Any = importlib.import_module("ray")
    try:
        knock(address)
        for remaining in reversed(range(_STARTS if address == LOCAL else 1)):
            try:
                # Standard output is the engine's own, so nodes must not print there.
                ray.init(log_to_driver=False, **(_own(processes) if address == LOCAL else {"address": address}))
                break
            except Exception as error:
                if _TOO_SLOW not in str(error) or not remaining:
                    raise
                ray.shutdown()
    except Exception as error:  # Ray raises a bare one where its processes do not come up in time
        raise EngineError(
            f"the Ray cluster {address!r} cannot be joined: {error}. 'auto' is the one that this machine belongs to "
            "(`woodshed ray up` begins one, `woodshed ray up --address HEAD:6379` joins it); 'local' needs none"
        ) from error
    try:
        context = ray.get_runtime_context()
        yield RayCluster(
            address=context.gcs_address,
            ip=ray.util.get_node_ip_address(),
            gpu=ray.cluster_resources().get("GPU", 0) > 0,
        )
    finally:
        ray.shutdown()


def _own(processes: int) -> dict[str, Any]:
    """Return the settings of a cluster of this machine; replicas share its cores, as they do without Ray."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return {
        "address": "local",
        "num_cpus": max(os.cpu_count() or 1, processes + 1),
        "include_dashboard": False,
        "object_store_memory": _LOCAL_STORE_BYTES,
        "_system_config": {
            # Ray would end a replica where memory is short; without Ray, that is the system's business, too.
            "memory_monitor_refresh_ms": 0,
            # A process for each core at once: more than there are replicas, and trainers use none of them.
            "prestart_worker_first_driver": False,
        },
    }
