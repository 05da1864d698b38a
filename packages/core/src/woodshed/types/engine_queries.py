"""Requests and responses of the engine's queries: templates, parsers, the machine; and imported sessions."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from woodshed.types.control_api import SealedSession
from woodshed.types.record import Record


class RenderRequest(Record):
    """A conversation in OpenAI's shape, to be rendered by a served model's chat template."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    generation_prompt: bool = True
    """Whether the template adds the opening of the next answer."""


class Rendered(Record):
    """A conversation as tokens."""

    token_ids: tuple[int, ...]


class ParseRequest(Record):
    """An answer's tokens, to be parsed by the tool and reasoning parsers of a served model's vLLM."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]


class ReadCallsRequest(Record):
    """Sampled answers, to be tried with every tool parser of vLLM."""

    tools: tuple[dict[str, Any], ...]
    """What was offered, in OpenAI's shape."""
    answers: tuple[tuple[int, ...], ...]
    """Token ids of each answer."""


class ReadCalls(Record):
    """Which tool parsers read calls in sampled answers."""

    parsers: dict[str, int]
    """Parser → in how many answers it reads a tool call; without those that read none."""
    texts: tuple[str, ...]
    """Each answer as the model wrote it."""


class Serving(Record):
    """What a served model's vLLM supports, and how it was started."""

    missing_paths: tuple[str, ...]
    """HTTP paths that woodshed needs and this vLLM does not serve."""
    stop_ids: tuple[int, ...]
    """Tokens that end an answer."""
    tool_call_parser: str | None = None
    max_model_len: int
    """Longest prompt plus answer in tokens."""


class SavedAdapter(Record):
    """A policy's newest adapter, as it is stored on the engine's machine."""

    version: int
    path: str
    """Folder with `adapter_config.json` and `adapter_model.safetensors`."""
    size_mb: float


class AdapterLoadTest(Record):
    """Result of loading an adapter into vLLM beside the one in use, sampling a token from it and unloading it."""

    seconds: float
    """How long loading took."""


class Gpu(Record):
    """One CUDA device."""

    name: str
    total_mb: float
    free_mb: float


class Machine(Record):
    """The engine's machine and what is installed in the engine's environment."""

    python: str
    cores: int
    gpus: tuple[Gpu, ...] = ()
    packages: dict[str, str | None] = Field(default_factory=dict)
    """Package → version; None where it is not installed."""
    memory_free_mb: float
    disk_free_mb: float
    """Free space where the engine stores logs, calls and checkpoints."""


class ImportedConversation(Record):
    """A finished conversation, whose assistant turns are trained on as if the policy had sampled them."""

    rollout_id: str
    policy: str
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()


class ImportedSession(Record):
    """Calls that were recorded elsewhere, to be stored like a sealed session of this engine."""

    policy: str
    session: SealedSession


class Imported(Record):
    """A session that the engine has imported; importing it again changes nothing."""

    rollout_id: str
    tokens: int
    """How many tokens can be trained on."""
