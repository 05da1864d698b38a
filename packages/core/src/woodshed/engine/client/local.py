"""Engines for a run: one that is started on this machine and stopped again, or one that runs elsewhere.

```python
policy = ServedModel(name="policy", path="./my-model", trainable=True)
async with Engine.local(models={"judge": "./my-judge"}).running([policy], Path("run/engine")) as client:
    print((await client.health()).models)
```
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from woodshed.engine.client.client import EngineClient
from woodshed.engine.client.config import (
    LOOPBACK,
    EngineConfig,
    GpuSharing,
    ServedModel,
    Trainers,
    check_config,
    to_models,
)
from woodshed.engine.client.engine_process import ReportProgress, follow, spawn, stop, until_ready
from woodshed.engine.client.provision import engine_python
from woodshed.engine.client.ray_cluster import check_address, check_has_ray
from woodshed.engine.client.served import check_served
from woodshed.errors import EngineError


def _quiet(_: str) -> None:
    """Show no progress."""


@dataclass(frozen=True, kw_only=True)
class LocalEngine:
    """An engine on this machine, in a process of its own; made by `Engine.local`."""

    models: tuple[ServedModel, ...] = ()
    home: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0
    api_key: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    python: Path | None = None
    trainers: Trainers = field(default_factory=Trainers)
    gpu_sharing: GpuSharing | None = None
    ray: str | None = None

    @asynccontextmanager
    async def running(
        self, models: Sequence[ServedModel] = (), home: Path | None = None, *, progress: ReportProgress = _quiet
    ) -> AsyncIterator[EngineClient]:
        """Start the engine, yield a client once it is ready, and stop it at the end or when this process dies.

        Args:
            models: Models that the run needs; one of the same name given to `Engine.local` wins.
            home: Folder for logs, calls and checkpoints; a home given to `Engine.local` wins.
            progress: Called with a few words whenever something happens.

        Raises:
            ConfigError: A model's folder or the address cannot be used, or Ray is asked for and not installed.
            EngineMissing: The engine environment is not installed.
            EngineError: It did not start; carries the last lines of its log.
        """
        config = self._config(models, home)
        python = self.python or engine_python()
        if config.ray is not None:
            await asyncio.to_thread(check_has_ray, python)
        config.home.mkdir(parents=True, exist_ok=True)
        process = await spawn(python, config)
        following: asyncio.Task[None] | None = None
        try:
            url = await until_ready(process, config.home / "logs" / "engine.log", progress)
            following = asyncio.create_task(follow(process, progress))
            async with EngineClient(url, config.api_key) as client:
                await client.health()
                yield client
        finally:
            await stop(process)
            if following is not None:
                following.cancel()

    def _config(self, models: Sequence[ServedModel], home: Path | None) -> EngineConfig:
        served = {model.name: self._shared(model) for model in (*models, *self.models)}
        return check_config(
            EngineConfig(
                home=self.home or home or Path("woodshed-engine"),
                host=self.host,
                port=self.port,
                # Loopback is open to every user of this machine. Elsewhere the user must choose a key: others need it.
                api_key=self.api_key or (secrets.token_urlsafe(32) if self.host in LOOPBACK else None),
                allowed_hosts=self.allowed_hosts,
                models=tuple(served.values()),
                trainers=self.trainers,
                ray=self.ray,
                parent_pid=os.getpid(),
            )
        )

    def _shared(self, model: ServedModel) -> ServedModel:
        return model if self.gpu_sharing is None else model.model_copy(update={"gpu_sharing": self.gpu_sharing})


@dataclass(frozen=True, kw_only=True)
class ConnectedEngine:
    """An engine that runs elsewhere and keeps running; made by `Engine.connect`."""

    url: str
    api_key: str | None = field(default=None, repr=False)

    @asynccontextmanager
    async def running(
        self, models: Sequence[ServedModel] = (), home: Path | None = None, *, progress: ReportProgress = _quiet
    ) -> AsyncIterator[EngineClient]:
        """Yield a client, after checking that the engine answers and serves every model that the run needs.

        Raises:
            EngineUnreachable: Nothing answers at `url`.
            EngineError: The engine speaks another protocol, or does not serve one of the models.
            ConfigError: It serves another model under that name, or with other settings than the run sets.
        """
        async with EngineClient(self.url, self.api_key) as client:
            health = await client.health()
            served = sorted(model.name for model in health.models)
            missing = sorted({model.name for model in models} - set(served))
            if missing:
                raise EngineError(
                    f"the engine at {self.url} serves {served}, not {missing}; start it with these models"
                )
            check_served(self.url, models, health.models)
            progress(f"connected to {self.url}")
            yield client


class Engine:
    """Where policies are served and trained: on this machine (`local`) or elsewhere (`connect`)."""

    @staticmethod
    def local(
        *,
        models: Mapping[str, str | ServedModel] | None = None,
        home: str | Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        allowed_hosts: Sequence[str] = (),
        python: str | Path | None = None,
        trainers: int = 1,
        shard_base: bool = False,
        gpu_sharing: GpuSharing | None = None,
    ) -> LocalEngine:
        """Return an engine that is started on this machine when a run needs it.

        Args:
            models: More models to serve, by name, such as `{"judge": "./my-judge"}`.
            home: Folder for logs, calls and checkpoints; a run uses its own folder otherwise.
            host: Address to listen on; any but loopback requires an `api_key`.
            port: Port to listen on; 0 takes a free one.
            api_key: The key that clients must send. Without one an engine on loopback gets a random key, which the
                client of the run knows.
            allowed_hosts: Names under which a proxy on this machine passes requests on, such as `engine.example.com`;
                an engine on loopback answers to no other name.
            python: Interpreter of the engine environment; the one that `woodshed engine install` made otherwise.
            trainers: Processes that share the work of each training step, with a GPU each where there are any.
            shard_base: Whether the base model is split over the trainers, because one card cannot hold it whole.
            gpu_sharing: `ServedModel.gpu_sharing` of every model, the run's policy included: `sleep` fits larger models
                and longer rollouts on a small GPU, `split` (the default) trains without interrupting calls.

        Raises:
            ConfigError: A setting cannot be used, such as 0 trainers.
        """
        return LocalEngine(
            models=to_models(models or {}),
            home=None if home is None else Path(home),
            host=host,
            port=port,
            api_key=api_key,
            allowed_hosts=tuple(allowed_hosts),
            python=None if python is None else Path(python),
            trainers=Trainers(count=trainers, shard_base=shard_base),
            gpu_sharing=gpu_sharing,
        )

    @staticmethod
    def ray(
        address: str = "auto",
        *,
        models: Mapping[str, str | ServedModel] | None = None,
        home: str | Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        allowed_hosts: Sequence[str] = (),
        python: str | Path | None = None,
        trainers: int = 1,
        shard_base: bool = False,
    ) -> LocalEngine:
        """Return an engine of this machine whose vLLM servers and trainers run on the nodes of a Ray cluster.

        This machine must be one of them. Every node needs the engine environment, made by `woodshed engine install
        --ray` from the same woodshed, and the models that it is to serve under the same paths.

        Args:
            address: The cluster's, as `ray.init` takes it: `auto` for the one that this machine belongs to, such as
                `10.0.0.1:6379`, or `local` for one that is started here and ends with the engine.
            models: As for `local`, and so are all further arguments.
            home: Folder for logs, calls and checkpoints, on this machine.
            host: Address to listen on.
            port: Port to listen on.
            api_key: The key that clients must send.
            allowed_hosts: Names under which a proxy on this machine passes requests on.
            python: Interpreter of this machine's engine environment.
            trainers: Processes that share the work of each training step.
            shard_base: Whether the base model is split over the trainers.

        Raises:
            ConfigError: A setting cannot be used.
        """
        check_address(address)
        engine = Engine.local(
            models=models, home=home, host=host, port=port, api_key=api_key, allowed_hosts=allowed_hosts,
            python=python, trainers=trainers, shard_base=shard_base,
        )  # fmt: skip
        return replace(engine, ray=address)

    @staticmethod
    def connect(url: str, *, api_key: str | None = None) -> ConnectedEngine:
        """Return an engine that runs at `url`, such as `https://gpu-box:8900`."""
        return ConnectedEngine(url=url, api_key=api_key)
