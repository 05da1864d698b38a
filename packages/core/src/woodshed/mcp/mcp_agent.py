"""The rollout function for an MCP server: open a fresh session, run the agent on one task, close the session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from woodshed.mcp.catalog import Catalog, read_catalog
from woodshed.mcp.frameworks import AgentFunction, Job, load_agent
from woodshed.mcp.scenario import Scenario
from woodshed.mcp.server import Limits, Server
from woodshed.mcp.session import Sessions, Tally


@dataclass(kw_only=True, eq=False)
class McpAgent:
    """An agent on an MCP server: an async function of one scenario, which `woodshed.Training` takes as its rollout."""

    sessions: Sessions
    framework: str
    run: AgentFunction = field(repr=False)
    catalog: Catalog | None = None
    """The server's catalog; if None, it is read before the first rollout."""
    tools: Sequence[str] | None = None
    allow: Sequence[str] = ()
    instructions: str | None = None
    """The agent's system prompt; None means the server's own instructions."""
    max_turns: int = 12

    @property
    def __name__(self) -> str:
        """The rollout's name: that of the server."""
        return self.sessions.server.name

    @property
    def tally(self) -> Tally:
        """Counts over all sessions so far."""
        return self.sessions.tally

    async def __call__(self, scenario: Scenario | str) -> dict[str, Any]:
        """Run the agent on one task in its own session, and return its answer and the number of tool calls and errors.

        Raises:
            McpServerError: the session could not be opened, or it broke. The rollout is masked, not rewarded 0.
        """
        if self.catalog is None:
            self.catalog = await read_catalog(self.sessions, tools=self.tools, allow=self.allow)
        async with self.sessions.open() as session:
            job = Job(
                task=scenario if isinstance(scenario, str) else scenario.task,
                instructions=self.instructions or self.catalog.instructions,
                tools=self.catalog.tools,
                call=session.call,
                max_turns=self.max_turns,
            )
            answer = await self.run(job)
            # The framework may have passed a broken session on to the model as a failed tool call.
            if session.fault is not None:
                raise session.fault
        return {"answer": answer, "metrics": {"tool_calls": session.calls, "tool_errors": session.errors}}


def agent(
    server: str | Sequence[str] | Server,
    *,
    framework: str = "langgraph",
    tools: Sequence[str] | None = None,
    allow: Sequence[str] = (),
    instructions: str | None = None,
    catalog: Catalog | None = None,
    limits: Limits | None = None,
    max_turns: int = 12,
) -> McpAgent:
    """Return an agent with a server's tools; each run has its own session.

    Args:
        server: the server's address or command, or a `Server`.
        framework: what the agent is written in: `langgraph`, `crewai` or `adk`.
        tools: names of the tools to offer; None means all read-only tools.
        allow: tools to offer although they change something.
        instructions: its system prompt; None means the server's own.
        catalog: the server's catalog, if it was read before (`scenarios(...).catalog`).
        limits: time limits for the server.
        max_turns: largest number of model calls of one run.

    Raises:
        ConfigError: no adapter for the framework is installed.

    Example:
        ```python
        tasks = woodshed.mcp.scenarios("python my_server.py")
        agent = woodshed.mcp.agent("python my_server.py")
        policy = woodshed.Policy("Qwen/Qwen3-4B")
        woodshed.train(agent, tasks.train, policy=policy, reward=woodshed.Ruler(judge="gpt-5-mini"))
        ```
    """
    return McpAgent(
        sessions=Sessions(server=Server.of(server), limits=limits or Limits()),
        framework=framework,
        run=load_agent(framework),
        catalog=catalog,
        tools=tools,
        allow=allow,
        instructions=instructions,
        max_turns=max_turns,
    )
