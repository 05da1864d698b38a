"""The servers of each model: how they are, and a restart of one of them that fails no call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response

from woodshed.engine.control.model_settings import SettingsOf
from woodshed.engine.control.responses import NotFound, record_response
from woodshed.engine.gateway.counters import Counters, restarts_of
from woodshed.engine.gateway.upstream import Replica, Upstream
from woodshed.engine.vllm.model_server import ModelServer
from woodshed.engine.vllm.processes import memory_mb, tree
from woodshed.errors import EngineError
from woodshed.types import ModelHealth, ReplicaHealth

_LOOK_AGAIN_S = 0.05


class Replicas:
    """Every model's servers."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        counters: Counters,
        restart: Callable[[ModelServer], Awaitable[None]],
        *,
        gpu: bool,
    ) -> None:
        """Tell of `upstreams`; `restart` stops a server and returns once it has started again."""
        self._upstreams = upstreams
        self._counters = counters
        self._restart = restart
        self._settings = {name: SettingsOf(upstream.model, gpu=gpu) for name, upstream in upstreams.items()}

    def posts(self) -> dict[str, Callable[[Request], Awaitable[Response]]]:
        """Return path → handler of the POST routes."""
        return {"/models/{name:path}/replicas/{number:int}/restart": self._restart_one}

    async def health(self) -> tuple[ModelHealth, ...]:
        """Return the state of every model."""
        servers = [replica.server for upstream in self._upstreams.values() for replica in upstream.replicas]
        memory = await asyncio.to_thread(lambda: {server.name: _memory_mb(server) for server in servers})
        return tuple(self._model_health(upstream, memory) for upstream in self._upstreams.values())

    def _model_health(self, upstream: Upstream, memory: Mapping[str, float]) -> ModelHealth:
        server, sessions = upstream.server, upstream.sessions()
        return ModelHealth(
            name=upstream.model.name,
            model=upstream.model.path,
            vllm=server.vllm,
            ready=any(replica.state == "ready" for replica in upstream.replicas),
            settings=self._settings[upstream.model.name].now(server),
            restarts=self._counters.total(restarts_of(upstream.model.name)),
            rss_mb=sum(memory[replica.server.name] for replica in upstream.replicas),
            replicas=tuple(
                _replica_health(replica, sessions.get(replica.server.name, 0), memory[replica.server.name])
                for replica in upstream.replicas
            ),
            moved_sessions=upstream.moved_sessions,
            swap_s=None if upstream.slots is None else upstream.slots.swap_s,
        )

    async def _restart_one(self, http_request: Request) -> Response:
        """Send a replica no more calls, wait for those in flight there, and restart it."""
        name, number = http_request.path_params["name"], http_request.path_params["number"]
        upstream = self._upstreams.get(name)
        if upstream is None:
            raise NotFound(f"there is no model {name!r}; this engine serves {sorted(self._upstreams)}")
        if not 1 <= number <= len(upstream.replicas):
            raise NotFound(f"model {name!r} has no replica {number}; they are 1 to {len(upstream.replicas)}")
        replica = upstream.replicas[number - 1]
        if replica.is_draining:
            raise EngineError(f"replica {number} of {name!r} is being restarted already")
        # Once begun it is finished, even if the client that asked for it has disconnected.
        await asyncio.shield(asyncio.ensure_future(self._drained_and_restarted(replica)))
        return record_response(_replica_health(replica, 0, 0.0))

    async def _drained_and_restarted(self, replica: Replica) -> None:
        replica.is_draining = True
        try:
            while replica.in_flight and replica.server.is_ready:
                await asyncio.sleep(_LOOK_AGAIN_S)
            await self._restart(replica.server)
        finally:
            replica.is_draining = False


def _memory_mb(server: ModelServer) -> float:
    if server.pid is None:
        return 0.0
    return memory_mb(tree(server.pid)) if server.node is None else server.node_memory_mb


def _replica_health(replica: Replica, sessions: int, rss_mb: float) -> ReplicaHealth:
    calls, tokens = replica.counted_calls, replica.prompt_tokens
    return ReplicaHealth(
        name=replica.server.name,
        state=replica.state,
        node=replica.server.node,
        in_flight=replica.in_flight,
        sessions=sessions,
        calls=replica.calls,
        starts=replica.server.generation,
        cached_calls=replica.cached_calls / calls if calls else None,
        cached_tokens=replica.cached_tokens / tokens if tokens else None,
        rss_mb=rss_mb,
    )
