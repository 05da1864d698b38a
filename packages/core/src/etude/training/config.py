"""What a training run is made of, refused at construction where it contradicts itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import Field, ValidationError

from etude.engine.config import LoraRank, ServedModel
from etude.errors import ConfigError
from etude.types import LoraSettings, LossSettings, OptimizerSettings, Record, Trajectory

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
    max_model_len: int | None = Field(default=None, ge=16)
    """Longest context in tokens; None takes the model's own."""
    tool_call_parser: str = "hermes"
    """Name of the vLLM tool parser that fits the model's chat template."""
    temperature: float = Field(default=1.0, gt=0, le=2)
    """Sampling temperature of rollouts; the trainer divides its logits by the same."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer of one model call in tokens; None leaves it to the agent."""

    def __init__(self, model: str | None = None, /, **settings: Any) -> None:
        """`Policy("Qwen/Qwen2.5-3B-Instruct")` and `Policy(model="…")` are the same."""
        super().__init__(**({"model": model} if model is not None else {}), **settings)

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


class TrainConfig(_Settings):
    """The numbers of a run."""

    steps: int = Field(default=40, ge=1)
    group_size: int = 8
    """Rollouts per scenario and step; their scores are compared with each other."""
    scenarios_per_step: int = Field(default=8, ge=1)
    max_concurrency: int = Field(default=32, ge=1)
    """Rollouts in flight at once."""
    rollout_timeout_s: float = Field(default=300.0, gt=0)
    score_tolerance: float = Field(default=1e-3, ge=0)
    """Scores that differ by less are equal; a group of equal scores trains nothing."""
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
