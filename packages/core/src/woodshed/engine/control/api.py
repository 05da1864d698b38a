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
from woodshed.engine.control.queries import Probes
from woodshed.engine.control.responses import NotFound, answer, read, refusal
from woodshed.engine.gateway.chat_request import BadRequest, check_sampling
from woodshed.engine.gateway.gateway import Gateway
from woodshed.engine.gateway.sessions import Sessions
from woodshed.engine.gateway.upstream_call import Upstream
from woodshed.engine.trainer import Trainer
from woodshed.engine.vllm.lora_slots import AdapterSlots
from woodshed.engine.vllm.processes import memory_mb, tree
from woodshed.errors import EngineError, PolicyLost, TrainError, WoodshedError
from woodshed.types import (
    EngineHealth,
    ModelHealth,
    OpenPolicy,
    OpenSession,
    PolicyState,
    SessionGrant,
    StepReport,
    StepRequest,
)

_LIMITS = {"drift_warn", "drift_stop"}
"""Settings of the loss that stop a run and do not change what it learns, so it may go on with others."""
Handler = Callable[[Request], Awaitable[Response]]


class ServedPolicy:
    """A policy that is being trained: its trainer, its adapters, where it stands."""

    def __init__(self, trainer: Trainer, slots: AdapterSlots, opened: OpenPolicy, state: PolicyState) -> None:
        """Hold an opened policy."""
        self.trainer = trainer
        self.slots = slots
        self.opened = opened
        self.state = state

    def took(self, report: StepReport) -> None:
        """Note a step that was taken."""
        if report.step_id not in self.state.steps:
            steps = (*self.state.steps, report.step_id)
            self.state = self.state.model_copy(update={"steps": steps, "version": report.version})


