"""A reward computed by your own function instead of a judge."""

from __future__ import annotations

import asyncio
import inspect
import math
import numbers
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from woodshed.capture.user_frames import user_line
from woodshed.errors import ConfigError
from woodshed.rewards.base import Scenarios
from woodshed.rewards.cache import VerdictCache
from woodshed.types import Failure, Judgement, Score, Trajectory

Value = float | None


@dataclass(frozen=True, slots=True)
class FunctionReward:
    """Scores each completed trajectory with your function; `None`, NaN or an infinite value masks the trajectory.

    The function takes the trajectory, or the trajectory and its scenario, such as to compare with a known answer. If
    it raises, that trajectory alone is masked, and the run warns of it.

    Example:
        `FunctionReward(lambda trajectory, scenario: float(trajectory.output == scenario["answer"]))`

    Raises:
        ConfigError: the function can be called neither with one nor with two arguments.
    """

    function: Callable[..., Value | Awaitable[Value]]
    """Sync or async."""
    scenarios: Scenarios = field(default_factory=dict, kw_only=True, repr=False, compare=False)
    """Scenario id → scenario; a run sets it."""
    _takes_scenario: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find out what the function takes."""
        object.__setattr__(self, "_takes_scenario", _takes_scenario(self.function))

    @property
    def name(self) -> str:
        """The function's name."""
        return str(getattr(self.function, "__qualname__", type(self.function).__qualname__))

    @property
    def asks_engine(self) -> bool:
        """Always False."""
        return False

    def bound(
        self, *, base_url: str, api_key: str, cache: VerdictCache | None = None, scenarios: Scenarios | None = None
    ) -> Self:
        """Return a copy that knows the scenarios; a function needs no engine."""
        return self if scenarios is None else replace(self, scenarios=scenarios)

    async def judge_group(self, trajectories: Sequence[Trajectory]) -> Judgement:
        """Return one score per completed trajectory. An exception masks its trajectory; the group, if it is in all.

        Raises:
            ConfigError: the function takes the scenario, and that of a trajectory is not known.
        """
        scores, failures = [], {}
        completed = [t for t in trajectories if t.status == "completed"]
        for trajectory in completed:
            arguments = self._arguments(trajectory)
            try:
                value = await self._value(arguments)
            except (Exception, SystemExit) as error:
                # User code: its failure masks the rollout and is never a reward of 0.
                failures[trajectory.rollout_id] = Failure(
                    kind=type(error).__name__, message=str(error), where=user_line(error)
                )
                continue
            if value is not None:
                scores.append(Score(rollout_id=trajectory.rollout_id, value=value))
        whole = next(iter(failures.values())) if failures and len(failures) == len(completed) else None
        return Judgement(judge=self.name, scores=tuple(scores), failures=failures, error=whole, cost_usd=0.0)

    def _arguments(self, trajectory: Trajectory) -> tuple[Any, ...]:
        if not self._takes_scenario:
            return (trajectory,)
        if trajectory.scenario_id not in self.scenarios:
            raise ConfigError(
                f"reward function {self.name!r} takes the scenario, and {trajectory.scenario_id!r} is none of the "
                f"{len(self.scenarios)} that it was given; a run gives its own, elsewhere use "
                "FunctionReward(f, scenarios={id: scenario})"
            )
        return trajectory, self.scenarios[trajectory.scenario_id]

    def _call(self, *arguments: Any) -> Any:
        try:
            return self.function(*arguments)
        except StopIteration as ended:  # a future cannot carry it, and whoever waits for one would wait for ever
            raise RuntimeError(f"reward function {self.name!r} raised StopIteration") from ended

    async def _value(self, arguments: tuple[Any, ...]) -> Value:
        """Return the function's value; None masks the rollout. A sync function runs in a thread: it may be slow."""
        if inspect.iscoroutinefunction(self.function):
            value = await self.function(*arguments)
        else:
            value = await asyncio.to_thread(self._call, *arguments)
            value = await value if inspect.isawaitable(value) else value
        if value is not None and not isinstance(value, numbers.Real):
            raise TypeError(
                f"reward function {self.name!r} returned {value!r}, a {type(value).__name__}; expected a number, or "
                "None to mask the rollout"
            )
        return None if value is None or not math.isfinite(value) else float(value)


def _takes_scenario(function: Callable[..., Any]) -> bool:
    """Whether the function is called with the scenario, too: where it requires a second argument, or offers `scenario`.

    Raises:
        ConfigError: it can be called neither with one nor with two arguments.
    """
    if not callable(function):
        raise ConfigError(f"FunctionReward.function is {function!r}; expected a function (trajectory) -> number")
    try:
        signature = inspect.signature(function)
    except ValueError:
        return False  # a function in C tells nothing about itself
    one, two = _accepts(signature, 1), _accepts(signature, 2)
    if not one and not two:
        name = getattr(function, "__qualname__", repr(function))
        raise ConfigError(
            f"reward function {name!r} takes {signature}; expected a function of (trajectory) or (trajectory, scenario)"
        )
    return two and (not one or _second_name(signature.parameters) == "scenario")


def _accepts(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[object()] * count)
    except TypeError:
        return False
    return True


def _second_name(parameters: Mapping[str, inspect.Parameter]) -> str | None:
    """Return the name of the second positional parameter: a second one with a default is only ours by its name."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters.values() if p.kind in kinds]
    return names[1] if len(names) > 1 else None
