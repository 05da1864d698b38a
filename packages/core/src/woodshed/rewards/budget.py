"""Judging costs: the bill of one group, and the cost ceiling of a whole run."""

from __future__ import annotations

import asyncio
import math

from woodshed.chat.model import Answer, Question, SupportsAsk
from woodshed.errors import CostCeilingError
from woodshed.rewards.cache import VerdictCache
from woodshed.types import Failure, Judgement, Reading


class Budget:
    """Stops a run before its judge exceeds the cost ceiling; a resumed run counts the payments in its cache."""

    def __init__(self, cache: VerdictCache, ceiling_usd: float | None) -> None:
        self._cache = cache
        self._ceiling = ceiling_usd
        self._in_flight = 0
        self._highest_cost_usd = 0.0
        self._waiting: list[asyncio.Future[None]] = []

    async def reserve(self) -> None:
        """Wait until one more request fits the budget, assuming it costs as much as the most expensive one so far.

        If it might not fit, wait for the requests in flight, and raise only when none is left, so that no paid reply is
        lost. The first request of a process runs alone because no cost is known before it.

        Raises:
            CostCeilingError: the next request would exceed the ceiling.
        """
        while self._ceiling is not None and not self._affordable():
            if not self._in_flight:
                raise CostCeilingError(
                    f"judging has cost {self._cache.paid_usd():.4g} USD and the next request would pass Ruler("
                    f"max_cost_usd={self._ceiling:g}). All rollouts and verdicts so far are kept: raise max_cost_usd "
                    "and run again"
                )
            await self._next_done()
        self._in_flight += 1

    async def drained(self) -> None:
        """Wait until no request is in flight."""
        while self._in_flight:
            await self._next_done()

    async def _next_done(self) -> None:
        request_done = asyncio.get_running_loop().create_future()
        self._waiting.append(request_done)
        await request_done

    def settle(self, answer: Answer | None) -> None:
        """Record the cost of a reserved request; None if there was no reply."""
        self._in_flight -= 1
        if answer is not None and answer.cost_usd is not None:
            self._highest_cost_usd = max(self._highest_cost_usd, answer.cost_usd)
            self._cache.pay(answer.cost_usd)
        waiting, self._waiting = self._waiting, []
        for request_done in waiting:
            if not request_done.done():
                request_done.set_result(None)

    def _affordable(self) -> bool:
        assert self._ceiling is not None
        paid = self._cache.paid_usd()
        if not self._highest_cost_usd and self._in_flight:
            return False
        return paid < self._ceiling and paid + (self._in_flight + 1) * self._highest_cost_usd <= self._ceiling


class Bill:
    """Requests, tokens and costs of one judgement so far, and what each request showed."""

    def __init__(self) -> None:
        self.requests = 0
        self._answers: list[Answer] = []
        self._readings: list[Reading] = []

    def read(self, reading: Reading) -> None:
        """Keep what one request showed and what the judge made of it, paid now or in the cache."""
        self._readings.append(reading)

    def add(self, answer: Answer) -> None:
        """Count one reply, usable or not."""
        self._answers.append(answer)

    def judgement(self, judge: str, error: Failure | None = None) -> Judgement:
        """Return a judgement without scores that contains these figures."""
        costs = [a.cost_usd for a in self._answers if a.cost_usd is not None]
        return Judgement(
            judge=judge,
            requests=self.requests,
            prompt_tokens=sum(a.prompt_tokens for a in self._answers),
            completion_tokens=sum(a.completion_tokens for a in self._answers),
            cost_usd=math.fsum(costs) if len(costs) == len(self._answers) and (costs or not self.requests) else None,
            cached=not self.requests,
            # Replies come in any order; the record is the same whenever the same verdicts are read again.
            readings=tuple(sorted(self._readings, key=lambda r: (r.judge, r.rollouts))),
            error=error,
        )


async def paid_answer(client: SupportsAsk, question: Question, budget: Budget, bill: Bill) -> Answer:
    """Ask one question within the budget, and put the reply on the bill.

    Raises:
        JudgeError: the judge gave no reply.
        CostCeilingError: the request would exceed the ceiling.
    """
    await budget.reserve()
    bill.requests += 1
    answer = None
    try:
        answer = await client.ask(question)
    finally:
        budget.settle(answer)
    bill.add(answer)
    return answer
