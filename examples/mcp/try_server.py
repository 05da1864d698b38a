"""Try an MCP server without a model: woodshed makes tasks from its prompts and schemas, and a script plays the agent.

    python examples/mcp/try_server.py "npx -y @modelcontextprotocol/server-everything"
    python examples/mcp/try_server.py "python my_server.py" --framework crewai

It shows that woodshed reaches the server, that an agent can call its tools, and that every session ends.
"""

import argparse
import asyncio
import json
from typing import Any

import woodshed
from woodshed.testing import Reply, ScriptedEngine, call_tool, say, scripted_rollout


def planned(scenario: woodshed.mcp.Scenario) -> Any:
    """Return a script that makes the calls the task is known to need, then answers."""

    def script(request: dict[str, Any]) -> Reply:
        done = sum(message["role"] == "tool" for message in request["messages"])
        if done < len(scenario.calls):
            call = scenario.calls[done]
            return call_tool(call.tool, **call.arguments)
        return say("That is what I found.")

    return script


def rollout(agent: woodshed.mcp.McpAgent, scenario: woodshed.mcp.Scenario) -> None:
    """Run the agent on one task and print what its tools returned."""
    with ScriptedEngine(planned(scenario)) as engine:
        with scripted_rollout(engine) as bound:
            asyncio.run(agent(scenario))
        trajectory = engine.trajectory(bound)
    print(f"\n{scenario.task}")
    for tool in trajectory.tool_calls:
        said = " ".join((tool.result or "").split())
        print(f"  {tool.name}({json.dumps(tool.arguments)})\n    {said[:160]}{'…' if len(said) > 160 else ''}")


def main() -> None:
    """Make tasks, and run the first few."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help="address or command")
    parser.add_argument("--framework", default="langgraph", help="langgraph, crewai or adk")
    parser.add_argument("--rollouts", type=int, default=5)
    chosen = parser.parse_args()
    found = woodshed.mcp.scenarios(chosen.server, count=20)
    print(f"{found.catalog.name}: {found.catalog.listed} tools, {len(found.catalog.tools)} taken")
    print(f"{len(found.scenarios)} tasks, {len(found.rejected)} rejected")
    agent = woodshed.mcp.agent(chosen.server, framework=chosen.framework, catalog=found.catalog)
    for scenario in [s for s in found.scenarios if s.calls][: chosen.rollouts]:
        rollout(agent, scenario)
    print(f"\nsessions of the rollouts: {agent.tally.opened} opened, {agent.tally.closed} closed; "
          f"{agent.tally.calls} tool calls, {agent.tally.tool_errors} errors")  # fmt: skip


if __name__ == "__main__":
    main()
