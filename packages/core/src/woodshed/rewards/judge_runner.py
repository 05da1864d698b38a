"""Ask one judge about some attempts: in several orders, each reply validated, repaired once and cached."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from woodshed.chat.client import ChatClient
from woodshed.chat.model import Answer, Question, SupportsAsk
from woodshed.errors import ConfigError, JudgeError
from woodshed.rewards.aggregate import JudgeScores, gather_all, mean_scores
from woodshed.rewards.budget import Bill, paid_answer
from woodshed.rewards.judge import AskFunction, FunctionJudge, Judge
from woodshed.rewards.prompt import JudgePrompt, PromptSettings, build_prompt, prompt_text, transcripts
from woodshed.rewards.runner import Runner
from woodshed.rewards.verdict import AttemptScore, ParsedReply, read_verdict
from woodshed.types import FORMAT, Reading, Trajectory

_log = logging.getLogger("woodshed.rewards")
_REPEATED_CHARS = 20_000
"""Characters of a refused reply that a repair request quotes."""
_EXPLANATION_CHARS = 300
"""Longest explanation of one attempt by a judge that the engine serves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeRunner(Runner):
    """A judge with the settings of one `Ruler`, asked about several attempts in each request."""

    attempts_per_request: ClassVar[int | None] = None
    """None: as many as fit."""

    async def judge(self, attempts: Sequence[Trajectory], bill: Bill) -> JudgeScores:
        """Return the mean score of each attempt over all orders.

        Raises:
            JudgeError: one of the orders got no usable verdict.
            CostCeilingError: the next request would exceed the run's cost ceiling.
        """
        requests = [self._one_order(attempts, order, k, bill) for k, order in enumerate(self._orders(attempts))]
        return mean_scores(await gather_all(requests), self.tolerance)

    def _orders(self, attempts: Sequence[Trajectory]) -> list[list[int]]:
        """Return the orders to show the attempts in: each shuffle is followed by its reverse."""
        rng = content_rng(attempts, self.prompt_settings, self.seed)
        orders: list[list[int]] = []
        while len(orders) < self.permutations:
            order = rng.sample(range(len(attempts)), len(attempts))
            orders += [order, order[::-1]]
        return orders[: self.permutations]

    async def _one_order(
        self, attempts: Sequence[Trajectory], order: list[int], number: int, bill: Bill
    ) -> list[AttemptScore]:
        """Return one verdict: a score per attempt, in the order of `attempts`."""
        prompt = build_prompt(attempts, order=order, settings=self.prompt_settings, salt=f"{self.seed}:{number}")
        key = self._key(prompt)
        if (scores := self.cache.get(key)) is None:
            reply = await self._verdict(prompt, bill)
            scores = [reply.scores[i] for i in prompt.rollout_of]
            self.cache.put(key, scores)
        bill.read(
            Reading(
                judge=self.name,
                rollouts=tuple(attempts[index].rollout_id for index in order),
                scores=tuple(s.score for s in scores),
                explanations=tuple(s.explanation for s in scores),
            )
        )
        score_of = dict(zip(order, scores, strict=True))
        return [score_of[index] for index in range(len(attempts))]

    def _key(self, prompt: JudgePrompt) -> str:
        """Return a hash of everything the verdict depends on."""
        return hashlib.sha256(
            json.dumps([FORMAT, self.name, self.temperature, prompt.system, prompt.user]).encode()
        ).hexdigest()

    async def _verdict(self, prompt: JudgePrompt, bill: Bill) -> ParsedReply:
        question = Question(system=prompt.system, user=prompt.user, schema=prompt.schema)
        answer, parsed = await self._ask(question, prompt, bill)
        if parsed.problems:
            complaint = _complaint(parsed, list(prompt.rollout_of))
            _log.info("asking judge %r to repair its reply: %s", self.name, "; ".join(parsed.problems))
            refused = (answer.text[:_REPEATED_CHARS], complaint)
            _, parsed = await self._ask(replace(question, refused=refused), prompt, bill)
        if parsed.problems:
            raise JudgeError(
                f"judge {self.name!r} gave an invalid reply twice: {'; '.join(parsed.problems)}. "
                "Name a stronger judge, or one whose server has structured output (Judge(structured='json_schema'))"
            )
        return parsed

    async def _ask(self, question: Question, prompt: JudgePrompt, bill: Bill) -> tuple[Answer, ParsedReply]:
        answer = await paid_answer(self.client, question, self.budget, bill)
        parsed = read_verdict(answer.text, list(prompt.rollout_of), prompt.parts)
        if parsed.problems:
            parsed = replace(parsed, problems=(*why_unusable(answer), *parsed.problems))
        return answer, parsed


def why_unusable(answer: Answer) -> list[str]:
    """Return what the server says of a reply that cannot be read: it was cut, or the judge refused."""
    refused = ["the judge refused to answer"] if answer.is_refusal else []
    cut = ["the reply was cut at its token limit (Judge(max_tokens=...) or the judge's context)"]
    return [*refused, *(cut if answer.is_cut else [])]


def judge_client(judge: str | Judge | AskFunction) -> tuple[SupportsAsk, float]:
    """Return the client of a judge and its sampling temperature.

    Raises:
        ConfigError: `judge` is not a model's name, a `Judge` or a function.
    """
    judge = as_judge(judge)
    if isinstance(judge, Judge):
        return ChatClient(judge), judge.temperature
    if not callable(judge):
        raise ConfigError(f"Ruler.judge is {judge!r}; expected a model's name, a Judge or an async function")
    return FunctionJudge(judge), 0.0


def as_judge(judge: str | Judge | AskFunction) -> Judge | AskFunction:
    """Turn a model's name into a `Judge`; return anything else unchanged."""
    return Judge(judge) if isinstance(judge, str) else judge


def longest_explanation(judge: str | Judge | AskFunction) -> int | None:
    """Return how many characters a reply's schema allows for one explanation; None for no limit.

    A small model can repeat a clause until its context ends. The grammar of the engine's vLLM stops it, and the verdict
    goes on with a score. Other servers get no limit, since some refuse a schema with `maxLength`.
    """
    resolved = as_judge(judge)
    return _EXPLANATION_CHARS if isinstance(resolved, Judge) and resolved.is_engine else None


def content_rng(attempts: Sequence[Trajectory], settings: PromptSettings, seed: int) -> random.Random:
    """Return a random generator seeded by the attempts' text and `seed`, so that orders are reproducible."""
    texts = transcripts(attempts, settings)
    content = json.dumps([seed, texts.shared, list(texts.attempts)])
    return random.Random(hashlib.sha256(content.encode()).digest())


def _complaint(parsed: ParsedReply, ids: Sequence[str]) -> str:
    problems = "\n".join(f"- {p}" for p in parsed.problems)
    return prompt_text("repair.md").format(problems=problems, ids=", ".join(ids)).strip()
