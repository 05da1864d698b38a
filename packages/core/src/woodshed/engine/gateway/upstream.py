"""Where a model's calls go: its vLLM servers (replicas), which of them takes a call, and what each has at work."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import aiohttp

from woodshed.engine.client.config import ServedModel
from woodshed.engine.gateway.counters import Counters
from woodshed.engine.gateway.placement import Placement
from woodshed.engine.vllm.lora_slots import LoraSlots
from woodshed.engine.vllm.model_server import ModelServer
from woodshed.engine.vllm.server_loras import LoraVersion
from woodshed.types import ReplicaState

_LOOK_AGAIN_S = 0.05
# Quotes in a string of JSON are escaped, so nothing that a model writes can look like this.
_PROMPT_TOKENS, _CACHED_TOKENS = re.compile(rb'"prompt_tokens":\s*(\d+)'), re.compile(rb'"cached_tokens":\s*(\d+)')


class Replica:
    """One vLLM server of a model, with what the gateway knows of it."""

    def __init__(self, server: ModelServer, slots: LoraSlots | None) -> None:
        """Nothing is in flight yet."""
        self.server = server
        self._slots = slots
        self._base = LoraVersion(name=server.model.name, version=0, path=None)
        self.is_draining = False
        """Whether it gets no new call, because it is to be restarted."""
        self.in_flight = 0
        self.calls = 0
        """Calls that were sent here, repeated ones each time."""
        self.prompt_tokens = 0
        """Of the answers that say how many of them were in vLLM's prefix cache."""
        self.cached_tokens = 0
        self.cached_calls = 0
        """Of those answers, how many had any."""
        self.counted_calls = 0

    @property
    def state(self) -> ReplicaState:
        """Whether it can be sent calls, and if not, why."""
        if self.server.fault is not None:
            return "given up"
        if not self.server.is_ready:
            return "starting"
        if self.server.is_asleep:
            return "asleep"
        if self.is_draining:
            return "draining"
        return "ready" if self._slots is None or self._slots.serves(self.server) else "left out"

    @contextmanager
    def lease(self) -> Iterator[LoraVersion]:
        """Count a call as in flight here; yields the newest weights and keeps them loaded."""
        self.in_flight += 1
        self.calls += 1
        try:
            if self._slots is None:
                yield self._base
            else:
                with self._slots.lease(self.server) as lora:
                    yield lora
        finally:
            self.in_flight -= 1

    def count_cached(self, answer: bytes) -> None:
        """Count how much of a prompt was in vLLM's prefix cache, where an answer says it."""
        prompt, cached = _PROMPT_TOKENS.search(answer), _CACHED_TOKENS.search(answer)
        if prompt is not None and cached is not None:
            self.counted_calls += 1
            self.prompt_tokens += int(prompt[1])
            self.cached_tokens += int(cached[1])
            self.cached_calls += int(cached[1]) > 0


class Upstream:
    """A model's servers and, if it is trained, the LoRA versions loaded there."""

    def __init__(
        self,
        servers: Sequence[ModelServer],
        slots: LoraSlots | None,
        http: aiohttp.ClientSession,
        counters: Counters,
    ) -> None:
        """Send calls to `servers`, all of one model."""
        self.slots = slots
        self.http = http
        self.counters = counters
        self.replicas = tuple(Replica(server, slots) for server in servers)
        self._placement = Placement()

    @property
    def model(self) -> ServedModel:
        """What all of them serve."""
        return self.replicas[0].server.model

    @property
    def server(self) -> ModelServer:
        """Any server, for what all of them answer alike: one that answers, if there is one."""
        ready = (replica.server for replica in self.replicas if replica.server.is_ready)
        return next(ready, self.replicas[0].server)

    @property
    def moved_sessions(self) -> int:
        """How often a session was sent to another replica than before."""
        return self._placement.moved

    async def choose(self, session: str | None, but_not: Collection[ModelServer] = ()) -> Replica:
        """Return the replica for a call, once one can take it.

        Args:
            session: Whose call it is, which stays on one replica; None for a call that belongs to no rollout.
            but_not: Servers that have failed this call; one of them is chosen only where there is no other.

        Raises:
            EngineError: All of them were given up.
        """
        while True:
            able = {replica.server.name: replica for replica in self.replicas if replica.state == "ready"}
            if others := {name: replica for name, replica in able.items() if replica.server not in but_not}:
                able = others
            if len(able) == 1 == len(self.replicas):
                return next(iter(able.values()))
            if able:
                return able[self._placement.choose(session, {name: r.in_flight for name, r in able.items()})]
            faults = [fault for replica in self.replicas if (fault := replica.server.fault) is not None]
            if len(faults) == len(self.replicas):
                raise faults[0]
            await asyncio.sleep(_LOOK_AGAIN_S)

    def has_another(self, but_not: Collection[ModelServer]) -> bool:
        """Whether a call can be sent to a server that has not failed it, now."""
        return any(replica.state == "ready" and replica.server not in but_not for replica in self.replicas)

    def leave(self, session: str) -> None:
        """Forget where the calls of a session went, which has ended."""
        self._placement.leave(session)

    def sessions(self) -> dict[str, int]:
        """Return server → how many of the sessions in use it has."""
        return self._placement.sessions()
