"""Which parameters of an author's chat completion request reach the policy."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

_log = logging.getLogger("woodshed.capture")

CHAT_KEYS = frozenset(
    (
        "model", "messages", "tools", "tool_choice", "parallel_tool_calls", "response_format",
        "temperature", "top_p", "n", "stop", "seed", "max_tokens", "max_completion_tokens",
        "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs",
        "stream", "stream_options", "extra_body", "extra_headers",
        # Passed on so that the engine refuses them by name.
        "audio", "modalities", "prediction", "web_search_options", "functions", "function_call",
    )
)  # fmt: skip
"""Parameters of a chat completion that reach the engine. The others (`store`, `user`, `service_tier`,
`reasoning_effort`, …) talk to a provider's service, not to a model."""

_dropped: set[str] = set()


def policy_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that reach the policy; each one left out is logged once per process."""
    for name in params.keys() - CHAT_KEYS - _dropped:
        _dropped.add(name)
        _log.warning("%r is a setting of the author's provider; inside rollouts it is not sent to the policy", name)
    return {name: value for name, value in params.items() if name in CHAT_KEYS}


def provider_tool(kind: Any) -> str:
    """Return the refusal of a tool that only a provider can run."""
    return (
        f"the agent's model has the tool type {kind!r}, which the model's provider runs itself; the policy can only "
        "call function tools. Give the agent a tool that does the same"
    )
