"""Group → scores: a judge, or a panel of judges, scores the attempts at one scenario relative to each other.

RULER as published by OpenPipe ART: https://art.openpipe.ai/fundamentals/ruler
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Self, get_args

from woodshed.capture import untracked
from woodshed.errors import ConfigError, JudgeError, JudgeRefused
from woodshed.rewards.aggregate import JudgeScores
from woodshed.rewards.base import Scenarios
from woodshed.rewards.budget import Bill, Budget
from woodshed.rewards.cache import MemoryCache, VerdictCache
from woodshed.rewards.judge import AskFunction, Judge
from woodshed.rewards.judge_runner import JudgeRunner, as_judge, judge_client, longest_explanation
from woodshed.rewards.known_groups import KnownGroup, known_groups
from woodshed.rewards.mode_trial import CONCRETE_MODES, Mode, ModeTable, ModeTrial, chosen, try_mode
from woodshed.rewards.pair_runner import PairRunner
from woodshed.rewards.panel import JudgePanel, Runner
from woodshed.rewards.partial_scores import Detail, check_details
from woodshed.rewards.prompt import PromptSettings, default_rubric, transcripts
from woodshed.rewards.scored import by_content, scored
from woodshed.rewards.single_runner import SingleRunner
from woodshed.rewards.verdict import AttemptScore
from woodshed.types import Failure, Judgement, Trajectory, check_number

_log = logging.getLogger("woodshed.rewards")
JudgeLike = str | Judge | AskFunction
"""A model's name, a `Judge`, or an async function `(system, user, schema) -> reply`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A ruler that is ready to judge, and how its mode was chosen."""

    ruler: Ruler
    table: ModeTable | None = None
    """How the judge did in each mode; None where the mode was given."""


