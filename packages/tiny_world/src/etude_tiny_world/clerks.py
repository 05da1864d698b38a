"""The clerk of the music shop in each framework, ready to practise: the author's agent and one line of étude."""

from __future__ import annotations

from collections.abc import Callable

import etude
from etude.errors import ConfigError
from etude_tiny_world.scenarios import Scenario


def rollout_of(framework: str) -> etude.RolloutFunction:
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
            f"pip install 'etude-tiny-world[{framework}]'"
        ) from missing


def _langgraph() -> etude.RolloutFunction:
    from etude_langgraph import wrap
    from etude_tiny_world.agent import build_agent

    agent = wrap(build_agent())

    @etude.rollout
    async def serve_customer(scenario: Scenario) -> None:
        """Let the clerk answer one question."""
        await agent.ainvoke({"messages": [("user", scenario.question)]})

    return serve_customer


def _crewai() -> etude.RolloutFunction:
    from etude_crewai import trainable
    from etude_tiny_world.crew import build_crew

    clerk_crew = trainable(build_crew)

    @etude.rollout
    def serve_customer(scenario: Scenario) -> None:
        """Let the crew answer one question."""
        clerk_crew().kickoff(inputs={"question": scenario.question})

    return serve_customer


def _adk() -> etude.RolloutFunction:
    from google.adk.runners import InMemoryRunner

    from etude_adk import instrument
    from etude_tiny_world.adk_agent import APP, ask, build_adk_agent

    runner = InMemoryRunner(agent=instrument(build_adk_agent()), app_name=APP)

    @etude.rollout
    async def serve_customer(scenario: Scenario) -> None:
        """Let the clerk answer one question."""
        await ask(runner, scenario.question)

    return serve_customer


CLERKS: dict[str, Callable[[], etude.RolloutFunction]] = {"langgraph": _langgraph, "crewai": _crewai, "adk": _adk}
