"""Requests and responses of the engine's control plane (`/woodshed/v1/…`)."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from woodshed.types.call import TokenCall
from woodshed.types.loss import LossSettings
from woodshed.types.record import Record
from woodshed.types.settings import Settings

PROTOCOL = 7
"""Version of the control plane; client and engine must agree."""


class LoraSettings(Settings):
    """Shape of the LoRA that is trained (arXiv:2106.09685; PEFT `LoraConfig`)."""

    rank: int = Field(default=16, ge=1, le=256)
    alpha: float = Field(default=32.0, gt=0)
    targets: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip


class OptimizerSettings(Settings):
    """AdamW (arXiv:1711.05101) with a linear warm-up and then a constant learning rate."""

    learning_rate: float = Field(default=1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=5, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)


TrainerKind = Literal["auto", "peft", "unsloth"]
KernelKind = Literal["auto", "plain", "compile"]


class OpenPolicy(Record):
    """Request to open a policy for training, from the run's newest checkpoint where there is one."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    run_id: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """The run that trains it. It continues from its newest checkpoint; another run starts from the base model."""
    lora: LoraSettings = LoraSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    loss: LossSettings = LossSettings()
    seed: int = 0
    trainer: TrainerKind = "auto"
    """The library that loads the model to train: `auto` is Unsloth if there is a GPU and it is installed, else PEFT."""
    load_in_4bit: bool = False
    """Whether the trainer holds the base model in 4 bits (QLoRA, arXiv:2305.14314), which needs Unsloth. vLLM should
    then serve the same 4-bit checkpoint, or its log-probabilities drift from the trainer's."""
    kernels: KernelKind = "auto"
    """How the trainer computes what lies between a layer's matrix products: one operator after the other (`plain`), or
    compiled by torch into one kernel each (`compile`); `auto` takes the faster one on a GPU, and `plain` without."""
    adapter: str | None = None
    """Folder, on the engine's machine, of a LoRA that the run starts from, as version 1; None starts from the base
    model, as version 0."""

    @model_validator(mode="after")
    def _four_bits_by_unsloth(self) -> Self:
        check_four_bits(self.trainer, self.load_in_4bit)
        return self


def check_four_bits(trainer: TrainerKind, load_in_4bit: bool) -> None:
    """Raise ValueError where 4 bits are requested without Unsloth."""
    if load_in_4bit and trainer == "peft":
        raise ValueError("load_in_4bit=True needs Unsloth, and trainer is 'peft'; use trainer='unsloth', or 16 bits")


class PolicyState(Record):
    """The state of a policy in its training."""

    name: str
    version: int
    """0 is the base model; every optimizer step adds one."""
    steps: tuple[str, ...] = ()
    """Ids of the steps taken so far, oldest first."""
    checkpoints: str | None = None
    """Folder, on the engine's machine, with a checkpoint of each version that is kept: `00007/adapter` is a LoRA."""
    forward_mode: str | None = None
    """How rows go through the model in the trainer (`tree`, `dense`, `rows`, …); None where no trainer runs."""
    warnings: tuple[str, ...] = ()
    """What the trainer does in a slower way than it could, why, and what it costs."""


class OpenSession(Record):
    """Request to open a session, the engine's side of one rollout."""

    rollout_id: str
    policy: str
    sampling: dict[str, Any] = Field(default_factory=dict)
    """Sampling parameters that override those of the agent's client, such as `temperature`; if there are any, the
    client's `seed` is dropped."""
    run_id: str | None = None
    """The run that the rollout belongs to; the session is refused if another run holds the policy. None is never
    refused."""


class PolicyRef(Record):
    """Request for information about an open policy."""

    run_id: str | None = None
    """The run that asks; it is refused if another run holds the policy. None is never refused."""


class SessionGrant(Record):
    """A bearer secret with which any OpenAI client makes calls of one rollout."""

    rollout_id: str
    secret: str
    base_url: str
    """OpenAI base URL of the gateway, ending in `/v1`."""
    run_id: str | None = None
    """The run it was opened for; filled in by the client."""


class SealedSession(Record):
    """A closed session and every call it recorded; later calls are answered with status 409."""

    rollout_id: str
    calls: tuple[TokenCall, ...]
    late_calls: int = 0
    """Calls refused because the session was already sealed."""


Objective = Literal["policy_gradient", "supervised", "evaluate"]


class WeightedRollout(Record):
    """One rollout for the trainer: which of its calls to train on, with what advantage."""

    rollout_id: str
    advantage: float
    untrained_call_ids: tuple[str, ...] = ()
    """Calls that are not trained on, because a framework's retry replaced their answers."""
    call_advantages: dict[str, float] = Field(default_factory=dict)
    """Call id → advantage of its tokens instead of the rollout's, such as that of the call's role."""


