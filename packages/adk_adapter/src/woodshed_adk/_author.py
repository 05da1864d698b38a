"""What the author's model object says about its calls: settings and retries kept beside the request."""

from __future__ import annotations

from typing import Any

from google.adk.models._capabilities import LlmCapabilities
from google.adk.models.base_llm import BaseLlm

_SETTINGS = (
    "temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "presence_penalty",
    "frequency_penalty",
)  # fmt: skip
DEFAULT_RETRIES = 2


def settings(author: Any) -> dict[str, Any]:
    """Return the sampling settings the author gave the model itself; those of a request win over them."""
    found = dict(getattr(author, "_additional_args", None) or {})  # LiteLlm keeps its keyword arguments here
    if "max_tokens" in author.model_fields_set:  # OpenAILlm and Claude; their default is the library's wish
        found["max_tokens"] = author.max_tokens
    return {name: found[name] for name in _SETTINGS if found.get(name) is not None}


def max_retries(author: Any) -> int:
    """Return how often the author's model asks again after a failed request."""
    client, options = getattr(author, "client", None), getattr(author, "retry_options", None)
    for found in (getattr(client, "max_retries", None), getattr(author, "_additional_args", {}).get("num_retries")):
        if isinstance(found, int):
            return found
    attempts = getattr(options, "attempts", None)
    return max(0, attempts - 1) if isinstance(attempts, int) else DEFAULT_RETRIES


def wants_user_last(author: Any) -> bool:
    """Return whether the author's model adds a user's turn where the model itself spoke last.

    ADK's models for Google and LiteLLM do; those for OpenAI and Anthropic do not.
    """
    return not type(author).__module__.startswith(("google.adk.integrations.openai", "google.adk.models.anthropic"))


class Unbuildable(BaseLlm):
    """Holds the place of a model that ADK cannot build here, while the agent's request is written in a rollout."""

    @property
    def capabilities(self) -> LlmCapabilities:
        """Return what ADK assumes of a model it does not know."""
        return LlmCapabilities(output_schema_and_tools=False)

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> Any:
        """Raise: only the policy stands in for it."""
        raise RuntimeError(f"model {self.model!r} cannot be built here, and is only named in a rollout")
        yield