@dataclass(frozen=True, repr=False)
class Ruler:
    """Scores the trajectories of a group with an LLM judge that sees them side by side.

    The judge sees completed trajectories only. If it gives no usable verdict, even after one repair request, the group
    has an error and no scores: a judge's failure never becomes a reward.

    Example:
        `Ruler("gpt-5-mini")`, `Ruler(judge=Judge("qwen3:32b", base_url="http://localhost:11434/v1"), permutations=2)`,
        `Ruler("engine/judge")`, `Ruler(my_async_function)`, or a panel: `Ruler(("gpt-5-mini", "claude-haiku-4-5"))`.
    """

    judge: JudgeLike | Sequence[JudgeLike]
    """The judge, or a panel of judges. Each judge of a panel scores the whole group, and the median counts. A judge
    that fails is left out as long as more than half of the panel succeeds."""
    _: KW_ONLY
    mode: Mode = "group"
    """What one request shows: all attempts (`group`), two, for the judge to name the better one (`pairs`), or one, for
    a grade (`single`). `auto` tries the three on attempts whose order is known, before the first step, and keeps the
    best; see `woodshed judge-check`."""
    rubric: str | None = None
    """What a good attempt is, in words. None means woodshed's own rubric, which fits any task with a goal."""
    permutations: int = 1
    """Requests per group, each in another order; the scores are averaged. An even number cancels position bias. `pairs`
    shows every pair in both orders in any case."""
    tolerance: float = 0.0
    """If all scores of a group lie within this range, every attempt gets their mean."""
    details: tuple[Detail, ...] = ()
    """Further scores to request, in mode `group`: `agents` (fills `Score.agents`), `steps` (fills `Score.calls`)."""
    escalate_to: JudgeLike | None = None
    """A second judge, whose verdict replaces the first one's if that is not consistent."""
    escalate_below: float = 0.75
    """Consistency below which the second judge is asked; random scores reach about 0.5. Needs `permutations` of 2 or
    more, or `pairs`."""
    max_attempts: int = 16
    """In mode `group`, largest number of attempts in one request; a larger group is judged in overlapping chunks."""
    attempt_chars: int = 24_000
    """Longest text of one attempt (a token is about 4 characters). A longer one is truncated: its beginning, its end
    and tool errors stay, and the gaps are marked."""
    window_chars: int | None = 400_000
    """Longest text of one request, to fit the judge's context; None means no limit."""
    max_cost_usd: float | None = None
    """Cost ceiling for judging in a whole run, in USD. The run stops before exceeding it and can be resumed."""
    seed: int = 0
    """Seed of the orders in which attempts are shown; the group's content enters too."""
    cache: VerdictCache = field(default_factory=MemoryCache, compare=False)
    """Stores verdicts by content; `SqliteCache(path)` survives the process."""
    _panel: JudgePanel = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        for name, least in (("permutations", 1), ("max_attempts", 3), ("attempt_chars", 400)):
            check_number(self, name, at_least=least, whole=True)
        for name in ("tolerance", "escalate_below"):
            check_number(self, name, at_least=0, below=1)
        for name, whole in (("window_chars", True), ("max_cost_usd", False)):
            if getattr(self, name) is not None:
                check_number(self, name, above=0, whole=whole)
        object.__setattr__(self, "details", check_details(self.details))
        for problem in self._problems():
            raise ConfigError(problem)
        budget = Budget(self.cache, self.max_cost_usd)
        panel = JudgePanel(
            judges=tuple(self._judge_runner(j, budget) for j in self._judges),
            escalate_to=None if self.escalate_to is None else self._judge_runner(self.escalate_to, budget),
            escalate_below=self.escalate_below, prompt_settings=self._prompt_settings, max_attempts=self.max_attempts,
            window_chars=self.window_chars, seed=self.seed,
        )  # fmt: skip
        object.__setattr__(self, "_panel", panel)

    @property
    def name(self) -> str:
        """The judge's name; for a panel, all names joined by ` + `."""
        return self._panel.name

    @property
    def asks_engine(self) -> bool:
        """Whether any judge, `escalate_to` included, is a model served by the engine."""
        return any(isinstance(judge, Judge) and judge.is_engine for judge in map(as_judge, self._all_judges))

    def __repr__(self) -> str:
        """Show the settings that affect a verdict: the same text in every process, and never the key."""
        judges = [_judge_repr(j) for j in self._judges]
        shown = [
            judges[0] if len(judges) == 1 else f"({', '.join(judges)})",
            *(f"{name}={getattr(self, name)!r}" for name in _REPR_FIELDS),
        ]
        if self.escalate_to is not None:
            shown += [f"escalate_to={_judge_repr(self.escalate_to)}", f"escalate_below={self.escalate_below}"]
        return f"Ruler({', '.join(shown)})"

    def bound(
        self, *, base_url: str, api_key: str, cache: VerdictCache | None = None, scenarios: Scenarios | None = None
    ) -> Self:
        """Return a copy that is ready to judge: `engine/NAME` is asked at `base_url`, others at their own address.

        Raises:
            ConfigError: a judge has no key. Raised here, before any rollout is paid for.
        """

        def ready(judge: JudgeLike) -> JudgeLike:
            resolved = as_judge(judge)
            if not isinstance(resolved, Judge):
                return resolved
            bound = resolved.bound(base_url=base_url, api_key=api_key)
            bound.key()
            return bound

        judges = tuple(ready(j) for j in self._judges)
        second = None if self.escalate_to is None else ready(self.escalate_to)
        judge = judges if _is_panel(self.judge) else judges[0]
        return replace(self, judge=judge, escalate_to=second, cache=cache or self.cache)

    async def judge_group(self, trajectories: Sequence[Trajectory]) -> Judgement:
        """Return the group's scores by rollout id, from 0 to 1, and their cost.

        Attempts with the same text are shown once and share their score. If all are the same, no judge is asked and
        each scores 0.5. A judge that fails sets `Judgement.error`; it does not raise, unless it would fail always.

        Raises:
            ConfigError: two trajectories have the same rollout id, or the judge's settings are not usable.
            JudgeRefused: the judge will refuse every request: its key, its credit or its name is wrong.
            CostCeilingError: the next request would exceed `max_cost_usd`; the verdicts so far are in the cache.
        """
        if self.mode == "auto":
            raise ConfigError(
                "Ruler(mode='auto') has no mode yet: `(await ruler.prepared()).ruler` has one. A run does that itself"
            )
        shown = [t for t in trajectories if t.status == "completed"]
        if len({t.rollout_id for t in shown}) < len(shown):
            raise ConfigError("two trajectories of the group have the same rollout_id; scores are keyed by it")
        if len(shown) < 2:
            return Judgement(judge=self.name, cost_usd=0.0)
        texts = transcripts(shown, self._prompt_settings)
        contents = by_content(shown, texts)
        if len(contents) == 1:
            equal = AttemptScore(score=0.5, explanation="all attempts are the same")
            return scored(
                contents, JudgeScores(scores=(equal,)), Judgement(judge=self.name, cost_usd=0.0), self.tolerance
            )
        bill = Bill()
        try:
            with untracked():
                name, judged = await self._panel.judge([members[0] for members in contents], bill)
        except JudgeRefused:
            await self._panel.drained()
            raise
        except JudgeError as error:
            _log.warning("a group of scenario %r has no verdict: %s", shown[0].scenario_id, error)
            return bill.judgement(self.name, Failure(kind=type(error).__name__, message=str(error)))
        figures = {"consistency": judged.consistency, "shortened": sum(texts.is_cut)}
        return scored(contents, judged, bill.judgement(name).model_copy(update=figures), self.tolerance)

    async def prepared(self) -> Prepared:
        """Return a ruler with a concrete mode; for `auto`, the best one on built-in groups whose order is known.

        They are judged by woodshed's own rubric. Replies go to the cache and count towards `max_cost_usd`.

        Raises:
            CheckError: the judge is no better than a coin in every mode, or gives no verdict in any.
            CostCeilingError: the trial would exceed `max_cost_usd`.
        """
        if self.mode != "auto":
            return Prepared(ruler=self)
        table = chosen(self.name, await replace(self, rubric=None).trials(known_groups()))
        return Prepared(ruler=self.in_mode(table.mode), table=table)

    async def trials(self, groups: Sequence[KnownGroup]) -> list[ModeTrial]:
        """Judge groups whose order is known in every mode, one mode after the other.

        Where this ruler shows a group in one order only, it is shown in the reverse order, too, for the position bias.
        """
        results = []
        for mode in CONCRETE_MODES:
            ruler = self.in_mode(mode)
            both = replace(ruler, permutations=2) if mode == "group" and self.permutations == 1 else None
            results.append(await try_mode(mode, ruler, groups, both_orders=both))
        return results

    def in_mode(self, mode: Mode) -> Self:
        """Return a copy in another mode."""
        return replace(self, mode=mode)

    @property
    def _judges(self) -> tuple[JudgeLike, ...]:
        return tuple(self.judge) if _is_panel(self.judge) else (self.judge,)  # type: ignore[arg-type, return-value]

    @property
    def _all_judges(self) -> tuple[JudgeLike, ...]:
        return (*self._judges, *(() if self.escalate_to is None else (self.escalate_to,)))

    @property
    def _prompt_settings(self) -> PromptSettings:
        rubric = self.rubric.strip() if self.rubric is not None else default_rubric()
        return PromptSettings(rubric=rubric, attempt_chars=self.attempt_chars, details=self.details)

    def _judge_runner(self, judge: JudgeLike, budget: Budget) -> Runner:
        client, temperature = judge_client(judge)
        settings = replace(self._prompt_settings, explanation_chars=longest_explanation(judge))
        return _RUNNERS[self.mode](
            client=client, temperature=temperature, prompt_settings=settings, seed=self.seed,
            permutations=self.permutations, tolerance=self.tolerance, cache=self.cache, budget=budget,
        )  # fmt: skip

    def _problems(self) -> Iterator[str]:
        if self.rubric is not None and not self.rubric.strip():
            yield "Ruler.rubric is empty; say what a good attempt is, or leave it out for the default"
        if not self._judges:
            yield "Ruler.judge is empty; name one judge, or several for a panel"
        if len({judge_client(j)[0].name for j in self._judges}) < len(self._judges):
            yield "Ruler.judge names the same judge twice; use permutations to ask one judge more than once"
        if self.mode not in get_args(Mode):
            yield f"Ruler.mode is {self.mode!r}; expected one of {get_args(Mode)}"
        if self.details and self.mode != "group":
            yield f"Ruler.details needs mode='group', and mode is {self.mode!r}: other modes ask for one label only"
        if self.escalate_to is not None and self.permutations < 2 and self.mode != "pairs":
            yield ("Ruler.escalate_to needs permutations=2 or more: a single request has no consistency")
        yield from self._cost_problems()

    def _cost_problems(self) -> Iterator[str]:
        if self.max_cost_usd is None:
            return
        for judge in self._all_judges:
            resolved = as_judge(judge)
            if not isinstance(resolved, Judge) or (resolved.cost_usd(1, 1) is None and not resolved.is_engine):
                yield (
                    f"Ruler.max_cost_usd is set and the price of judge {judge_client(judge)[0].name!r} is not known; "
                    "give Judge(..., prompt_usd_per_million=..., completion_usd_per_million=...), or omit the ceiling"
                )


_RUNNERS: dict[Mode, type[JudgeRunner | SingleRunner | PairRunner]] = {
    "group": JudgeRunner, "pairs": PairRunner, "single": SingleRunner, "auto": JudgeRunner,
}  # fmt: skip
_REPR_FIELDS = (
    "mode", "rubric", "permutations", "tolerance", "details", "max_attempts", "attempt_chars", "window_chars", "seed",
)  # fmt: skip


def _judge_repr(judge: JudgeLike) -> str:
    """Return a judge with the settings that affect its verdicts, without time limits and prices."""
    resolved = as_judge(judge)
    if not isinstance(resolved, Judge):
        return repr(judge_client(resolved)[0].name)
    default = Judge(resolved.model)
    changed = [
        f"{name}={getattr(resolved, name)!r}"
        for name in ("base_url", "temperature", "max_tokens", "structured")
        if getattr(resolved, name) != getattr(default, name)
    ]
    return f"Judge({', '.join([repr(resolved.model), *changed])})" if changed else repr(resolved.model)


def _is_panel(judge: JudgeLike | Sequence[JudgeLike]) -> bool:
    return isinstance(judge, Sequence) and not isinstance(judge, str)
