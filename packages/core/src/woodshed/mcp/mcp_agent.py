"""The rollout: a fresh session, an agent with its tools, one task, and the session's end whatever happens."""

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
    """What the server catalogs; read before the first rollout where it is None."""
    tools: Sequence[str] | None = None
    allow: Sequence[str] = ()
    instructions: str | None = None
    """The agent's system prompt; None takes the server's own instructions."""
    max_turns: int = 12

    @property
    def __name__(self) -> str:
        """The rollout's name: the server's."""
        return self.sessions.server.name

    @property
    def tally(self) -> Tally:
        """What happened over all sessions so far."""
        return self.sessions.tally

    async def __call__(self, scenario: Scenario | str) -> dict[str, Any]:
        """Run the agent on one task in a session of its own, and return its answer and what its tools did.

        Raises:
            McpServerError: the session could not be opened or broke off: the rollout is masked, not rewarded 0.
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
            # A framework may have told the model of a broken session as of any failed tool.
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
    """Return an agent that has a server's tools; each run of it has a session of its own.

    Args:
        server: the server's address or command, or a `Server`.
        framework: what the agent is written in: `langgraph`, `crewai` or `adk`.
        tools: names of the tools it is offered; None is all that only read.
        allow: tools that change something and are offered all the same.
        instructions: its system prompt; None takes the server's own.
        catalog: what the server catalogs, where it was read before (`scenarios(...).catalog`).
        limits: how long the server is waited for.
        max_turns: most model calls of one run.

    Raises:
        ConfigError: no adapter for the framework is installed.

    Example:
        ```python
        agent = woodshed.mcp.agent("python my_server.py")
        policy = woodshed.Policy("Qwen/Qwen3-4B")
        woodshed.train(agent, found.train, policy=policy, reward=woodshed.Ruler(judge="gpt-5-mini"))
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
