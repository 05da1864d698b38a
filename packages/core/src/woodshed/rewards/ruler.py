"""Group → scores: a judge, or a panel of them, ranks the attempts at one scenario, relative to one another."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Self

from woodshed.capture import untracked
from woodshed.errors import ConfigError, JudgeError
from woodshed.rewards.aggregate import Opinion, panel
from woodshed.rewards.budget import Bill, Budget
from woodshed.rewards.cache import MemoryCache, VerdictCache
from woodshed.rewards.chunks import chunk_size, in_chunks
from woodshed.rewards.judge import AskFunction, Judge
from woodshed.rewards.judge_runner import JudgeRunner, asked_of, named, shuffler
from woodshed.rewards.partial_scores import Detail, check_details
from woodshed.rewards.prompt import Form, Transcripts, default_rubric, transcripts
from woodshed.rewards.transcript import histories
from woodshed.rewards.verdict import AttemptScore
from woodshed.types import Failure, Judgement, Score, Trajectory

_log = logging.getLogger("woodshed.rewards")
JudgeLike = str | Judge | AskFunction
"""A model's name, a `Judge`, or an async function `(system, user, schema) -> reply`."""


@dataclass(frozen=True, repr=False)
class Ruler:
    """Scores the trajectories of a group by what a judge thinks of them side by side.

    Only completed trajectories are shown to it. Where it gives no usable verdict, also after being told what is wrong
    with its reply, the group has no scores and an error: a judge's failure is never a reward.

    Example:
        `Ruler("gpt-5-mini")`, `Ruler(judge=Judge("qwen3:32b", base_url="http://localhost:11434/v1"), permutations=2)`,
        `Ruler("engine/judge")`, `Ruler(my_async_function)`, or a panel: `Ruler(("gpt-5-mini", "claude-haiku-4-5"))`.
    """

    judge: JudgeLike | Sequence[JudgeLike]
    """Who judges. Of several, each judges the whole group and the median counts; one that fails is left out as long as
    more than half of them do not."""
    _: KW_ONLY
    rubric: str | None = None
    """What a good attempt is, in words; None is woodshed's own rubric, which fits any task with a goal."""
    permutations: int = 1
    """Requests a group, each in another order; scores are averaged. An even number cancels a drift along the list."""
    tolerance: float = 0.0
    """A group whose scores lie within this of one another is all equal, at their mean."""
    details: tuple[Detail, ...] = ()
    """Finer scores to ask for: `agents` (`Score.agents`), `steps` (`Score.calls`)."""
    escalate_to: JudgeLike | None = None
    """A second judge, whose verdict replaces the first's where that one is not consistent."""
    escalate_below: float = 0.75
    """Consistency under which the second judge is asked; .5 is what coin tosses reach. Needs `permutations` of 2 or
    more."""
    max_attempts: int = 16
    """Most attempts of one request; a larger group is judged in chunks that overlap."""
    attempt_chars: int = 24_000
    """Longest text of one attempt (a token is about 4 characters). A longer one keeps its beginning, its end and what
    tools failed with, and says what was cut."""
    window_chars: int | None = 400_000
    """Longest text of one request, for the judge's context; None knows no limit."""
    max_cost_usd: float | None = None
    """What judging may cost in a whole run; the run ends before it is passed and can be gone on with."""
    seed: int = 0
    """Draws the orders, together with the group's content."""
    cache: VerdictCache = field(default_factory=MemoryCache, compare=False)
    """Where verdicts are kept by content; `SqliteCache(path)` outlives the process."""
    _judge_runners: tuple[JudgeRunner, ...] = field(init=False, compare=False)
    _second: JudgeRunner | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        object.__setattr__(self, "details", check_details(self.details))
        for wrong in self._contradictions():
            raise ConfigError(wrong)
        budget = Budget(self.cache, self.max_cost_usd)
        object.__setattr__(self, "_judge_runners", tuple(self._judge_runner(j, budget) for j in self._judges))
        second = None if self.escalate_to is None else self._judge_runner(self.escalate_to, budget)
        object.__setattr__(self, "_second", second)

    @property
    def name(self) -> str:
        """The judge's name; the names of a panel, joined."""
        return " + ".join(r.name for r in self._judge_runners)

    @property
    def asks_engine(self) -> bool:
        """Whether a judge of the panel, or the one asked in doubt, is a model that the engine serves."""
        return any(isinstance(found := named(judge), Judge) and found.is_engine for judge in self._all_judges)

    def __repr__(self) -> str:
        """Show the settings; the same in every process, without the key, and without what does not touch a verdict."""
        judges = [_shown(j) for j in self._judges]
        shown = [
            judges[0] if len(judges) == 1 else f"({', '.join(judges)})",
            *(f"{name}={getattr(self, name)!r}" for name in _SHOWN),
        ]
        if self.escalate_to is not None:
            shown += [f"escalate_to={_shown(self.escalate_to)}", f"escalate_below={self.escalate_below}"]
        return f"Ruler({', '.join(shown)})"

    def bound(self, *, base_url: str, api_key: str, cache: VerdictCache | None = None) -> Self:
        """Return a copy that is ready to judge: `engine/NAME` is asked at `base_url`, other judges where they are.

        Raises:
            ConfigError: a judge has no key; said here, before any rollout is paid.
        """

        def ready(judge: JudgeLike) -> JudgeLike:
            found = named(judge)
            if not isinstance(found, Judge):
                return found
            bound = found.bound(base_url=base_url, api_key=api_key)
            bound.key()
            return bound

        judges = tuple(ready(j) for j in self._judges)
        second = None if self.escalate_to is None else ready(self.escalate_to)
        judge = judges if _is_panel(self.judge) else judges[0]
        return replace(self, judge=judge, escalate_to=second, cache=cache or self.cache)

    async def judge_group(self, trajectories: Sequence[Trajectory]) -> Judgement:
        """Return the group's scores by rollout id, and what they cost.

        Attempts that read the same are shown once and share their score; a group in which all do is not judged at all.

        Raises:
            ConfigError: the judge cannot be asked as it is set up. A judge that fails is data on the judgement instead.
            CostCeilingError: the next request would pass `max_cost_usd`; verdicts so far are in the cache.
        """
        shown = [t for t in trajectories if t.status == "completed"]
        if len({t.rollout_id for t in shown}) < len(shown):
            raise ConfigError("two trajectories of the group have the same rollout_id; scores are keyed by it")
        if len(shown) < 2:
            return Judgement(judge=self.name, cost_usd=0.0)
        told = transcripts(shown, self._form)
        contents = _by_content(shown, told)
        if len(contents) == 1:
            alike = AttemptScore(score=0.5, explanation="all attempts are the same")
            return self._judgement(contents, Opinion(marks=(alike,)), Judgement(judge=self.name, cost_usd=0.0))
        bill, short = Bill(), sum(told.is_cut)
        try:
            with untracked():
                name, opinion = await self._opinion([members[0] for members in contents], bill)
        except JudgeError as error:
            _log.warning("a group of scenario %r has no verdict: %s", shown[0].scenario_id, error)
            return bill.judgement(self.name, Failure(kind=type(error).__name__, message=str(error)))
        bare = bill.judgement(name).model_copy(update={"consistency": opinion.consistency, "shortened": short})
        return self._judgement(contents, opinion, bare)

    async def _opinion(self, attempts: Sequence[Trajectory], bill: Bill) -> tuple[str, Opinion]:
        """Return whose opinion counts, and the opinion."""
        name, opinion = await self._panel(attempts, bill)
        if self._second is None or opinion.consistency is None or opinion.consistency >= self.escalate_below:
            return name, opinion
        _log.info(
            "judge %r keeps the order of %.0f %% of the pairs only; %r is asked in its place",
            name, 100 * opinion.consistency, self._second.name,
        )  # fmt: skip
        return self._second.name, await self._whole(self._second, attempts, bill)

    async def _panel(self, attempts: Sequence[Trajectory], bill: Bill) -> tuple[str, Opinion]:
        found = await asyncio.gather(
            *(self._whole(r, attempts, bill) for r in self._judge_runners), return_exceptions=True
        )
        for error in found:
            if isinstance(error, BaseException) and not isinstance(error, JudgeError):
                raise error
        usable = {r.name: o for r, o in zip(self._judge_runners, found, strict=True) if isinstance(o, Opinion)}
        failed = [e for e in found if isinstance(e, JudgeError)]
        if len(failed) * 2 >= len(found):
            raise failed[0]
        for error in failed:
            _log.warning("a judge of the panel is left out of a group: %s", error)
        return " + ".join(usable), panel(list(usable.values()))

    async def _whole(self, judge_runner: JudgeRunner, attempts: Sequence[Trajectory], bill: Bill) -> Opinion:
        """Return one judge's opinion of all attempts, in chunks where they are too many for one request."""
        told = transcripts(attempts, self._form)
        size = chunk_size(
            [len(t) for t in told.attempts], len(told.shared), max_attempts=self.max_attempts, window=self.window_chars
        )
        if len(attempts) <= size:
            return await judge_runner.opinion(attempts, bill)
        order = shuffler(attempts, self._form, self.seed).sample(range(len(attempts)), len(attempts))
        return await in_chunks(order, size, lambda places: judge_runner.opinion([attempts[p] for p in places], bill))

    def _judgement(self, contents: Sequence[Sequence[Trajectory]], opinion: Opinion, bare: Judgement) -> Judgement:
        level = _leveller([m.score for m in opinion.marks], self.tolerance)
        scores = [
            Score(
                rollout_id=t.rollout_id,
                value=level(mark.score),
                explanation=mark.explanation,
                agents=dict(mark.agents),
                calls=dict(zip(_steps(t), mark.steps, strict=True)) if mark.steps else {},
            )
            for members, mark in zip(contents, opinion.marks, strict=True)
            for t in members
        ]
        return bare.model_copy(update={"scores": tuple(scores)})

    @property
    def _judges(self) -> tuple[JudgeLike, ...]:
        return tuple(self.judge) if _is_panel(self.judge) else (self.judge,)  # type: ignore[arg-type, return-value]

    @property
    def _all_judges(self) -> tuple[JudgeLike, ...]:
        return (*self._judges, *(() if self.escalate_to is None else (self.escalate_to,)))

    @property
    def _form(self) -> Form:
        rubric = self.rubric.strip() if self.rubric is not None else default_rubric()
        return Form(rubric=rubric, attempt_chars=self.attempt_chars, details=self.details)

    def _judge_runner(self, judge: JudgeLike, budget: Budget) -> JudgeRunner:
        asked, temperature = asked_of(judge)
        return JudgeRunner(
            asked=asked, temperature=temperature, form=self._form, permutations=self.permutations, seed=self.seed,
            tolerance=self.tolerance, cache=self.cache, budget=budget,
        )  # fmt: skip

    def _contradictions(self) -> Iterator[str]:
        if self.rubric is not None and not self.rubric.strip():
            yield "Ruler.rubric is empty; say what a good attempt is, or leave it out for the default"
        if not self._judges:
            yield "Ruler.judge is empty; name one judge, or several for a panel"
        if len({asked_of(j)[0].name for j in self._judges}) < len(self._judges):
            yield "Ruler.judge names the same judge twice; use permutations to ask one judge more than once"
        for name, least in (("permutations", 1), ("max_attempts", 3), ("attempt_chars", 400)):
            if getattr(self, name) < least:
                yield f"Ruler.{name} is {getattr(self, name)}; expected at least {least}"
        for name in ("tolerance", "escalate_below"):
            if not 0 <= getattr(self, name) < 1:
                yield f"Ruler.{name} is {getattr(self, name)}; expected 0 or more, below 1"
        if self.escalate_to is not None and self.permutations < 2:
            yield (
                "Ruler.escalate_to needs permutations=2 or more: a judge that is asked once is never found inconsistent"
            )
        yield from self._unpayable()

    def _unpayable(self) -> Iterator[str]:
        if self.max_cost_usd is None:
            return
        if not self.max_cost_usd > 0:
            yield f"Ruler.max_cost_usd is {self.max_cost_usd}; expected more than 0, or None for no ceiling"
        for judge in self._all_judges:
            found = named(judge)
            if not isinstance(found, Judge) or (found.cost_usd(1, 1) is None and not found.is_engine):
                yield (
                    f"Ruler.max_cost_usd is set and the price of judge {asked_of(judge)[0].name!r} is not known; give "
                    "Judge(..., prompt_usd_per_million=..., completion_usd_per_million=...), or leave the ceiling out"
                )


