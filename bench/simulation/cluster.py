"""A discrete-event model of what answers calls: replicas that share hosts, behind one gateway with its store."""

from __future__ import annotations

import heapq
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

_NOTHING_S = 1e-9


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What was measured, or is assumed, of one replica, the gateway and the store."""

    tokens_per_s: float
    """Of one replica with very many calls in flight."""
    half_at: float
    """Calls in flight at which a replica reaches half of that."""
    per_call_s: float
    """Before the first token: prompt, queue, connection."""
    gateway_s: float
    """Processor time of the gateway for a call; it is one process."""
    store_s: float
    """Of that, what writing the call's record takes alone: one writer, whatever the number of gateways."""
    client_s: float = 0.0
    """Processor time of the process that all agents run in, for a call; 0 where they are on other machines."""
    front_s: float = 0.0
    """Processor time of a replica's HTTP process for a call: vLLM computes in a process of its own beside it."""
    max_num_seqs: int = 64
    cores: float | None = None
    """Cores that all processes share, each using one at most; None where each has its own."""


class Host:
    """What shares processors: each that computes has one core where there are enough, else all have an equal share."""

    def __init__(self, env: simpy.Environment, cores: float | None) -> None:
        self.env = env
        self._cores = cores
        self._busy: set[Replica | Process] = set()

    def share(self) -> float:
        """Return how much of a core one that computes gets."""
        return 1.0 if self._cores is None else min(1.0, self._cores / max(len(self._busy), 1))

    def changed(self, one: Replica | Process, is_busy: bool) -> None:
        """Note whether one computes; the others become slower or faster where the cores are shared."""
        was = len(self._busy)
        (self._busy.add if is_busy else self._busy.discard)(one)
        if self._cores is not None and len(self._busy) != was:
            for other in tuple(self._busy - {one}):
                other.settle()


class Process:
    """A process that does one thing after the other on one core, as gateway and client do."""

    def __init__(self, host: Host) -> None:
        self._env, self._host = host.env, host
        self._turn = simpy.Resource(host.env, 1)
        self._left = self._at = self._speed = 0.0
        self._done: simpy.Event | None = None
        self._plans = 0
        self.busy_s = 0.0

    def work(self, seconds: float) -> Generator[simpy.Event, Any, None]:
        """Take as long as so many seconds of processor time do."""
        with self._turn.request() as turn:
            yield turn
            done = self._done = self._env.event()
            self._left, self._at, self._speed = seconds, self._env.now, 0.0
            self._host.changed(self, True)
            self.settle()
            yield done

    def settle(self) -> None:
        """Count what was done since the last change, and plan the end."""
        passed, self._at = self._env.now - self._at, self._env.now
        self.busy_s += passed
        self._left -= passed * self._speed
        self._plans += 1
        if self._left <= _NOTHING_S and self._done is not None:
            done, self._done = self._done, None
            self._host.changed(self, False)
            done.succeed()
        elif self._done is not None:
            self._speed = self._host.share()
            self._env.process(self._end(self._plans, self._left / self._speed))

    def _end(self, plan: int, seconds: float) -> Generator[simpy.Event, Any, None]:
        yield self._env.timeout(seconds)
        if plan == self._plans:
            self.settle()


class Replica:
    """One vLLM server: all its calls in flight share its tokens per second, which grow with their number."""

    def __init__(self, host: Host, rates: Rates) -> None:
        self._env, self._host, self._rates = host.env, host, rates
        self._ends: list[tuple[float, int, simpy.Event]] = []
        """Of each call in flight: the tokens that every call will have got by its end, so far all alike."""
        self._got = self._at = self._speed = self._share = 0.0
        self._plans = self._calls = 0
        self.front = Process(host)
        self.seats = simpy.Resource(host.env, rates.max_num_seqs)
        self.busy_s = 0.0
        self.core_s = 0.0
        """Processor time that it has used."""
        self.rollouts = 0
        """Rollouts that are placed here."""

    def answer(self, tokens: float) -> Generator[simpy.Event, Any, None]:
        """Take as long as a call with that many tokens does."""
        if self._rates.front_s:
            yield from self.front.work(self._rates.front_s)
        with self.seats.request() as seat:
            yield seat
            yield self._env.timeout(self._rates.per_call_s)
            done = self._env.event()
            self._advance()
            self._calls += 1
            heapq.heappush(self._ends, (self._got + tokens, self._calls, done))
            self._host.changed(self, True)
            self.settle()
            yield done

    def settle(self) -> None:
        """Count what was done since the last change, and plan the next end of a call."""
        self._advance()
        while self._ends and self._ends[0][0] <= self._got + 1e-6:
            heapq.heappop(self._ends)[2].succeed()
        if not self._ends:
            self._host.changed(self, False)
            return
        calls = len(self._ends)
        self._share = self._host.share()
        self._speed = self._rates.tokens_per_s / (calls + self._rates.half_at) * self._share
        self._plans += 1
        self._env.process(self._next(self._plans, (self._ends[0][0] - self._got) / self._speed))

    def _advance(self) -> None:
        passed, self._at = self._env.now - self._at, self._env.now
        if self._ends:
            self.busy_s += passed
            self.core_s += passed * self._share
            self._got += passed * self._speed

    def _next(self, plan: int, seconds: float) -> Generator[simpy.Event, Any, None]:
        yield self._env.timeout(seconds)
        if plan == self._plans:
            self.settle()


class Cluster:
    """The replicas behind one gateway."""

    def __init__(self, env: simpy.Environment, replicas: int, rates: Rates) -> None:
        self.env, self.rates = env, rates
        host = Host(env, rates.cores)
        self.replicas = [Replica(host, rates) for _ in range(replicas)]
        self.gateway, self.client = Process(host), Process(host)
        self.store_busy_s = 0.0
        self.calls = 0

    def place(self) -> Replica:
        """Place a new rollout where the fewest are; hashing with bounded load comes close to it."""
        replica = min(self.replicas, key=lambda replica: replica.rollouts)
        replica.rollouts += 1
        return replica

    def call(self, replica: Replica, tokens: float) -> Generator[simpy.Event, Any, None]:
        """Take as long as a call through the gateway does."""
        if self.rates.client_s:
            yield from self.client.work(self.rates.client_s)
        yield from self.gateway.work(self.rates.gateway_s)
        self.store_busy_s += self.rates.store_s
        self.calls += 1
        yield from replica.answer(tokens)
