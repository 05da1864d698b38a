"""The control plane under `/woodshed/v1`: policies, sessions, steps, pause, health, shutdown."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import woodshed
from woodshed.engine.client.config import Trainers
from woodshed.engine.client.provision import has_gpu
from woodshed.engine.control.files import Files
from woodshed.engine.control.policies import Policies
from woodshed.engine.control.queries import Queries
from woodshed.engine.control.replicas import Replicas
from woodshed.engine.control.responses import NotFound, error_response, parse_body, record_response
from woodshed.engine.gateway.chat_request import BadRequest, check_sampling
from woodshed.engine.gateway.counters import FAILED_CALLS, SWAPS, Counters
from woodshed.engine.gateway.gateway import Gateway
from woodshed.engine.gateway.sessions import Sessions
from woodshed.engine.gateway.upstream import Upstream
from woodshed.engine.vllm.model_server import ModelServer
from woodshed.engine.vllm.processes import memory_mb, tree
from woodshed.errors import PolicyLost, TrainError, WoodshedError
from woodshed.types import EngineHealth, OpenPolicy, OpenSession, SessionGrant, StepRequest

Handler = Callable[[Request], Awaitable[Response]]


class ControlApi:
    """Answers the control plane's requests."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        sessions: Sessions,
        counters: Counters,
        gateway: Gateway,
        home: Path,
        shut_down: Callable[[], None],
        restart: Callable[[ModelServer], Awaitable[None]],
        trainers: Trainers,
    ) -> None:
        """Control one engine.

        Args:
            upstreams: Model name → its vLLM servers.
            sessions: The sessions that rollouts open and seal.
            counters: What is counted for the runs that are training.
            gateway: Paused and resumed; knows the engine's API key.
            home: The engine's folder; checkpoints go under `home/policies`.
            shut_down: Called when a client asks the engine to stop.
            restart: Stops one vLLM server and returns once it has started again.
            trainers: The processes that train a policy.
        """
        self._upstreams = upstreams
        self._sessions = sessions
        self._gateway = gateway
        self._counters = counters
        self._replicas = Replicas(upstreams, counters, restart, gpu=has_gpu())
        self._shut_down = shut_down
        self._policies = Policies(upstreams, sessions, counters, home, trainers)
        self._queries = Queries(upstreams, self._policies, sessions, home)
        self._files = Files(home)

    def routes(self) -> list[Route]:
        """Return the control plane's routes."""
        posts: dict[str, Handler] = {
            "/policies": self._open_policy,
            "/policies/{name:path}/step": self._step,
            "/sessions": self._open_session,
            "/sessions/{rollout_id:path}/seal": self._seal,
            "/pause": self._pause,
            "/resume": self._resume,
            "/shutdown": self._shutdown,
            **self._queries.posts(),
            **self._replicas.posts(),
            **self._files.posts(),
        }
        gets: dict[str, Handler] = {"/health": self._health, **self._files.gets()}
        return [
            Route(f"/woodshed/v1{path}", self._guard(work), methods=[method])
            for method, works in (("GET", gets), ("POST", posts))
            for path, work in works.items()
        ]

    async def close(self) -> None:
        """End the trainers."""
        await self._policies.close()

    async def _health(self, _: Request) -> Response:
        processes = await asyncio.to_thread(tree, os.getpid())
        policies = self._policies.all()
        return record_response(
            EngineHealth(
                woodshed=woodshed.__version__,
                models=await self._replicas.health(),
                policies=tuple(policy.state for policy in policies),
                lora_swaps=self._counters.total(SWAPS),
                failed_calls=self._counters.total(FAILED_CALLS),
                rss_mb=await asyncio.to_thread(memory_mb, processes),
            )
        )

    async def _open_policy(self, http_request: Request) -> Response:
        request = await parse_body(http_request, OpenPolicy)
        return record_response(await self._policies.open(request))

    async def _step(self, http_request: Request) -> Response:
        request, name = await parse_body(http_request, StepRequest), http_request.path_params["name"]
        self._policies.get(name, request.run_id)
        # Once begun, a step is finished and served even if the client that asked for it has disconnected.
        report = await asyncio.shield(asyncio.ensure_future(self._policies.step(name, request)))
        return record_response(report)

    async def _open_session(self, http_request: Request) -> Response:
        request = await parse_body(http_request, OpenSession)
        if request.policy not in self._upstreams:
            raise NotFound(f"there is no policy {request.policy!r}; this engine serves {sorted(self._upstreams)}")
        check_sampling(request.sampling)
        if request.run_id is not None:
            self._policies.get(request.policy, request.run_id)
        secret = await self._sessions.open(request)
        # Never by the Host header, which a stranger writes: a client that came another way knows its own address.
        host, port = http_request.scope["server"]
        base_url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        return record_response(SessionGrant(rollout_id=request.rollout_id, secret=secret, base_url=base_url))

    async def _seal(self, http_request: Request) -> Response:
        return record_response(await self._sessions.seal(http_request.path_params["rollout_id"]))

    async def _pause(self, _: Request) -> Response:
        self._gateway.paused = True
        return JSONResponse({"paused": True})

    async def _resume(self, _: Request) -> Response:
        self._gateway.paused = False
        return JSONResponse({"paused": False})

    async def _shutdown(self, _: Request) -> Response:
        self._shut_down()
        return JSONResponse({"shutting_down": True})

    def _guard(self, handle: Handler) -> Handler:
        """Return `handle` behind a check of the API key, with its errors turned into responses."""

        async def guarded(http_request: Request) -> Response:
            bearer = http_request.headers.get("authorization", "").partition(" ")[2].strip()
            if not self._gateway.allows(bearer):
                message = "the API key is not this engine's; give Engine.connect its api_key"
                return error_response(401, "EngineError", message)
            try:
                return await handle(http_request)
            except NotFound as error:
                return error_response(404, "EngineError", str(error))
            except (TrainError, PolicyLost) as error:
                return error_response(409, type(error).__name__, str(error))
            except BadRequest as error:
                return error_response(400, "EngineError", error.message)
            except WoodshedError as error:
                return error_response(409, "EngineError", str(error))

        return guarded
