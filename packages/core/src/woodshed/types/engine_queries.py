"""What client and engine say to each other beside a model's calls: templates, parsers, the machine, given sessions."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from woodshed.types.control_api import SealedSession
from woodshed.types.record import Record


class RenderRequest(Record):
    """A conversation, to be written out by a served model's chat template; in OpenAI's shape."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    generation_prompt: bool = True
    """Whether the opening of the next answer follows."""


class Rendered(Record):
    """A conversation as the model reads it."""

    token_ids: tuple[int, ...]


class ParseRequest(Record):
    """An answer's tokens, to be read by the tool and reasoning parsers of a served model's vLLM."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]


class Serving(Record):
    """What a served model's vLLM offers, and how it was started."""

    missing_paths: tuple[str, ...]
    """HTTP paths that woodshed needs and it does not serve."""
    stop_ids: tuple[int, ...]
    """Tokens that end an answer."""
    tool_call_parser: str | None = None
    max_model_len: int
    """Longest prompt plus answer in tokens."""


class SavedAdapter(Record):
    """A policy's newest adapter on the engine's machine."""

    version: int
    path: str
    """Folder with `adapter_config.json` and `adapter_model.safetensors`."""
    size_mb: float


class AdapterLoadTest(Record):
    """An adapter that was loaded into vLLM, asked and unloaded again, beside the one that serves."""

    seconds: float
    """Time that loading took."""


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
    """Where the engine keeps logs, calls and checkpoints."""


class ImportedConversation(Record):
    """A finished conversation, whose assistant turns are to be learnt as if the policy had sampled them."""

    rollout_id: str
    policy: str
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()


class ImportedSession(Record):
    """Calls that were recorded elsewhere; they are kept like a sealed session of this engine's own."""

    policy: str
    session: SealedSession


class Imported(Record):
    """A given session that the engine now holds; given again, it stays as it was."""

    rollout_id: str
    tokens: int
    """Tokens that can be learnt."""
