"""One model call in its two planes, and one tool call.

The token plane (`TokenCall`) is recorded by the engine's gateway; the structure plane (`CallMetadata`) by the hooks
in the agent's process. Both carry the same `call_id`, and `ModelCall` is the two joined.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from woodshed.types.message import Message, ToolSpec
from woodshed.types.record import Failure, Record

ForkReason = Literal["history_edited", "options_changed", "template_rewrites", "turn_cut", "not_exact", "unsupported"]
"""Why a call's prompt does not continue the tokens of a turn that the client sent back.

- `history_edited`: the client changed a message before the turn, or the turn itself.
- `options_changed`: the turn was sampled with other tools or other template options.
- `template_rewrites`: the chat template now writes earlier messages differently, such as without their reasoning.
- `turn_cut`: the turn did not end as the template ends a turn (a length limit, a stop string, another end token).
- `not_exact`: the tokenizer does not reproduce the text exactly.
- `unsupported`: the model server did not continue from tokens.
"""


class Completion(Record):
    """One sampled answer of a call (a call with `n > 1` has several)."""

    index: int
    message: Message
    reasoning: str | None = None
    """The part of the answer that a reasoning parser separated; clients seldom send it back."""
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Sampling log-probability (nats, at the call's temperature) of each token; same length as `token_ids`."""
    weight_versions: tuple[int, ...]
    """Version of the policy weights that sampled each token; same length as `token_ids`."""
    finish_reason: str | None = None


class TokenCall(Record):
    """The token plane of one model call, exactly as the engine served it."""

    call_id: str
    started_s: float
    """Unix time at which the gateway received the call."""
    latency_s: float
    """Seconds from then until the answer was complete."""
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    prompt_ids: tuple[int, ...] = ()
    completions: tuple[Completion, ...] = ()
    sampling: dict[str, Any] = Field(default_factory=dict)
    """Sampling parameters in effect: `temperature`, `top_p`, `max_tokens`, `seed`, …"""
    constrained: bool = False
    """True where decoding was constrained, so that the log-probabilities are not of the policy's own distribution."""
    template_options: dict[str, Any] = Field(default_factory=dict)
    """The client's arguments for the chat template (`chat_template_kwargs`), such as `enable_thinking`."""
    continued_from: str | None = None
    """Id of the call whose conversation this one continues: `prompt_ids` starts with its prompt and sampled tokens."""
    fork: ForkReason | None = None
    """Why `prompt_ids` lacks a sampled turn that the client sent back; None where it lacks none."""
    retries: int = 0
    """How often the client repeated the call before this answer."""
    error: Failure | None = None


class CallMetadata(Record):
    """The structure plane of one model call, recorded by the hooks in the agent's process."""

    call_id: str
    agent: str | None = None
    """Name of the agent or graph node that made the call."""
    task: str | None = None
    """Name of the agent's task, in a framework that has tasks."""
    parent_call_id: str | None = None
    attempt: int = 1
    """1 for the first try of a logical call; a framework's retry counts up."""
    superseded: bool = False
    """True where a framework's retry replaced this answer: it is kept, and never trained on."""
    author_model: str | None = None
    """The model that the agent's own code named."""
    error: Failure | None = None


class ModelCall(Record):
    """One model call of a trajectory: both planes joined."""

    tokens: TokenCall
    note: CallMetadata | None = None
    """None for a call that no adapter recorded, such as one by a plain OpenAI client."""

    @property
    def superseded(self) -> bool:
        """Whether a framework's retry replaced the answer."""
        return self.note is not None and self.note.superseded


class ToolCall(Record):
    """One execution of a tool by the agent's framework."""

    tool_call_id: str | None
    name: str
    arguments: Any
    result: str | None = None
    """The result as the model reads it, as text."""
    error: Failure | None = None
    """The tool's own exception; None when it returned."""
    latency_s: float = 0.0
    agent: str | None = None