_SHOWN = (
    "rubric", "permutations", "tolerance", "details", "max_attempts", "attempt_chars", "window_chars", "seed",
)  # fmt: skip


def _shown(judge: JudgeLike) -> str:
    """Return a judge as what makes its verdicts: not how long it is waited for, or what it costs."""
    found = named(judge)
    if not isinstance(found, Judge):
        return repr(asked_of(found)[0].name)
    usual = Judge(found.model)
    own = [
        f"{name}={getattr(found, name)!r}"
        for name in ("base_url", "temperature", "max_tokens", "structured")
        if getattr(found, name) != getattr(usual, name)
    ]
    return f"Judge({', '.join([repr(found.model), *own])})" if own else repr(found.model)


def _is_panel(judge: JudgeLike | Sequence[JudgeLike]) -> bool:
    return isinstance(judge, Sequence) and not isinstance(judge, str)


def _leveller(scores: Sequence[float], tolerance: float) -> Callable[[float], float]:
    """Return what makes a score of a score: itself, or where all lie within the tolerance, their mean."""
    if max(scores) - min(scores) > tolerance:
        return lambda score: score
    mean = math.fsum(scores) / len(scores)
    return lambda _: mean


def _steps(trajectory: Trajectory) -> list[str]:
    return [call_id for history in histories(trajectory) for _, call_id in history.calls]


def _by_content(trajectories: Sequence[Trajectory], told: Transcripts) -> list[list[Trajectory]]:
    """Return the trajectories that read the same together, in an order that depends on their content only."""
    same: dict[str, list[Trajectory]] = {}
    for text, trajectory in zip(told.attempts, trajectories, strict=True):
        same.setdefault(text, []).append(trajectory)
    return [same[text] for text in sorted(same)]
