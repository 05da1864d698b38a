"""An agent's tree: every agent, node and tool it may reach, and what in it cannot be trained.

Only ADK needs this: an agent holds all it may run, so that what cannot be trained is refused before a rollout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.adk.agents.llm_agent import LlmAgent
from google.adk.models.base_llm import BaseLlm
from google.adk.workflow._base_node import BaseNode

from woodshed.errors import ConfigError

_ELSEWHERE = {
    "RemoteA2aAgent": "its model runs in another process; instrument the agent in the process that serves it",
    "LangGraphAgent": "its graph has models of its own; train the graph with woodshed_langgraph.wrap(graph)",
    "ManagedAgent": "its model runs on Google's servers",
    "AntigravityAgent": "its model runs in an SDK of its own",
}
"""ADK's agents whose model calls never pass through ADK, by class name: most need packages that may be missing."""

_SERVER_SIDE = (
    "GoogleSearchTool", "VertexAiSearchTool", "UrlContextTool", "EnterpriseWebSearchTool", "GoogleMapsGroundingTool",
    "BuiltInCodeExecutor", "VertexAiRagRetrieval",
)  # fmt: skip
"""ADK's tools that Google's servers run inside a model call."""

_CLIENTS = ("openai", "anthropic", "google.genai.client", "litellm", "langchain", "mistralai", "cohere", "groq")
"""Packages whose clients an agent class of the author's may hold."""


def check(root: BaseNode) -> None:
    """Raise ConfigError unless all of the agent can be trained."""
    nodes = list(_walk(root))
    for node in nodes:
        refuse_untrainable(node)
        if isinstance(node, LlmAgent):
            _refuse_server_side(node)
    if not any(isinstance(node, LlmAgent) for node in nodes):
        raise ConfigError(
            f"{_named(root)} has no LlmAgent anywhere, so there is no model to train. If it makes its agents while it "
            "runs, call woodshed_adk.instrument() once instead"
        )


def refuse_untrainable(node: Any) -> None:
    """Raise ConfigError for an agent that asks a model with a client of its own."""
    for kind in type(node).__mro__:
        if kind.__name__ in _ELSEWHERE and kind.__module__.startswith("google.adk."):
            raise ConfigError(f"{_named(node)} cannot be trained: {_ELSEWHERE[kind.__name__]}")
    if isinstance(node, LlmAgent) or type(node).__module__.startswith("google.adk."):
        return
    for name, value in _held(node):
        if isinstance(value, BaseLlm) or _client_class(value):
            raise ConfigError(
                f"{_named(node)} cannot be trained: it asks a model with a client of its own "
                f"({name}={type(value).__name__}). Let an LlmAgent make its model calls"
            )


def _client_class(value: Any) -> bool:
    module = type(value).__module__
    return any(module == package or module.startswith((f"{package}.", f"{package}_")) for package in _CLIENTS)


def _refuse_server_side(agent: LlmAgent) -> None:
    for tool in (*agent.tools, agent.code_executor):
        for kind in type(tool).__mro__:
            if kind.__name__ in _SERVER_SIDE and kind.__module__.startswith("google.adk."):
                raise ConfigError(
                    f"{_named(agent)} uses {kind.__name__}, which Google's servers run themselves; the policy can "
                    "only call function tools. Give the agent a function that does the same"
                )


def _walk(root: BaseNode) -> Iterator[BaseNode]:
    """Yield every agent and node that `root` holds, each once, whatever field it is in."""
    seen: set[int] = set()
    waiting: list[Any] = [root]
    while waiting:
        held = waiting.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        if isinstance(held, BaseNode):
            yield held
        waiting += [value for name, value in _held(held) if name != "parent_agent"]


def _held(held: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of what an object of ADK's or a container holds."""
    if isinstance(held, (list, tuple, set)):
        yield from (("", item) for item in held)
    elif isinstance(held, Mapping):
        yield from ((str(name), item) for name, item in held.items())
    elif isinstance(held, BaseNode) or type(held).__name__ in ("AgentTool", "NodeTool", "Graph", "Edge"):
        yield from vars(held).items()
        yield from (getattr(held, "__pydantic_private__", None) or {}).items()


def _named(node: Any) -> str:
    return f"{type(node).__name__} {getattr(node, 'name', None)!r}"
