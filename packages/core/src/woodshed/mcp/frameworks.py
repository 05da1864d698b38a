"""The agent to train: written in a framework of your choice and provided by that framework's adapter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points

from woodshed.errors import ConfigError
from woodshed.mcp.tool_answer import ToolAnswer
from woodshed.mcp.tools import Tool

GROUP = "woodshed.mcp_agents"
"""Entry points of this group are agents: `langgraph = "woodshed_langgraph.mcp:run_agent"`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One task and everything an agent needs to solve it."""

    task: str
    instructions: str
    """The system prompt."""
    tools: Sequence[Tool]
    call: Callable[[str, dict[str, object]], Awaitable[ToolAnswer]]
    """Calls a tool: `await call(name, arguments)`, in the event loop that the agent was started in."""
    max_turns: int = 12
    """Largest number of model calls of one run."""


AgentFunction = Callable[[Job], Awaitable[str]]
"""Runs an agent on one job and returns its final answer."""


def load_agent(framework: str) -> AgentFunction:
    """Return the agent of a framework.

    Raises:
        ConfigError: no adapter of that name is installed.
    """
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    if framework not in installed:
        names = ", ".join(sorted(installed)) or "none"
        raise ConfigError(
            f"no agent is written in {framework!r}; installed are: {names}. pip install woodshed-langgraph, "
            "woodshed-crewai or woodshed-adk brings one"
        )
    try:
        agent: AgentFunction = installed[framework].load()
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"the agent written in {framework!r} needs {missing.name!r}, which is not installed: "
            f"pip install 'woodshed-{framework}'"
        ) from missing
    return agent
