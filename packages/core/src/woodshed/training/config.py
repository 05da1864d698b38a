"""The settings of a training run. Contradictory values are refused at construction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from woodshed.engine.client.config import Dtype, LoraRank, ServedModel
from woodshed.errors import ConfigError
from woodshed.rewards.advantage import BatchScale, overlong_penalty
from woodshed.types import (
    KernelKind,
    LoraSettings,
    LossSettings,
    OptimizerSettings,
    Settings,
    TrainerKind,
    Trajectory,
    check_four_bits,
    check_number,
)

Measure = Callable[[Trajectory, Any], float]
"""True success of a finished trajectory on its scenario, as a number; reported, never trained on."""


_SERVING = {
    *("max_model_len", "kv_cache_gib", "dtype", "chat_template", "tool_call_parser", "reasoning_parser"),
    *("replicas", "tensor_parallel"),
}
"""The settings of a policy that are its engine's."""


class Policy(Settings):
    """The policy: the open model that is trained."""

    model: str
    """Hub name, folder or GGUF file of the base model; `~` is your home folder here and in the other paths."""
    lora: LoraSettings = LoraSettings()
    trainer: TrainerKind = "auto"
    """Library that loads the model for training: `auto` takes Unsloth if the engine's machine has it and a GPU, else
    PEFT; `unsloth` fails if it is missing."""
    load_in_4bit: bool = False
    """Whether the trainer loads the base model in 4 bits, with Unsloth; `model` should then be a 4-bit checkpoint."""
    kernels: KernelKind = "auto"
    """How the trainer computes what lies between a layer's matrix products: `auto` lets torch compile it on a GPU where
    that is faster, `compile` fails where that is not possible, `plain` never does."""
    adapter: str | None = None
    """Folder of a LoRA to start from, written by `woodshed sft` or PEFT; None starts from the base model."""
    max_model_len: int | None = Field(default=None, ge=16)
    """Longest context in tokens; None means the model's own limit."""
    kv_cache_gib: float | None = Field(default=None, gt=0)
    """Memory for the KV cache in GiB where the engine has no GPU; None means enough for all calls, at most 4."""
    dtype: Dtype = "auto"
    """What the engine computes in; `auto` is what the trainer computes in: bfloat16 with a GPU, float32 without. With
    another one, log-probabilities of engine and trainer differ (`logprob_drift`)."""
    chat_template: str | None = None
    """Path of a Jinja file that replaces the model's own chat template."""
    tool_call_parser: str | None = "auto"
    """Name of the vLLM tool parser that reads the model's tool calls; `auto` is the one that fits its chat template,
    None is for an agent without tools."""
    reasoning_parser: str | None = None
    """Name of the vLLM parser that separates a model's thoughts from its answer, such as `qwen3`."""
    replicas: int = Field(default=1, ge=1, le=64)
    """vLLM servers that serve the policy on the engine's machine; each takes its own memory (docs/replicas.md)."""
    tensor_parallel: int = Field(default=1, ge=1, le=64)
    """GPUs that each of these servers is spread over."""
    temperature: float = Field(default=1.0, gt=0, le=2)
    """Sampling temperature of rollouts. The trainer divides its logits by the same value."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer of one model call in tokens; None leaves the limit to the agent."""

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
            max_lora_rank=next(r for r in get_args(LoraRank) if r >= self.lora.rank),
            # An engine that runs already is compared with what the user set, and with nothing else.
            **self.model_dump(include=_SERVING, exclude_unset=True),
        )

    def identity(self) -> dict[str, Any]:
        """Return the settings that must be unchanged to resume a run, as plain JSON: not those of its speed."""
        return self.model_dump(mode="json", exclude={"replicas", "tensor_parallel", "kernels"})

    def sampling(self) -> dict[str, Any]:
        """Return the sampling parameters that the engine uses, whatever the agent's client requests."""
        fixed: dict[str, Any] = {"temperature": self.temperature, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
        return fixed if self.max_tokens is None else {**fixed, "max_tokens": self.max_tokens}


class AdvantageSettings(Settings):
    """How the scores of a group become advantages."""

    scale: BatchScale = "none"
    """Divisor of a score minus its group's mean: `none`, or the standard deviation of the group (`std`) or `batch`."""
    per: Literal["rollout", "agent"] = "rollout"
    """`rollout`: all calls of a rollout share one advantage. `agent`: each agent is compared with itself in the group's
    other rollouts, by `Score.agents` if the reward sets it, else by the scores of the rollouts it took part in."""
    overlong_longest: int | None = Field(default=None, ge=1)
    """Tokens of a rollout's longest answer at which its score loses 1 (DAPO's soft overlong punishment)."""
    overlong_soft: int | None = Field(default=None, ge=1)
    """Tokens before `overlong_longest` over which that penalty grows from 0."""
    overlong_filtering: bool = False
    """Mask rollouts with an answer that was cut at its token limit (finish reason `length`): DAPO's overlong filtering
    (arXiv:2503.14476). They give no gradient and do not enter their group's mean."""
    overflowed: Literal["mask", "fail"] = "mask"
    """Rollouts that failed because their conversation grew longer than the model's context: `mask` leaves them out as
    any failed rollout; `fail` gives them the score 0, or their group's lowest if that is less."""

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


_LIMITS = {
    "steps",
    "max_concurrency",
    "rollout_timeout_s",
    "max_staleness",
    "stop_after_flat_steps",
    "keep_checkpoints",
}
_LOSS_LIMITS = {"drift_warn", "drift_stop"}


class TrainConfig(Settings):
    """The numbers of a run."""

    steps: int = Field(default=40, ge=1)
    group_size: int = 8
    """Rollouts per scenario and step; their scores are compared with each other."""
    scenarios_per_step: int = Field(default=8, ge=1)
    max_concurrency: int = Field(default=32, ge=1)
    """Rollouts in flight at once."""
    rollout_timeout_s: float = Field(default=300.0, gt=0)
    max_staleness: int = Field(default=1, ge=0)
    """How many steps old the sampling weights may be when their tokens are trained. With 1, the rollouts of a step run
    while the previous step is judged and trained; 0 is strictly on-policy."""
    extra_scenarios: int = Field(default=0, ge=0)
    """Extra scenarios a step may sample in place of groups with equal scores (DAPO's dynamic sampling)."""
    score_tolerance: float = Field(default=1e-3, ge=0)
    """Scores that differ by less are equal; a group of equal scores trains nothing."""
    stop_after_flat_steps: int | None = Field(default=3, ge=1)
    """Steps in a row that train nothing (equal scores, no verdict, nothing trainable) after which the run stops with
    `NothingToLearn` and can be resumed; None never stops it."""
    keep_checkpoints: int = Field(default=3, ge=1)
    """How many of the newest checkpoints stay on the engine's disk, beside the one with the highest held-out success;
    older ones are deleted when a step is saved."""
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
        """Return the settings that must be unchanged to resume a run, as plain JSON."""
        return self.model_dump(mode="json", exclude={**dict.fromkeys(_LIMITS, True), "loss": _LOSS_LIMITS})

    def limits(self) -> dict[str, Any]:
        """Return the settings that may change on resume: they limit how a run proceeds, not what it learns."""
        return self.model_dump(mode="json", include={**dict.fromkeys(_LIMITS, True), "loss": _LOSS_LIMITS})


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Held-out scenarios and how to measure success on them: before the first step, after the last, and in between.

    A rollout that fails or takes too long counts as 0. One that fails because of infrastructure (the engine, the
    network, a provider) is masked.
    """

    scenarios: Sequence[Any]
    measure: Measure
    rollouts_per_scenario: int = 1
    every: int | None = None
    """Optimizer steps after which success is measured again; None measures only before and after. It and `patience` may
    change when a run is resumed."""
    patience: int | None = None
    """Evaluations in a row that are not better than the best one after which the run stops, and is finished; None takes
    every step. Needs `every`. The evaluation before the first step doesn't count: training may begin with a loss."""

    def __post_init__(self) -> None:
        """Refuse an evaluation of nothing, or one that would never happen."""
        if not self.scenarios:
            raise ConfigError("Evaluation.scenarios is empty; expected at least one held-out scenario")
        check_number(self, "rollouts_per_scenario", at_least=1, whole=True)
        for name in ("every", "patience"):
            if getattr(self, name) is not None:
                check_number(self, name, at_least=1, whole=True)
        if self.patience is not None and self.every is None:
            raise ConfigError(
                f"Evaluation.patience is {self.patience} and every is None; expected every=N as well, such as every=5: "
                "without it success is measured only before and after training, and nothing can stop it early"
            )
        if isinstance(self.scenarios, str | bytes) or not isinstance(self.scenarios, Sequence):
            raise ConfigError(
                f"Evaluation.scenarios is a {type(self.scenarios).__name__}; expected a list of scenarios"
            )
        if not callable(self.measure):
            raise ConfigError(
                f"Evaluation.measure is {self.measure!r}; expected a function (trajectory, scenario) -> number"
            )


def scenario_ids(scenarios: Sequence[Any]) -> list[str]:
    """Return one stable id per scenario: its `id` (attribute or key), else its index in the list.

    Raises:
        ConfigError: the list is empty, or two scenarios have the same id.
    """
    if not scenarios:
        raise ConfigError(
            "the scenario list is empty; expected at least one scenario (anything your rollout function takes as its "
            "one argument: a string, a dict, a pydantic model)"
        )
    ids = [_scenario_id(s, index) for index, s in enumerate(scenarios)]
    duplicates = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
    if duplicates:
        raise ConfigError(f"scenario ids must be unique; {duplicates[:5]} appear more than once")
    return ids


def scenarios_by_id(scenarios: Sequence[Any]) -> dict[str, Any]:
    """Return the scenarios by their ids; see `scenario_ids`."""
    return dict(zip(scenario_ids(scenarios), scenarios, strict=True))


def _scenario_id(scenario: Any, index: int) -> str:
    own = scenario.get("id") if isinstance(scenario, dict) else getattr(scenario, "id", None)
    return str(own) if own is not None else f"scenario-{index}"


def check_kinds(scenarios: object, policy: object, reward: object) -> None:
    """Raise ConfigError where a run is given something that only looks like what it needs."""
    if isinstance(scenarios, str | bytes) or not isinstance(scenarios, Sequence):
        raise ConfigError(
            f"scenarios is a {type(scenarios).__name__}; expected a list of scenarios, each of them what your rollout "
            "function takes: scenarios=[...]"
        )
    if not isinstance(policy, Policy):
        hint = f"policy=woodshed.Policy({policy!r})" if isinstance(policy, str) else "policy=woodshed.Policy(MODEL)"
        raise ConfigError(f"policy is a {type(policy).__name__}; expected a woodshed.Policy: {hint}")
    if not callable(getattr(reward, "judge_group", None)):
        hint = "reward=woodshed.FunctionReward(f)" if callable(reward) else 'reward=woodshed.Ruler(judge="MODEL")'
        raise ConfigError(f"reward is a {type(reward).__name__}, which cannot judge a group of rollouts: {hint}")
