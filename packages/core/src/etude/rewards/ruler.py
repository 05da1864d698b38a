"""Group → scores: one judge ranks the attempts at one scenario, relative to one another."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from importlib import resources
from typing import Self

from etude.capture import untracked
from etude.errors import ConfigError, JudgeError
from etude.rewards.cache import MemoryCache, VerdictCache
from etude.rewards.chat import ChatJudge
from etude.rewards.judge import Answer, Asked, AskFunction, FunctionJudge, Judge, Question
from etude.rewards.prompt import JudgePrompt, build_prompt, default_rubric, transcripts
from etude.rewards.verdict import Mark, Reading, read_verdict
from etude.types import FORMAT, Failure, Judgement, Score, Trajectory

_log = logging.getLogger("etude.rewards")
_REPEATED = 20_000
"""Characters of a refused reply that a repair request repeats."""


@dataclass(frozen=True, repr=False)
class Ruler:
    """Scores the trajectories of a group by what a judge thinks of them side by side.

    Only completed trajectories are shown to it. Where it gives no usable verdict, also after being told what is wrong
    with its reply, the group has no scores and an error: a judge's failure is never a reward.

    Example:
        `Ruler("gpt-5-mini")`, `Ruler(judge=Judge("qwen3:32b", base_url="http://localhost:11434/v1"), permutations=2)`,
        `Ruler("engine/judge")`, or `Ruler(my_async_function)`.
    """

    judge: str | Judge | AskFunction
    """A model's name, a `Judge`, or an async function `(system, user, schema) -> reply`."""
    _: KW_ONLY
    rubric: str | None = None
    """What a good attempt is, in words; None is étude's own rubric, which fits any task with a goal."""
    permutations: int = 1
    """Requests a group, each in another order; scores are averaged. An even number cancels a drift along the list."""
    tolerance: float = 0.0
    """A group whose scores lie within this of one another is all equal, at their mean."""
    seed: int = 0
    """Draws the orders, together with the group's content."""
    cache: VerdictCache = field(default_factory=MemoryCache, compare=False)
    """Where verdicts are kept by content; `SqliteCache(path)` outlives the process."""
    _asked: Asked = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if self.rubric is not None and not self.rubric.strip():
            raise ConfigError("Ruler.rubric is empty; say what a good attempt is, or leave it out for the default")
        if self.permutations < 1:
            raise ConfigError(f"Ruler.permutations is {self.permutations}; expected at least 1")
        if not 0 <= self.tolerance < 1:
            raise ConfigError(f"Ruler.tolerance is {self.tolerance}; expected 0 or more, below 1")
        object.__setattr__(self, "_asked", _asked(self.judge))

    @property
    def name(self) -> str:
        """The judge's name."""
        return self._asked.name

    def __repr__(self) -> str:
        """Show the settings; the same in every process, and without the key."""
        judge = repr(self.judge) if isinstance(self.judge, Judge) else repr(self.name)
        return (
            f"Ruler({judge}, rubric={self.rubric!r}, permutations={self.permutations}, tolerance={self.tolerance}, "
            f"seed={self.seed})"
        )

    def bound(self, *, base_url: str, api_key: str, cache: VerdictCache | None = None) -> Self:
        """Return a copy that is ready to judge: `engine/NAME` is asked at `base_url`, other judges where they are.

        Raises:
            ConfigError: the judge has no key; said here, before any rollout is paid.
        """
        judge: Judge | AskFunction = self.judge if not isinstance(self.judge, str) else Judge(self.judge)
        if isinstance(judge, Judge):
            judge = judge.bound(base_url=base_url, api_key=api_key)
            judge.key()
        return replace(self, judge=judge, cache=cache or self.cache)

    async def judge_group(self, trajectories: Sequence[Trajectory]) -> Judgement:
        """Return the group's scores by rollout id, and what they cost.

        Attempts that read the same are shown once and share their score; a group in which all do is not judged at all.

        Raises:
            ConfigError: the judge cannot be asked as it is set up. A judge that fails is data on the judgement instead.
        """
        shown = [t for t in trajectories if t.status == "completed"]
        if len({t.rollout_id for t in shown}) < len(shown):
            raise ConfigError("two trajectories of the group have the same rollout_id; scores are keyed by it")
        if len(shown) < 2:
            return Judgement(judge=self.name, cost_usd=0.0)
        contents = _by_content(shown)
        if len(contents) == 1:
            alike = Mark(score=0.5, explanation="all attempts are the same")
            return self._judgement(contents, [alike], Judgement(judge=self.name, cost_usd=0.0))
        key = self._key([members[0] for members in contents])
        if (kept := self.cache.get(key)) is not None:
            return self._judgement(contents, kept, Judgement(judge=self.name, cost_usd=0.0, cached=True))
        bill = _Bill()
        try:
            marks = await self._marks([members[0] for members in contents], bill)
        except JudgeError as error:
            _log.warning("a group of scenario %r has no verdict: %s", shown[0].scenario_id, error)
            return bill.judgement(self.name, Failure(kind=type(error).__name__, message=str(error)))
        self.cache.put(key, marks)
        return self._judgement(contents, marks, bill.judgement(self.name))

    def _key(self, attempts: Sequence[Trajectory]) -> str:
        """Return the hash of all that the verdict depends on; `attempts` in their canonical order."""
        asked = build_prompt(attempts, order=range(len(attempts)), rubric=self._rubric, salt="")
        temperature = self.judge.temperature if isinstance(self.judge, Judge) else 0.0
        settings = [FORMAT, self.name, temperature, self.permutations, self.seed]
        return hashlib.sha256(json.dumps([*settings, asked.system, asked.user]).encode()).hexdigest()

    @property
    def _rubric(self) -> str:
        return self.rubric.strip() if self.rubric is not None else default_rubric()

    async def _marks(self, attempts: Sequence[Trajectory], bill: _Bill) -> list[Mark]:
        """Return the mean mark of each attempt over all orders, with the first order's explanation."""
        with untracked():
            asked = [self._one_order(attempts, order, k, bill) for k, order in enumerate(self._orders(attempts))]
            # Every request is waited for, so that the bill is whole also where one of them fails.
            rows = await asyncio.gather(*asked, return_exceptions=True)
        failed = next((r for r in rows if isinstance(r, BaseException)), None)
        if failed is not None:
            raise failed
        columns = zip(*(r for r in rows if not isinstance(r, BaseException)), strict=True)
        return [
            Mark(score=math.fsum(m.score for m in column) / len(column), explanation=column[0].explanation)
            for column in columns
        ]

    def _orders(self, attempts: Sequence[Trajectory]) -> list[list[int]]:
        """Return the orders to show the attempts in: each shuffle is followed by its reverse."""
        content = json.dumps([self.seed, *transcripts(attempts)])
        draw = random.Random(hashlib.sha256(content.encode()).digest())
        orders: list[list[int]] = []
        while len(orders) < self.permutations:
            order = draw.sample(range(len(attempts)), len(attempts))
            orders += [order, order[::-1]]
        return orders[: self.permutations]

    async def _one_order(
        self, attempts: Sequence[Trajectory], order: list[int], number: int, bill: _Bill
    ) -> list[Mark]:
        """Return one verdict's mark of each attempt, in the order of `attempts`."""
        prompt = build_prompt(attempts, order=order, rubric=self._rubric, salt=f"{self.seed}:{number}")
        question = Question(system=prompt.system, user=prompt.user, schema=prompt.schema)
        answer, reading = await self._read(question, prompt, bill)
        if reading.problems:
            complaint = _complaint(reading, list(prompt.rollout_of))
            _log.info("judge %r is asked to repair its reply: %s", self.name, "; ".join(reading.problems))
            answer, reading = await self._read(
                replace(question, refused=(answer.text[:_REPEATED], complaint)), prompt, bill
            )
        if reading.problems:
            raise JudgeError(
                f"judge {self.name!r} broke the rules of its answer, also when told so: {'; '.join(reading.problems)}. "
                "Name a stronger judge, or one whose server has structured output (Judge(structured='json_schema'))"
            )
        mark_of = {rollout_id: reading.marks[i] for i, rollout_id in prompt.rollout_of.items()}
        return [mark_of[t.rollout_id] for t in attempts]

    async def _read(self, question: Question, prompt: JudgePrompt, bill: _Bill) -> tuple[Answer, Reading]:
        bill.requests += 1
        answer = await self._asked.ask(question)
        bill.add(answer)
        reading = read_verdict(answer.text, list(prompt.rollout_of))
        if reading.problems and answer.is_cut:
            cut = "the reply was cut at its token limit (Judge(max_tokens=...) or the judge's context)"
            reading = replace(reading, problems=(cut, *reading.problems))
        return answer, reading

    def _judgement(self, contents: Sequence[Sequence[Trajectory]], marks: Sequence[Mark], bare: Judgement) -> Judgement:
        spread = max(m.score for m in marks) - min(m.score for m in marks)
        if spread <= self.tolerance:
            level = math.fsum(m.score for m in marks) / len(marks)
            marks = [replace(m, score=level) for m in marks]
        scores = [
            Score(rollout_id=t.rollout_id, value=mark.score, explanation=mark.explanation)
            for members, mark in zip(contents, marks, strict=True)
            for t in members
        ]
        return bare.model_copy(update={"scores": tuple(scores)})


class _Bill:
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
            cost_usd=math.fsum(costs) if costs and len(costs) == len(self._answers) else None,
            error=error,
        )


def _asked(judge: str | Judge | AskFunction) -> Asked:
    if isinstance(judge, str):
        return ChatJudge(Judge(judge))
    if isinstance(judge, Judge):
        return ChatJudge(judge)
    if not callable(judge):
        raise ConfigError(f"Ruler.judge is {judge!r}; expected a model's name, a Judge or an async function")
    return FunctionJudge(judge)


def _by_content(trajectories: Sequence[Trajectory]) -> list[list[Trajectory]]:
    """Return the trajectories that read the same together, in an order that depends on their content only."""
    _, texts = transcripts(trajectories)
    same: dict[str, list[Trajectory]] = {}
    for text, trajectory in zip(texts, trajectories, strict=True):
        same.setdefault(text, []).append(trajectory)
    return [same[text] for text in sorted(same)]


def _complaint(reading: Reading, ids: Sequence[str]) -> str:
    template = (resources.files("etude.rewards") / "prompts" / "repair.md").read_text()
    return template.format(problems="\n".join(f"- {p}" for p in reading.problems), ids=", ".join(ids)).strip()
