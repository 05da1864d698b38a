"""Train an agent on any MCP server: scenarios for its tools, and an agent that solves them.

Names are imported on first use (docs/decisions/0003-lazy-public-face.md), and with them the official MCP SDK, an
optional dependency: `pip install 'woodshed[mcp]'`. `import woodshed` and then `woodshed.mcp.agent(...)` is enough.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from woodshed.errors import ConfigError
from woodshed.lazy import on_first_use

if TYPE_CHECKING:
    from woodshed.mcp.catalog import Catalog
    from woodshed.mcp.frameworks import Job
    from woodshed.mcp.generator import Generator
    from woodshed.mcp.mcp_agent import McpAgent, agent
    from woodshed.mcp.run import McpRun, McpTraining
    from woodshed.mcp.scenario import PlannedCall, Scenario
    from woodshed.mcp.scenario_collection import Collection, scenarios, scenarios_async
    from woodshed.mcp.server import Limits, Server
    from woodshed.mcp.session import Sessions
    from woodshed.mcp.tools import Tool

_HOME = {
    # Make scenarios.
    "Collection": "scenario_collection",
    "Generator": "generator",
    "PlannedCall": "scenario",
    "Scenario": "scenario",
    "scenarios": "scenario_collection",
    "scenarios_async": "scenario_collection",
    # Practise.
    "Job": "frameworks",
    "McpAgent": "mcp_agent",
    "McpRun": "run",
    "McpTraining": "run",
    "agent": "mcp_agent",
    # The server.
    "Limits": "server",
    "Catalog": "catalog",
    "Server": "server",
    "Sessions": "session",
    "Tool": "tools",
}

__all__ = [
    "Catalog",
    "Collection",
    "Generator",
    "Job",
    "Limits",
    "McpAgent",
    "McpRun",
    "McpTraining",
    "PlannedCall",
    "Scenario",
    "Server",
    "Sessions",
    "Tool",
    "agent",
    "scenarios",
    "scenarios_async",
]


def _check_sdk() -> None:
    if find_spec("mcp") is None:
        raise ConfigError("training on an MCP server needs the official SDK: pip install 'woodshed[mcp]'")


if not TYPE_CHECKING:  # which would take any name for one of this package
    __getattr__ = on_first_use(__name__, _HOME, _check_sdk)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
