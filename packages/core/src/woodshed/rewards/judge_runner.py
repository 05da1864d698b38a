"""One judge and some attempts → its opinion: asked in several orders, each reply checked, repaired once, kept."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from woodshed.chat.client import ChatClient
from woodshed.chat.model import Answer, Asked, Question
from woodshed.errors import ConfigError, JudgeError
from woodshed.rewards.aggregate import Opinion, all_of, averaged
from woodshed.rewards.budget import Bill, Budget
from woodshed.rewards.cache import VerdictCache
from woodshed.rewards.judge import AskFunction, FunctionJudge, Judge
from woodshed.rewards.prompt import Form, JudgePrompt, build_prompt, prompt_text, transcripts
from woodshed.rewards.verdict import AttemptScore, Reading, read_verdict
from woodshed.types import FORMAT, Trajectory

_log = logging.getLogger("woodshed.rewards")
_REPEATED = 20_000
"""Characters of a refused reply that a repair request repeats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeRunner:
    """A judge with the settings of one `Ruler`."""

    asked: Asked
    temperature: float
    form: Form
    permutations: int
    seed: int
    tolerance: float
    cache: VerdictCache
    budget: Budget

    @property
    def name(self) -> str:
        """The judge's name."""
        return self.asked.name

    async def opinion(self, attempts: Sequence[Trajectory], bill: Bill) -> Opinion:
        """Return the mean mark of each attempt over all orders.

        Raises:
            JudgeError: one of the orders got no usable verdict.
            CostCeilingError: the run's ceiling forbids to ask.
        """
        asked = [self._one_order(attempts, order, k, bill) for k, order in enumerate(self._orders(attempts))]
        return averaged(await all_of(asked), self.tolerance)

    def _orders(self, attempts: Sequence[Trajectory]) -> list[list[int]]:
        """Return the orders to show the attempts in: each shuffle is followed by its reverse."""
        draw = shuffler(attempts, self.form, self.seed)
        orders: list[list[int]] = []
        while len(orders) < self.permutations:
            order = draw.sample(range(len(attempts)), len(attempts))
            orders += [order, order[::-1]]
        return orders[: self.permutations]

    async def _one_order(
        self, attempts: Sequence[Trajectory], order: list[int], number: int, bill: Bill
    ) -> list[AttemptScore]:
        """Return one verdict's mark of each attempt, in the order of `attempts`."""
        prompt = build_prompt(attempts, order=order, form=self.form, salt=f"{self.seed}:{number}")
        key = self._key(prompt)
        if (kept := self.cache.get(key)) is None:
            reading = await self._verdict(prompt, bill)
            kept = [reading.marks[i] for i in prompt.rollout_of]
            self.cache.put(key, kept)
        mark_of = dict(zip(order, kept, strict=True))
        return [mark_of[place] for place in range(len(attempts))]

    def _key(self, prompt: JudgePrompt) -> str:
        """Return the hash of all that the verdict depends on."""
        return hashlib.sha256(
            json.dumps([FORMAT, self.name, self.temperature, prompt.system, prompt.user]).encode()
        ).hexdigest()

    async def _verdict(self, prompt: JudgePrompt, bill: Bill) -> Reading:
        question = Question(system=prompt.system, user=prompt.user, schema=prompt.schema)
        answer, reading = await self._read(question, prompt, bill)
        if reading.problems:
            complaint = _complaint(reading, list(prompt.rollout_of))
            _log.info("judge %r is asked to repair its reply: %s", self.name, "; ".join(reading.problems))
            refused = (answer.text[:_REPEATED], complaint)
            answer, reading = await self._read(replace(question, refused=refused), prompt, bill)
        if reading.problems:
            raise JudgeError(
                f"judge {self.name!r} broke the rules of its answer, also when told so: {'; '.join(reading.problems)}. "
                "Name a stronger judge, or one whose server has structured output (Judge(structured='json_schema'))"
            )
        return reading

    async def _read(self, question: Question, prompt: JudgePrompt, bill: Bill) -> tuple[Answer, Reading]:
        await self.budget.reserve()
        bill.requests += 1
        answer = None
        try:
            answer = await self.asked.ask(question)
        finally:
            self.budget.settle(answer)
        bill.add(answer)
        reading = read_verdict(answer.text, list(prompt.rollout_of), prompt.parts)
        if reading.problems and answer.is_cut:
            cut = "the reply was cut at its token limit (Judge(max_tokens=...) or the judge's context)"
            reading = replace(reading, problems=(cut, *reading.problems))
        if reading.problems and answer.is_refusal:
            reading = replace(reading, problems=("the judge refused to answer", *reading.problems))
        return answer, reading


def asked_of(judge: str | Judge | AskFunction) -> tuple[Asked, float]:
    """Return what can be asked, and the temperature it answers at."""
    found = named(judge)
    if isinstance(found, Judge):
        return ChatClient(found), found.temperature
    if not callable(found):
        raise ConfigError(f"Ruler.judge is {found!r}; expected a model's name, a Judge or an async function")
    return FunctionJudge(found), 0.0


def named(judge: str | Judge | AskFunction) -> Judge | AskFunction:
    """Return a model's name as its `Judge`, anything else as it is."""
    return Judge(judge) if isinstance(judge, str) else judge


def shuffler(attempts: Sequence[Trajectory], form: Form, seed: int) -> random.Random:
    """Return a generator that draws the same for the same content and seed."""
    told = transcripts(attempts, form)
    content = json.dumps([seed, told.shared, list(told.attempts)])
    return random.Random(hashlib.sha256(content.encode()).digest())


def _complaint(reading: Reading, ids: Sequence[str]) -> str:
    problems = "\n".join(f"- {p}" for p in reading.problems)
    return prompt_text("repair.md").format(problems=problems, ids=", ".join(ids)).strip()
