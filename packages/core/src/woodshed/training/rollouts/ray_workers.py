"""The settings of rollout workers: how many Ray actors run the user's agent, where, and in which environment."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any, Self

from packaging.version import Version
from pydantic import Field, model_validator

from woodshed.capture import RolloutFunction
from woodshed.errors import ConfigError
from woodshed.training.rollouts.parcel import scenario_parcel, worker_parcel
from woodshed.training.rollouts.ray_cluster import Cluster
from woodshed.training.rollouts.ray_pool import RayPool
from woodshed.types import Settings

OLDEST_RAY = "2.60"
"""The oldest Ray that workers are tested with."""


class RayWorkers(Settings):
    """Run the agent in Ray actors instead of the training's process: for agents that are heavy or block.

    The engine is reached over the network: one on loopback serves workers of the same machine only.
    """

    count: int = Field(ge=1, le=10_000)
    """Workers, each a process of its own."""
    address: str = "auto"
    """Of the Ray cluster: `auto` is the one this machine belongs to, `local` starts one for the run on this machine,
    else `HOST:PORT`. Where the program has called `ray.init` itself, that cluster is used."""
    runtime_env: dict[str, Any] | None = None
    """The environment of the workers, as Ray takes it: `pip`, `py_modules`, `working_dir`, `env_vars` and more."""
    cpus_per_worker: float = Field(default=1, ge=0)
    """CPUs of the cluster that each worker reserves. Ray also sets `OMP_NUM_THREADS` by it."""
    rollouts_per_worker: int = Field(default=8, ge=1)
    """Rollouts that each worker runs at a time; with all workers, `max_concurrency` is still the limit."""

    def __init__(self, count: int | None = None, /, **settings: Any) -> None:
        """`RayWorkers(4)` and `RayWorkers(count=4)` are the same."""
        super().__init__(**({"count": count} if count is not None else {}), **settings)

    @model_validator(mode="after")
    def _no_client(self) -> Self:
        if self.address.startswith("ray://"):
            raise ConfigError(
                f"RayWorkers.address is {self.address!r}, a Ray Client's; expected the cluster's own address, such as "
                "'auto': start the training on a machine of the cluster"
            )
        return self


def check_workers(workers: object) -> None:
    """Raise ConfigError where workers are something else, or Ray is missing or too old; Ray is not imported."""
    if workers is None:
        return
    if not isinstance(workers, RayWorkers):
        count = f"count={workers}" if isinstance(workers, int) else "count=4"
        raise ConfigError(f"workers is {workers!r}; expected woodshed.RayWorkers({count}), or None for this process")
    try:
        version = metadata.version("ray")
    except metadata.PackageNotFoundError:
        raise ConfigError(
            "workers=RayWorkers(...), and 'ray' is not installed here: pip install 'woodshed[ray]', or leave workers "
            "out to run the agent in this process"
        ) from None
    if Version(version) < Version(OLDEST_RAY):
        raise ConfigError(f"'ray' {version} is installed; rollout workers need 'ray>={OLDEST_RAY},<2.61'")


@asynccontextmanager
async def rollout_workers(
    workers: RayWorkers,
    function: RolloutFunction,
    scenarios: Sequence[Any],
    warn: Callable[[str], None],
) -> AsyncIterator[RayPool]:
    """Start the workers, yield them, and end them with the block.

    Args:
        workers: Their settings.
        function: What they run.
        scenarios: All that it may be called with.
        warn: Is told of workers that are lost.

    Raises:
        ConfigError: the function or a scenario cannot be sent to a worker, or there is no such cluster.
        WorkerError: the workers could not be started.
    """
    ray: Any = importlib.import_module("ray")  # only here, because nothing else needs it
    parcel = worker_parcel(ray.cloudpickle, function)
    for number, scenario in enumerate(scenarios):
        scenario_parcel(ray.cloudpickle, scenario, f"scenarios[{number}]")
    cluster = Cluster(
        ray=ray, parcel=parcel, count=workers.count, address=workers.address, runtime_env=workers.runtime_env,
        cpus=workers.cpus_per_worker, rollouts_each=workers.rollouts_per_worker,
    )  # fmt: skip
    async with RayPool(cluster, warn=warn) as pool:
        yield pool
