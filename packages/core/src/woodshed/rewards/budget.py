"""What judging costs: the bill of one group, and the ceiling over a whole run."""

from __future__ import annotations

import asyncio
import math

from woodshed.chat.model import Answer
from woodshed.errors import CostCeilingError
from woodshed.rewards.cache import VerdictCache
from woodshed.types import Failure, Judgement


class Budget:
    """Stops a run before its judge costs more than it may; payments are in the cache, so a resumed run counts on."""

    def __init__(self, cache: VerdictCache, ceiling_usd: float | None) -> None:
        self._cache = cache
        self._ceiling = ceiling_usd
        self._in_flight = 0
        self._dearest = 0.0
        self._waiting: list[asyncio.Future[None]] = []

    async def reserve(self) -> None:
        """Return when one more request can be paid, each as dear as the dearest so far.

        Where that is not sure it waits for the requests in flight, and raises only when none is left: no reply that is
        being paid for is lost. The first request of a process goes alone, since no price is known before it.

        Raises:
            CostCeilingError: the next request would pass the ceiling.
        """
        while self._ceiling is not None and not self._affordable():
            if not self._in_flight:
                raise CostCeilingError(
                    f"judging has cost {self._cache.paid_usd():.4g} USD and the next request would pass Ruler("
                    f"max_cost_usd={self._ceiling:g}). All rollouts and verdicts so far are kept: raise max_cost_usd "
                    "and run again"
                )
            settled = asyncio.get_running_loop().create_future()
            self._waiting.append(settled)
            await settled
        self._in_flight += 1

    def settle(self, answer: Answer | None) -> None:
        """Note what a reserved request has cost; None where there was no reply."""
        self._in_flight -= 1
        if answer is not None and answer.cost_usd is not None:
            self._dearest = max(self._dearest, answer.cost_usd)
            self._cache.pay(answer.cost_usd)
        waiting, self._waiting = self._waiting, []
        for settled in waiting:
            if not settled.done():
                settled.set_result(None)

    def _affordable(self) -> bool:
        assert self._ceiling is not None
        paid = self._cache.paid_usd()
        if not self._dearest and self._in_flight:
            return False
        return paid < self._ceiling and paid + (self._in_flight + 1) * self._dearest <= self._ceiling


class Bill:
    """What the requests of one judgement have cost so far."""

    def __init__(self) -> None:
        self.requests = 0
        self._answers: list[Answer] = []

    def add(self, answer: Answer) -> None:
        """Count one reply, usable or not."""
        self._answers.append(answer)

    def judgement(self, judge: str, error: Failure | None = None) -> Judgement:
        """Return a judgement without scores that carries the bill."""
        costs = [a.cost_usd for a in self._answers if a.cost_usd is not None]
        return Judgement(
            judge=judge,
            requests=self.requests,
            prompt_tokens=sum(a.prompt_tokens for a in self._answers),
            completion_tokens=sum(a.completion_tokens for a in self._answers),
            cost_usd=math.fsum(costs) if len(costs) == len(self._answers) and (costs or not self.requests) else None,
            cached=not self.requests,
            error=error,
        )
