"""A whole run on an MCP server: tools → scenarios → training → comparison of before and after → report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from woodshed.engine.client.local import ConnectedEngine, Engine, LocalEngine
from woodshed.errors import WoodshedError
from woodshed.mcp.comparison import Comparison, Pair, compare, pairs, tool_and_answer_given
from woodshed.mcp.frameworks import load_agent
from woodshed.mcp.generator import Generator
from woodshed.mcp.mcp_agent import McpAgent
from woodshed.mcp.report import figures as figures_of
from woodshed.mcp.report import write_markdown
from woodshed.mcp.scenario import HeldOut
from woodshed.mcp.scenario_collection import Collection, scenarios_async
from woodshed.mcp.server import Limits, Server
from woodshed.mcp.session import Sessions
from woodshed.rewards.base import Reward
from woodshed.rewards.cache import SqliteCache
from woodshed.rewards.prepare import prepared
from woodshed.training.config import Evaluation, Measure, Policy, TrainConfig, scenarios_by_id
from woodshed.training.event_loop import run_to_end
from woodshed.training.finished import Run
from woodshed.training.loop import VERDICTS, Training
from woodshed.training.on_step import OnStep, check_on_step
from woodshed.training.report.files import write_summary
from woodshed.training.run.store import RunStore
from woodshed.training.track.names import check_installed, tracker_names

_TRAINING = "training"
"""Folder of the training inside the run's folder, so that renaming a finished training keeps the scenarios."""


@dataclass(frozen=True, kw_only=True, slots=True)
class McpRun:
    """A finished run."""

    folder: Path
    figures: dict[str, Any]
    training: Run
    scenarios: Collection