class Control:
    """Answers the control plane."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        sessions: Sessions,
        gateway: Gateway,
        home: Path,
        shut_down: Callable[[], None],
    ) -> None:
        """Drive `gateway` and the policies of `upstreams`."""
        self._upstreams = upstreams
        self._sessions = sessions
        self._gateway = gateway
        self._home = home
        self._shut_down = shut_down
        self._policies: dict[str, ServedPolicy] = {}
        self._locks = {name: asyncio.Lock() for name in upstreams}
        self._probes = Probes(upstreams, self._opened, sessions, home)

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
            **self._probes.posts(),
        }
        routes = [Route(f"/woodshed/v1{path}", self._guard(work), methods=["POST"]) for path, work in posts.items()]
        return [Route("/woodshed/v1/health", self._guard(self._health), methods=["GET"]), *routes]

    async def close(self) -> None:
        """End the trainers."""
        await asyncio.gather(*(policy.trainer.close() for policy in self._policies.values()))

    async def _health(self, _: Request) -> Response:
        processes = await asyncio.to_thread(tree, os.getpid())
        servers = [upstream.server for upstream in self._upstreams.values()]
        memory = await asyncio.to_thread(lambda: [memory_mb(tree(s.pid)) if s.pid else 0.0 for s in servers])
        return answer(
            EngineHealth(
                woodshed=woodshed.__version__,
                models=tuple(
                    ModelHealth(
                        name=server.model.name,
                        model=server.model.path,
                        vllm=server.vllm,
                        ready=server.is_ready,
                        restarts=server.restarts,
                        rss_mb=rss_mb,
                    )
                    for server, rss_mb in zip(servers, memory, strict=True)
                ),
                policies=tuple(policy.state for policy in self._policies.values()),
                lora_swaps=sum(policy.slots.swaps for policy in self._policies.values()),
                failed_calls=sum(upstream.failed_calls for upstream in self._upstreams.values()),
                rss_mb=await asyncio.to_thread(memory_mb, processes),
            )
        )

    async def _open_policy(self, request: Request) -> Response:
        asked = await read(request, OpenPolicy)
        slots = self._trainable(asked)
        async with self._locks[asked.name]:
            known = self._policies.get(asked.name)
            if known is not None and known.opened.run_id != asked.run_id:
                await self._hand_over(known, asked)
                known = None
            if known is None:
                known = await self._launched(asked, slots)
                # The adapter of a checkpoint is a policy found again, not one that a step changed.
                slots.swaps = 0
            elif known.opened != asked:
                _check_same(known.opened, asked)
                # Its checkpoint has all it needs, so a trainer with other limits costs no more than its start.
                await known.trainer.close()
                known = await self._launched(asked, slots)
            self._policies[asked.name] = known
        return answer(known.state)

    async def _launched(self, asked: OpenPolicy, slots: AdapterSlots) -> ServedPolicy:
        """Return the policy where the run's newest checkpoint has it, trained and served."""
        home = self._home / "policies" / asked.name / asked.run_id
        trainer = Trainer(self._upstreams[asked.name].server.model.path, home, asked)
        try:
            state = await trainer.start()
            if state.version:
                await slots.swap(state.version, trainer.adapter_path(state.version))
        except BaseException:
            await trainer.close()
            raise
        return ServedPolicy(trainer, slots, asked, state)

    async def _hand_over(self, known: ServedPolicy, asked: OpenPolicy) -> None:
        """Take the policy from a run that is over: its checkpoints stay on disk, new calls get the base model again."""
        former = known.opened.run_id
        if practising := self._sessions.unsealed(asked.name):
            raise EngineError(
                f"policy {asked.name!r} is being trained by run {former!r}, which has {practising} rollouts open here; "
                f"wait until it ends, or start another engine for run {asked.run_id!r}"
            )
        self._sessions.lose(asked.name, former, _lost(asked.name, former, asked.run_id))
        del self._policies[asked.name]
        await known.trainer.close()
        await known.slots.to_base()

    async def _step(self, request: Request) -> Response:
        asked, name = await read(request, StepRequest), request.path_params["name"]
        self._opened(name, asked.run_id)
        # A step that has begun is finished and served, also when the client that asked for it has gone.
        report = await asyncio.shield(asyncio.ensure_future(self._take_step(name, asked)))
        return answer(report)

    async def _take_step(self, name: str, asked: StepRequest) -> StepReport:
        async with self._locks[name]:
            # While this step waited, another run may have taken the policy.
            policy = self._opened(name, asked.run_id)
            done = asked.step_id in policy.state.steps
            sessions = {} if done else {r.rollout_id: self._sessions.sealed(r.rollout_id) for r in asked.rollouts}
            report = await policy.trainer.step(asked, sessions)
            if asked.objective != "evaluate":
                policy.took(report)
            version = policy.state.version
            if version != policy.slots.version:
                await policy.slots.swap(version, policy.trainer.adapter_path(version))
            return report

    async def _open_session(self, request: Request) -> Response:
        asked = await read(request, OpenSession)
        if asked.policy not in self._upstreams:
            raise NotFound(f"there is no policy {asked.policy!r}; this engine serves {sorted(self._upstreams)}")
        check_sampling(asked.sampling)
        if asked.run_id is not None:
            self._opened(asked.policy, asked.run_id)
        secret = await self._sessions.open(asked)
        base_url = f"{str(request.base_url).rstrip('/')}/v1"
        return answer(SessionGrant(rollout_id=asked.rollout_id, secret=secret, base_url=base_url))

    async def _seal(self, request: Request) -> Response:
        return answer(await self._sessions.seal(request.path_params["rollout_id"]))

    async def _pause(self, _: Request) -> Response:
        self._gateway.paused = True
        return JSONResponse({"paused": True})

    async def _resume(self, _: Request) -> Response:
        self._gateway.paused = False
        return JSONResponse({"paused": False})

    async def _shutdown(self, _: Request) -> Response:
        self._shut_down()
        return JSONResponse({"shutting_down": True})

    def _opened(self, name: str, run_id: str | None) -> ServedPolicy:
        """Return an open policy; a run's own where one is named."""
        known = self._policies.get(name)
        if run_id is not None and (known is None or known.opened.run_id != run_id):
            raise PolicyLost(_lost(name, run_id, known.opened.run_id if known else None))
        if known is None:
            raise NotFound(f"policy {name!r} is not open; open are {sorted(self._policies) or 'none'}")
        return known

    def _trainable(self, asked: OpenPolicy) -> AdapterSlots:
        upstream = self._upstreams.get(asked.name)
        if upstream is None:
            raise NotFound(f"there is no model {asked.name!r} to train; this engine serves {sorted(self._upstreams)}")
        if upstream.slots is None:
            raise EngineError(
                f"model {asked.name!r} is served with trainable=False; start the engine with trainable=True"
            )
        largest = upstream.server.model.max_lora_rank
        if asked.lora.rank > largest:
            raise EngineError(
                f"policy {asked.name!r} asks for LoRA rank {asked.lora.rank}, vLLM was started for at most {largest}; "
                "raise the served model's max_lora_rank"
            )
        return upstream.slots

    def _guard(self, work: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            bearer = request.headers.get("authorization", "").partition(" ")[2].strip()
            if not self._gateway.allows(bearer):
                return refusal(401, "EngineError", "the API key is not this engine's; give Engine.connect its api_key")
            try:
                return await work(request)
            except NotFound as error:
                return refusal(404, "EngineError", str(error))
            except (TrainError, PolicyLost) as error:
                return refusal(409, type(error).__name__, str(error))
            except BadRequest as error:
                return refusal(400, "EngineError", error.message)
            except WoodshedError as error:
                return refusal(409, "EngineError", str(error))

        return guarded


def _check_same(opened: OpenPolicy, asked: OpenPolicy) -> None:
    """Raise EngineError where a run asks for its policy with other settings than those it may change on the way."""
    first, second = (of.model_dump(exclude={"loss": _LIMITS}) for of in (opened, asked))
    if differ := sorted(name for name in first if first[name] != second[name]):
        raise EngineError(
            f"policy {asked.name!r} is open with other settings ({', '.join(differ)} differ); restart the engine to "
            "change them"
        )


def _lost(name: str, run_id: str, holder: str | None) -> str:
    """Say that a policy is not a run's any more, and what to do."""
    found = f"held by run {holder!r} now, not by run {run_id!r}" if holder else f"not open for run {run_id!r}"
    wait = f"once run {holder!r} has ended" if holder else "once the engine is free"
    return (
        f"policy {name!r} is {found}; an engine trains a policy for one run at a time. What run {run_id!r} has "
        f"finished is kept: run the same command again {wait}, or give each run an engine of its own"
    )
