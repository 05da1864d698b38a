"""Any MCP server → scenarios and an agent that practises on them.

Names are imported on first use (docs/decisions/0003-lazy-public-face.md), and with them the official MCP SDK, an
optional dependency: `pip install 'etude[mcp]'`. `import etude` and then `etude.mcp.agent(...)` is enough.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from etude.errors import ConfigError

if TYPE_CHECKING:
    from etude.mcp.collect import Collection, scenarios, scenarios_async
    from etude.mcp.frameworks import Job
    from etude.mcp.generator import Generator
    from etude.mcp.offer import Offer
    from etude.mcp.practice import McpAgent, agent
    from etude.mcp.run import McpRun, McpTraining
    from etude.mcp.scenario import PlannedCall, Scenario
    from etude.mcp.server import Limits, Server
    from etude.mcp.session import Sessions
    from etude.mcp.tools import Tool

_HOME = {
    # Make scenarios.
    "Collection": "collect",
    "Generator": "generator",
    "PlannedCall": "scenario",
    "Scenario": "scenario",
    "scenarios": "collect",
    "scenarios_async": "collect",
    # Practise.
    "Job": "frameworks",
    "McpAgent": "practice",
    "McpRun": "run",
    "McpTraining": "run",
    "agent": "practice",
    # The server.
    "Limits": "server",
    "Offer": "offer",
    "Server": "server",
    "Sessions": "session",
    "Tool": "tools",
}

__all__ = [
    "Collection",
    "Generator",
    "Job",
    "Limits",
    "McpAgent",
    "McpRun",
    "McpTraining",
    "Offer",
    "PlannedCall",
    "Scenario",
    "Server",
    "Sessions",
    "Tool",
    "agent",
    "scenarios",
    "scenarios_async",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its file on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'etude.mcp' has no attribute {name!r}")
    if find_spec("mcp") is None:
        raise ConfigError("practising on an MCP server needs the official SDK: pip install 'etude[mcp]'")
    value = getattr(importlib.import_module(f"etude.mcp.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
