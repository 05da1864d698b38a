"""What a training run is made of, refused at construction where it contradicts itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from woodshed.engine.client.config import LoraRank, ServedModel
from woodshed.errors import ConfigError
from woodshed.rewards.advantage import BatchScale, overlong_penalty
from woodshed.types import (
    LoraSettings,
    LossSettings,
    OptimizerSettings,
    Record,
    TrainerKind,
    Trajectory,
    check_four_bits,
)

Measure = Callable[[Trajectory, Any], float]
"""Truth about one finished trajectory of one scenario; used to report, never to train."""


class _Settings(Record):
    """A record whose bad values are said as a `ConfigError`, one line a field."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            said = [
                f"{type(self).__name__}.{'.'.join(map(str, e['loc'])) or '?'}: {e['msg']}; found {e.get('input')!r}"
                for e in error.errors()
            ]
            raise ConfigError("\n".join(said)) from None


class Policy(_Settings):
    """The small open model that practises."""

    model: str
    """Hub name or folder of the base model."""
    lora: LoraSettings = LoraSettings()
    trainer: TrainerKind = "auto"
    """What loads the model that is trained, on the engine's machine: `auto` is Unsloth on a GPU where it is installed,
    and PEFT elsewhere; `unsloth` refuses to train without it."""
    load_in_4bit: bool = False
    """Whether the trainer holds the base model in 4 bits, by Unsloth; `model` should then name a 4-bit checkpoint."""
    adapter: str | None = None
    """Folder of a LoRA to start from: of a finished `woodshed sft`, or one that PEFT wrote; None is the base model."""
    max_model_len: int | None = Field(default=None, ge=16)
    """Longest context in tokens; None takes the model's own."""
    tool_call_parser: str | None = "hermes"
    """Name of the vLLM tool parser that fits the model's chat template; None for an agent without tools."""
    temperature: float = Field(default=1.0, gt=0, le=2)
    """Sampling temperature of rollouts; the trainer divides its logits by the same."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer of one model call in tokens; None leaves it to the agent."""

    def __init__(self, model: str | None = None, /, **settings: Any) -> None:
        """`Policy("Qwen/Qwen2.5-3B-Instruct")` and `Policy(model="…")` are the same."""
        super().__init__(**({"model": model} if model is not None else {}), **settings)

    @model_validator(mode="after")
    def _four_bits_by_unsloth(self) -> Self:
        check_four_bits(self.trainer, self.load_in_4bit)
        return self

    def served(self) -> ServedModel:
        """Return the policy as the engine serves it."""
        return ServedModel(
            name="policy",
            path=self.model,
            trainable=True,
            max_model_len=self.max_model_len,
            max_lora_rank=next(r for r in get_args(LoraRank) if r >= self.lora.rank),
            tool_call_parser=self.tool_call_parser,
        )

    def sampling(self) -> dict[str, Any]:
        """Return what the engine samples with, whatever the agent's client asks for."""
        fixed: dict[str, Any] = {"temperature": self.temperature, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
        return fixed if self.max_tokens is None else {**fixed, "max_tokens": self.max_tokens}


class AdvantageSettings(_Settings):
    """How the scores of a group become advantages."""

    scale: BatchScale = "none"
    """What a score less its group's mean is divided by: nothing, or the standard deviation of the group or batch."""
    per: Literal["rollout", "agent"] = "rollout"
    """Whether all calls of a rollout share its advantage, or each agent is compared with itself in the group's other
    rollouts: by `Score.agents` where the reward names it there, else by the rollout's score where it took part."""
    overlong_longest: int | None = Field(default=None, ge=1)
    """Tokens of a rollout's longest answer at which its score loses 1 (DAPO's soft overlong punishment)."""
    overlong_soft: int | None = Field(default=None, ge=1)
    """Tokens before `overlong_longest` over which that penalty grows from 0."""

    def __init__(self, **values: Any) -> None:
        """Refuse values that contradict each other."""
        super().__init__(**values)
        if self.scale == "batch" and self.per == "agent":
            raise ConfigError(
                "AdvantageSettings.scale is 'batch' and per is 'agent'; an agent is compared within its "
                "group only. Use scale='std' or 'none', or per='rollout'"
            )
        if (self.overlong_longest is None) != (self.overlong_soft is None):
            raise ConfigError(
                f"AdvantageSettings.overlong_longest is {self.overlong_longest} and overlong_soft is "
                f"{self.overlong_soft}; the penalty needs both: such as 1024 and 256"
            )
        self.penalty(0)

    def penalty(self, tokens: int) -> float:
        """Return what to add to the score of a rollout whose longest answer has `tokens` tokens."""
        if self.overlong_longest is None or self.overlong_soft is None:
            return 0.0
        return overlong_penalty(tokens, longest=self.overlong_longest, soft=self.overlong_soft)


_LIMITS = {"max_concurrency", "rollout_timeout_s", "max_staleness"}
_LOSS_LIMITS = {"drift_warn", "drift_stop"}


class TrainConfig(_Settings):
    """The numbers of a run."""

    steps: int = Field(default=40, ge=1)
    group_size: int = 8
    """Rollouts per scenario and step; their scores are compared with each other."""
    scenarios_per_step: int = Field(default=8, ge=1)
    max_concurrency: int = Field(default=32, ge=1)
    """Rollouts in flight at once."""
    rollout_timeout_s: float = Field(default=300.0, gt=0)
    max_staleness: int = Field(default=1, ge=0)
    """Steps that weights may be old when what they sampled is trained: with 1, the rollouts of a step run while the
    step before it is judged and trained. 0 is strictly on-policy, one after the other."""
    extra_scenarios: int = Field(default=0, ge=0)
    """Further scenarios a step may roll out for groups whose scores are all equal (DAPO's dynamic sampling)."""
    score_tolerance: float = Field(default=1e-3, ge=0)
    """Scores that differ by less are equal; a group of equal scores trains nothing."""
    advantage: AdvantageSettings = AdvantageSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    loss: LossSettings = LossSettings()
    seed: int = 0

    def __init__(self, **values: Any) -> None:
        """Refuse values that cannot work."""
        super().__init__(**values)
        if self.group_size < 2:
            raise ConfigError(
                f"TrainConfig.group_size is {self.group_size}; expected 2 or more: GRPO compares the rollouts of one "
                "scenario with each other, and a single one has nothing to be compared with. 8 is a good start"
            )

    def identity(self) -> dict[str, Any]:
        """Return the numbers that a run must have again to be gone on with, as plain JSON."""
        return self.model_dump(mode="json", exclude={**dict.fromkeys(_LIMITS, True), "loss": _LOSS_LIMITS})

    def limits(self) -> dict[str, Any]:
        """Return the others, which may change then: they bound how a run goes and not what it learns from."""
        return self.model_dump(mode="json", include={**dict.fromkeys(_LIMITS, True), "loss": _LOSS_LIMITS})


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Held-out scenarios and how their truth is measured, before the first step and after the last."""

    scenarios: Sequence[Any]
    measure: Measure
    rollouts_per_scenario: int = 1

    def __post_init__(self) -> None:
        """Refuse an evaluation of nothing."""
        if not self.scenarios:
            raise ConfigError("Evaluation.scenarios is empty; expected at least one held-out scenario")
        if self.rollouts_per_scenario < 1:
            raise ConfigError(f"Evaluation.rollouts_per_scenario is {self.rollouts_per_scenario}; expected at least 1")


def scenario_ids(scenarios: Sequence[Any]) -> list[str]:
    """Return one stable id a scenario: its `id` (attribute or key), else its place in the list.

    Raises:
        ConfigError: the list is empty, or two scenarios have the same id.
    """
    if not scenarios:
        raise ConfigError(
            "the scenario list is empty; expected at least one scenario (anything your rollout function takes as its "
            "one argument: a string, a dict, a pydantic model)"
        )
    ids = [_own_id(s, place) for place, s in enumerate(scenarios)]
    twice = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise ConfigError(f"scenario ids must be unique; {twice[:5]} appear more than once")
    return ids


def _own_id(scenario: Any, place: int) -> str:
    own = scenario.get("id") if isinstance(scenario, dict) else getattr(scenario, "id", None)
    return str(own) if own is not None else f"scenario-{place}"