@dataclass(frozen=True, kw_only=True)
class McpTraining:
    """Everything a run on an MCP server needs. `.run()` starts it, or resumes it after an interruption.

    Example:
        ```python
        woodshed.mcp.McpTraining(
            server=woodshed.mcp.Server.of("https://host/mcp", token=token),
            policy=woodshed.Policy("Qwen/Qwen3-4B-Instruct-2507"),
            reward=woodshed.Ruler(judge="gpt-5-mini"),
            generator=woodshed.mcp.Generator("gpt-5-mini"),
        ).run()
        ```
    """

    server: Server
    policy: Policy
    reward: Reward
    engine: LocalEngine | ConnectedEngine = field(default_factory=Engine.local)
    config: TrainConfig = field(default_factory=TrainConfig)
    framework: str = "langgraph"
    generator: Generator | None = None
    """Model that writes scenarios; None means the server's own prompts and schemas as templates."""
    count: int = 100
    """Number of scenarios, held-out ones included."""
    held_out: HeldOut = 0.25
    """Share of scenarios to hold out, or a function that decides for each scenario."""
    tools: Sequence[str] | None = None
    allow: Sequence[str] = ()
    instructions: str | None = None
    limits: Limits = field(default_factory=Limits)
    measure: Measure | None = None
    """Success of a rollout on a held-out task; None means `comparison.tool_and_answer_given`."""
    measure_name: str = "a tool answered, and so did the agent"
    rollouts_per_scenario: int = 1
    compare: bool = True
    """Whether the judge compares held-out rollouts from before and after at the end."""
    folder: Path | None = None
    """Folder of the run; None means `runs/NAME` with the server's name."""
    fresh: bool = False
    checks: bool = True
    """Whether to run the checks before the first rollout (`Training.checks`)."""
    track: str | Sequence[str] = ()
    """As `Training.track`."""
    on_step: OnStep | None = None
    """As `Training.on_step`."""

    def __post_init__(self) -> None:
        """Refuse what is no function, and names that are no tracker's: scenarios cost time."""
        check_on_step(self.on_step)
        tracker_names(self.track)

    def run(self) -> McpRun:
        """Train, and return when the run is finished."""
        return run_to_end(self.run_async())

    async def run_async(self, console: Console | None = None) -> McpRun:
        """Like `run`, inside an existing event loop.

        Raises:
            McpServerError: the server cannot be used.
            ConfigError: the settings cannot work; raised before any work starts.
        """
        console = console or Console(soft_wrap=True)
        folder = self.folder or Path("runs") / self.server.name
        agent_function = load_agent(self.framework)
        check_installed(tracker_names(self.track))
        sessions = Sessions(server=self.server, limits=self.limits)
        try:
            scenarios = await scenarios_async(
                sessions, count=self.count, generator=self.generator, tools=self.tools, allow=self.allow,
                held_out=self.held_out, seed=self.config.seed, folder=folder, on_message=console.print,
            )  # fmt: skip
            agent = McpAgent(
                sessions=sessions, framework=self.framework, run=agent_function, catalog=scenarios.catalog,
                instructions=self.instructions,
            )  # fmt: skip
            figures: dict[str, Any] = {}

            async def report(finished: Run) -> None:
                await sessions.drain()
                figures.update(await self._report(finished, scenarios, sessions, folder, console))

            finished = await self._training(agent, scenarios, folder).run_async(then=report)
            # Of a run that was finished before, the report is there already.
            figures = figures or json.loads((folder / "summary.json").read_text())
        finally:
            await sessions.drain()
        return McpRun(folder=folder, figures=figures, training=finished, scenarios=scenarios)

    def _training(self, agent: McpAgent, scenarios: Collection, folder: Path) -> Training:
        return Training(
            rollout=agent,
            scenarios=scenarios.train,
            policy=self.policy,
            reward=self.reward,
            engine=self.engine,
            config=self.config,
            evaluation=Evaluation(
                scenarios=scenarios.held_out,
                measure=self.measure or tool_and_answer_given,
                rollouts_per_scenario=self.rollouts_per_scenario,
            ),
            run_dir=folder / _TRAINING,
            fresh=self.fresh,
            checks=self.checks,
            track=self.track,
            on_step=self.on_step,
        )

    async def _report(
        self, finished: Run, scenarios: Collection, sessions: Sessions, folder: Path, console: Console
    ) -> dict[str, Any]:
        store = RunStore(finished.folder)
        try:
            examples = pairs(store, scenarios.held_out, self.rollouts_per_scenario)
        finally:
            store.close()
        tally = sessions.tally
        assert tally.opened == tally.closed, f"{tally.opened} sessions were opened and {tally.closed} closed"
        figures = figures_of(
            finished.summary, scenarios, tally, framework=self.framework, measure=self.measure_name,
            comparison=await self._compared(examples, scenarios.held_out, folder, console) if self.compare else None,
        )  # fmt: skip
        write_summary(folder, figures)
        write_markdown(folder / "report.md", figures, scenarios, examples, self.measure or tool_and_answer_given)
        console.print(f"sessions opened {figures['sessions_opened']}, closed {figures['sessions_closed']}")
        console.print(f"report: {folder / 'report.md'}   figures: {folder / 'summary.json'}")
        return figures

    async def _compared(
        self, examples: Sequence[Pair], held_out: Sequence[Any], folder: Path, console: Console
    ) -> Comparison | None:
        """Return the judge's comparison of before and after; for a judge on the engine, start the engine again."""
        console.print("the judge compares the held-out rollouts before and after")
        # The run's own cache: verdicts are not paid for twice, and max_cost_usd covers the comparison too.
        cache = SqliteCache(folder / _TRAINING / VERDICTS)
        known: dict[str, Any] = {"cache": cache, "scenarios": scenarios_by_id(held_out)}
        try:
            if not self.reward.asks_engine:
                bound = self.reward.bound(base_url="", api_key="", **known)
                return await compare((await prepared(bound))[0], examples)
            async with self.engine.running([self.policy.served()], home=folder / _TRAINING / "engine") as client:
                bound = self.reward.bound(base_url=client.openai_base_url, api_key=client.api_key, **known)
                return await compare((await prepared(bound))[0], examples)
        except WoodshedError as error:
            # The training is done and paid for, so write its report without the comparison.
            console.print(f"no comparison by the judge: {type(error).__name__}: {error}", markup=False)
            return None
        finally:
            cache.close()