class StepRequest(Record):
    """One optimizer step over a batch of rollouts the engine has recorded.

    Repeating a request with the same `step_id` returns the first report and trains nothing.
    """

    step_id: str
    rollouts: tuple[WeightedRollout, ...]
    objective: Objective = "policy_gradient"
    """`policy_gradient`: a loss of the GRPO family. `supervised`: cross-entropy of the recorded tokens, weighted by the
    advantages. `evaluate`: no step, only the cross-entropy and the drift from the engine."""
    run_id: str | None = None
    """The run that asks; it is refused if another run holds the policy. None is never refused."""
    keep_checkpoints: int = Field(default=3, ge=1)
    """How many of the newest checkpoints stay on disk after this step."""
    keep_version: int | None = None
    """A version whose checkpoint stays, too, such as the best one so far."""

    @model_validator(mode="after")
    def _each_rollout_once(self) -> Self:
        ids = [r.rollout_id for r in self.rollouts]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"rollouts {twice} appear more than once in step {self.step_id!r}; each is trained once")
        return self


class StepReport(Record):
    """The result of one optimizer step."""

    step_id: str
    version: int
    """Version of the weights after the step; unchanged where nothing was trained."""
    trained: bool
    metrics: dict[str, float] = Field(default_factory=dict)
    quarantined: dict[str, str] = Field(default_factory=dict)
    """Rollout id → why it was left out of the step (`NaN advantage`, `no trained tokens`, …)."""
    warnings: tuple[str, ...] = ()
    """What the trainer warned of in this step and in none before it."""


class ModelSettings(Record):
    """How a model is served, for a run to compare with what it asks for."""

    model: str
    """Folder on the engine's machine, or name on the Hugging Face hub."""
    fingerprint: str | None = None
    """Hash of config and weights of a folder; None for a name on the hub."""
    trainable: bool
    max_model_len: int | None = None
    """Longest prompt plus answer in tokens; None where the engine does not know its vLLM's limit."""
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    chat_template: str | None = None
    chat_template_hash: str | None = None
    dtype: str | None = None
    """What vLLM computes in; None where vLLM decides."""
    max_lora_rank: int
    lora_slots: int
    replicas: int = 1


ReplicaState = Literal["ready", "starting", "asleep", "left out", "draining", "given up"]
"""`starting`: for the first time, or after its death. `asleep`: while a trainer has the GPU (`gpu_sharing="sleep"`).
`left out`: it has not loaded the weights that the others serve. `draining`: it gets no new call and is restarted after
its last. `given up`: it kept dying."""


class ReplicaHealth(Record):
    """The state of one vLLM server of a model."""

    name: str
    """That of its log and in `servers.json`: the model's own where it is served once, else such as `policy#2`."""
    state: ReplicaState
    node: str | None = None
    """Address of the cluster's node that it runs on, or ran on last; None for the engine's machine."""
    in_flight: int
    """Calls that it is answering now."""
    sessions: int = 0
    """Rollouts whose calls go there."""
    calls: int = 0
    """Calls that it was sent since the engine started."""
    starts: int = 0
    """How often it was started."""
    cached_calls: float | None = None
    """Share of calls that found some of their prompt in the prefix cache, of those whose answer says it; None for no
    such answer. A streamed answer says it only where the client asks for its usage."""
    cached_tokens: float | None = None
    """Share of these calls' prompt tokens that were in the cache."""
    rss_mb: float = 0.0


class ModelHealth(Record):
    """The state of a model's vLLM servers behind the gateway."""

    name: str
    model: str
    vllm: str
    """Version as the server itself reports it."""
    ready: bool
    """Whether calls can be sent right now: to one of its replicas at least."""
    settings: ModelSettings
    restarts: int = 0
    """How often its vLLM died and was started again; where a run is training, over the whole life of that run."""
    rss_mb: float = 0.0
    replicas: tuple[ReplicaHealth, ...] = ()
    moved_sessions: int = 0
    """How often a rollout was sent to another replica than the one before: it died, or had far more to do."""
    swap_s: float | None = None
    """Seconds from the request to load the newest weights until new calls got them; None before the first swap."""


class EngineHealth(Record):
    """The state of an engine."""

    woodshed: str
    protocol: int = PROTOCOL
    models: tuple[ModelHealth, ...] = ()
    policies: tuple[PolicyState, ...] = ()
    lora_swaps: int = 0
    """Versions that the runs that are training here have had served, in all lives of the engine."""
    failed_calls: int = 0
    """Answers of 500 and above; where a run is training, over the whole life of that run."""
    rss_mb: float = 0.0
    """Resident memory of the engine and all its children, in MiB."""
