"""The clerk of the music shop in each framework, ready to practise: the author's agent and one line of woodshed."""

from __future__ import annotations

from collections.abc import Callable

import woodshed
from woodshed.errors import ConfigError
from woodshed_tiny_world.scenarios import Scenario


def rollout_of(framework: str) -> woodshed.RolloutFunction:
    """Return the rollout function of the clerk written in `framework`.

    Raises:
        ConfigError: no clerk is written in it, or the framework or its adapter is not installed.
    """
    if framework not in CLERKS:
        raise ConfigError(f"there is no clerk written in {framework!r}; choose one of {', '.join(CLERKS)}")
    try:
        return CLERKS[framework]()
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"the clerk written in {framework} needs {missing.name!r}, which is not installed: "
            f"pip install 'woodshed-tiny-world[{framework}]'"
        ) from missing


def _langgraph() -> woodshed.RolloutFunction:
    from woodshed_langgraph import wrap
    from woodshed_tiny_world.agent import build_agent

    agent = wrap(build_agent())

    @woodshed.rollout
    async def serve_customer(scenario: Scenario) -> None:
        """Let the clerk answer one question."""
        await agent.ainvoke({"messages": [("user", scenario.question)]})

    return serve_customer


def _crewai() -> woodshed.RolloutFunction:
    from woodshed_crewai import trainable
    from woodshed_tiny_world.crew import build_crew

    clerk_crew = trainable(build_crew)

    @woodshed.rollout
    def serve_customer(scenario: Scenario) -> None:
        """Let the crew answer one question."""
        clerk_crew().kickoff(inputs={"question": scenario.question})

    return serve_customer


def _adk() -> woodshed.RolloutFunction:
    from google.adk.runners import InMemoryRunner

    from woodshed_adk import instrument
    from woodshed_tiny_world.adk_agent import APP, ask, build_adk_agent

    runner = InMemoryRunner(agent=instrument(build_adk_agent()), app_name=APP)

    @woodshed.rollout
    async def serve_customer(scenario: Scenario) -> None:
        """Let the clerk answer one question."""
        await ask(runner, scenario.question)

    return serve_customer


CLERKS: dict[str, Callable[[], woodshed.RolloutFunction]] = {"langgraph": _langgraph, "crewai": _crewai, "adk": _adk}
