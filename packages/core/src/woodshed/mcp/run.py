"""The whole way: server → tools → scenarios → rollouts → judge → steps → before and after."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from woodshed.engine.client.local import ConnectedEngine, Engine, LocalEngine
from woodshed.errors import WoodshedError
from woodshed.mcp.comparison import Comparison, Pair, compare, pairs, worked
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
from woodshed.training.config import Evaluation, Measure, Policy, TrainConfig
from woodshed.training.loop import VERDICTS, Run, Training, train_async
from woodshed.training.report.files import write_summary
from woodshed.training.run.store import RunStore

_TRAINING = "training"
"""Folder of the training inside the run's: a finished one is set aside, the scenarios beside it stay."""


@dataclass(frozen=True, kw_only=True, slots=True)
class McpRun:
    """A finished run."""

    folder: Path
    figures: dict[str, Any]
    training: Run
    scenarios: Collection


@dataclass(frozen=True, kw_only=True)
class McpTraining:
    """Everything a run on an MCP server needs; `.run()` starts it or goes on where it was cut.

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
    """Model that writes scenarios; None uses the server's own prompts and schemas as a grammar."""
    count: int = 100
    """How many scenarios are wanted, held-out ones included."""
    held_out: HeldOut = 0.25
    """Share that is held out, or a rule that says of a scenario whether it is."""
    tools: Sequence[str] | None = None
    allow: Sequence[str] = ()
    instructions: str | None = None
    limits: Limits = field(default_factory=Limits)
    measure: Measure | None = None
    """Truth about a rollout of a held-out task, where there is one; None is `comparison.worked`."""
    measure_name: str = "a tool answered, and so did the agent"
    rollouts_per_scenario: int = 1
    compare: bool = True
    """Whether the judge compares the held-out rollouts before and after side by side, at the end."""
    folder: Path | None = None
    """Folder of the run; None is `runs/NAME` with the server's name."""
    fresh: bool = False
    checks: bool = True
    """Whether the policy's template and parser are tried before the first rollout (`Training.checks`)."""

    def run(self) -> McpRun:
        """Practise, and return when the run is finished."""
        return asyncio.run(self.run_async())

    async def run_async(self, console: Console | None = None) -> McpRun:
        """Do what `run` does inside an event loop that is already there.

        Raises:
            McpServerError: the server cannot be used.
            ConfigError: something cannot work, said before any work starts.
        """
        console = console or Console(soft_wrap=True)
        folder = self.folder or Path("runs") / self.server.name
        agent_function = load_agent(self.framework)
        sessions = Sessions(server=self.server, limits=self.limits)
        try:
            found = await scenarios_async(
                sessions, count=self.count, generator=self.generator, tools=self.tools, allow=self.allow,
                held_out=self.held_out, seed=self.config.seed, folder=folder, say=console.print,
            )  # fmt: skip
            agent = McpAgent(
                sessions=sessions, framework=self.framework, run=agent_function, catalog=found.catalog,
                instructions=self.instructions,
            )  # fmt: skip
            figures: dict[str, Any] = {}

            async def report(finished: Run) -> None:
                await sessions.drain()
                figures.update(await self._reported(finished, found, sessions, folder, console))

            finished = await train_async(self._training(agent, found, folder), then=report)
        finally:
            await sessions.drain()
        return McpRun(folder=folder, figures=figures, training=finished, scenarios=found)

    def _training(self, agent: McpAgent, found: Collection, folder: Path) -> Training:
        return Training(
            rollout=agent,
            scenarios=found.train,
            policy=self.policy,
            reward=self.reward,
            engine=self.engine,
            config=self.config,
            evaluation=Evaluation(
                scenarios=found.held_out,
                measure=self.measure or worked,
                rollouts_per_scenario=self.rollouts_per_scenario,
            ),
            run_dir=folder / _TRAINING,
            fresh=self.fresh,
            checks=self.checks,
        )

    async def _reported(
        self, finished: Run, found: Collection, sessions: Sessions, folder: Path, console: Console
    ) -> dict[str, Any]:
        store = RunStore(finished.folder)
        try:
            examples = pairs(store, found.held_out, self.rollouts_per_scenario)
        finally:
            store.close()
        tally = sessions.tally
        assert tally.opened == tally.closed, f"{tally.opened} sessions were opened and {tally.closed} closed"
        said = figures_of(
            finished.summary, found, tally, framework=self.framework, measure=self.measure_name,
            comparison=await self._compared(examples, folder, console) if self.compare else None,
        )  # fmt: skip
        write_summary(folder, said)
        write_markdown(folder / "report.md", said, found, examples, self.measure or worked)
        console.print(f"sessions opened {said['sessions_opened']}, closed {said['sessions_closed']}")
        console.print(f"report: {folder / 'report.md'}   figures: {folder / 'summary.json'}")
        return said

    async def _compared(self, examples: Sequence[Pair], folder: Path, console: Console) -> Comparison | None:
        """Return the judge's view of before and after; a judge that the engine serves needs it once more."""
        console.print("the judge compares the held-out rollouts before and after")
        # The run's own verdicts: what is compared again is not paid again, and max_cost_usd counts on.
        cache = SqliteCache(folder / _TRAINING / VERDICTS)
        try:
            if not self.reward.asks_engine:
                return await compare(self.reward.bound(base_url="", api_key="", cache=cache), examples)
            async with self.engine.running([self.policy.served()], home=folder / _TRAINING / "engine") as client:
                bound = self.reward.bound(base_url=client.openai_base_url, api_key=client.api_key, cache=cache)
                return await compare(bound, examples)
        except WoodshedError as error:
            # The training is done and paid for: its report is written without the comparison.
            console.print(f"no comparison by the judge: {type(error).__name__}: {error}", markup=False)
            return None
        finally:
            cache.close()
