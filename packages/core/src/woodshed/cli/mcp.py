"""`woodshed mcp`: train a model to use an MCP server, given its address or command."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from woodshed.errors import ConfigError

if TYPE_CHECKING:
    from woodshed.engine.client.local import ConnectedEngine, LocalEngine
    from woodshed.mcp import Catalog, Collection, McpTraining, Scenario, Server


class Only(StrEnum):
    """Where to stop before training."""

    tools = "tools"
    scenarios = "scenarios"


def mcp(
    server: Annotated[
        list[str],
        typer.Argument(
            help="Address (https://…/mcp), or a command: in quotes, or at the end after `--`.", metavar="URL|COMMAND"
        ),
    ],
    policy: Annotated[str | None, typer.Option(help="Model to train: a hub name or a folder.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="Judge model, such as `gpt-5-mini`; `engine/NAME` with --serve.")
    ] = None,
    judge_url: Annotated[str | None, typer.Option(help="OpenAI-compatible address of the judge.")] = None,
    serve: Annotated[
        list[str] | None, typer.Option(help="NAME=PATH of a judge for the engine to serve; repeatable.")
    ] = None,
    generator: Annotated[
        str | None, typer.Option(help="Model that writes scenarios; default: the server's prompts and schemas.")
    ] = None,
    generator_url: Annotated[str | None, typer.Option(help="OpenAI-compatible address of the generator.")] = None,
    only: Annotated[Only | None, typer.Option(help="Stop after listing tools, or after making scenarios.")] = None,
    framework: Annotated[str, typer.Option(help="Framework of the agent: langgraph, crewai, adk.")] = "langgraph",
    token: Annotated[
        str | None, typer.Option(envvar="WOODSHED_MCP_TOKEN", help="Bearer token for a server over HTTP.")
    ] = None,
    header: Annotated[list[str] | None, typer.Option(help="`NAME: VALUE` for a server over HTTP; repeatable.")] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for a command, or NAME of a variable to pass on; repeatable.")
    ] = None,
    tools: Annotated[str | None, typer.Option(help="Names of the tools to use, separated by commas.")] = None,
    allow_tool: Annotated[
        list[str] | None, typer.Option(help="A tool that changes something and may be used; repeatable.")
    ] = None,
    instructions: Annotated[
        str | None, typer.Option(help="The agent's system prompt; default the server's own instructions.")
    ] = None,
    scenarios: Annotated[int, typer.Option(help="Number of tasks, held-out ones included.")] = 100,
    held_out: Annotated[float, typer.Option(help="Share of the tasks to hold out.")] = 0.25,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 40,
    group_size: Annotated[int, typer.Option(help="Rollouts per task and step.")] = 8,
    scenarios_per_step: Annotated[int, typer.Option(help="Tasks per step.")] = 8,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer of one model call, in tokens.")] = 1024,
    max_model_len: Annotated[int | None, typer.Option(help="Longest context; default the model's own.")] = None,
    tool_timeout: Annotated[float, typer.Option(help="Time limit of a tool call in seconds.")] = 30.0,
    engine: Annotated[str | None, typer.Option(help="Address of a running engine; default: start one here.")] = None,
    engine_key: Annotated[str | None, typer.Option(envvar="WOODSHED_API_KEY", help="That engine's key.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/NAME.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew; an unfinished training is renamed.")] = False,
    track: Annotated[
        str, typer.Option(help="Trackers, with commas: wandb, mlflow, tensorboard, trackio.", metavar="NAMES")
    ] = "",
) -> None:
    """Train a model to use an MCP server.

    The steps, and what you can inspect after each:

    1. The server's tools are listed. Those that look destructive are left out: `--only tools` shows which and why.

    2. Tasks are generated, tried on the server, and stored in `runs/NAME/scenarios.jsonl`. You can edit them (a line
    needs only `{"task": "…"}`); they are used as they are. `--only scenarios` stops here.

    3. The agent attempts each task several times, each time in its own server session. A judge compares the attempts
    at a task, and a LoRA of the policy is trained on the scores. After Ctrl-C, the same command resumes.

    4. `report.md` and `summary.json` compare held-out tasks before and after training, with examples.

    For example:

    woodshed mcp "python examples/mcp/shop_server.py" --only tools

    woodshed mcp https://host/mcp --token $TOKEN --policy Qwen/Qwen3-4B-Instruct-2507 --judge gpt-5-mini

    woodshed mcp --policy ./model --judge engine/judge --serve judge=./judge -- python my_server.py --its-own-option
    """
    from woodshed.mcp import Generator, Limits, Sessions

    console = Console(soft_wrap=True)
    # woodshed reports server errors itself, with the next step, so silence the SDK's logs.
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    where = _parse_server(server, token=token, headers=header or (), env=env or ())
    names = [name.strip() for name in tools.split(",") if name.strip()] if tools else None
    limits = Limits(call_s=tool_timeout)
    writer = Generator(generator, base_url=generator_url) if generator else None
    folder = run_dir or Path("runs") / where.name
    if only is not None:
        return _look(
            Sessions(server=where, limits=limits), console, only, tools=names, allow=allow_tool or (), count=scenarios,
            generator=writer, held_out=held_out, seed=seed, folder=folder,
        )  # fmt: skip
    training = _training(
        where, policy=policy, judge=judge, judge_url=judge_url, max_tokens=max_tokens, max_model_len=max_model_len,
        engine=_engine(engine, engine_key, serve or ()), framework=framework, generator=writer, tools=names,
        allow=allow_tool or (), count=scenarios, held_out=held_out, limits=limits, folder=folder, fresh=fresh,
        instructions=instructions, track=track,
        config={"steps": steps, "group_size": group_size, "scenarios_per_step": scenarios_per_step, "seed": seed},
    )  # fmt: skip
    training.run()


def _parse_server(words: Sequence[str], *, token: str | None, headers: Sequence[str], env: Sequence[str]) -> Server:
    import os

    from woodshed.mcp import Server

    header_values, env_values = {}, {}
    for line in headers:
        name, colon, value = line.partition(":")
        if not (colon and name.strip() and value.strip()):
            raise ConfigError("a --header cannot be read; expected 'NAME: VALUE'")
        header_values[name.strip()] = value.strip()
    for entry in env:
        name, equals, value = entry.partition("=")
        if not equals and name not in os.environ:
            raise ConfigError(f"--env names {name!r}, which is not set here; set it, or write NAME=VALUE")
        env_values[name] = value if equals else os.environ[name]
    if len(words) > 1 and words[0].startswith(("http://", "https://")):
        raise ConfigError(f"{words[1]!r} follows the address {words[0]!r}; expected an address alone, or a command")
    return Server.of(words, token=token, headers=header_values, env=env_values)


def _engine(url: str | None, key: str | None, serve: Sequence[str]) -> LocalEngine | ConnectedEngine:
    from woodshed.cli.engines import parse_models
    from woodshed.engine.client.local import Engine

    if url and serve:
        raise ConfigError(f"--serve {serve[0]!r} is for an engine on this machine; the one at {url!r} serves its own")
    # A judge calls no tools, and gets the grammars of such a model (docs/decisions/0006-grammars-by-guidance.md).
    judges = {name: model.model_copy(update={"tool_call_parser": None}) for name, model in parse_models(serve).items()}
    return Engine.connect(url, api_key=key) if url else Engine.local(models=judges)


def _training(
    where: Server, *, policy: str | None, judge: str | None, judge_url: str | None, max_tokens: int | None,
    max_model_len: int | None, engine: LocalEngine | ConnectedEngine, config: dict[str, Any], **settings: Any,
) -> McpTraining:  # fmt: skip
    from woodshed.mcp import McpTraining
    from woodshed.rewards.judge import Judge
    from woodshed.rewards.ruler import Ruler
    from woodshed.training.config import Policy, TrainConfig

    missing = [name for name, value in (("--policy", policy), ("--judge", judge)) if value is None]
    if policy is None or judge is None:
        raise ConfigError(
            f"{' and '.join(missing)} not given: training needs a model to train and a judge. "
            "To look at the server first: --only tools, or --only scenarios"
        )
    return McpTraining(
        server=where,
        policy=Policy(policy, max_tokens=max_tokens, max_model_len=max_model_len),
        reward=Ruler(Judge(judge, base_url=judge_url)),
        engine=engine,
        config=TrainConfig(**config),
        **settings,
    )


def _look(sessions: Any, console: Console, only: Only, *, tools: Any, allow: Any, **wanted: Any) -> None:
    import asyncio

    from woodshed.mcp import scenarios_async
    from woodshed.mcp.catalog import read_catalog

    if only is Only.tools:
        return _show_tools(asyncio.run(read_catalog(sessions, tools=tools, allow=allow)), console)
    scenarios = asyncio.run(scenarios_async(sessions, tools=tools, allow=allow, on_message=console.print, **wanted))
    _show_scenarios(scenarios, wanted["folder"], console)


def _show_tools(catalog: Catalog, console: Console) -> None:
    console.print(
        f"[bold]{catalog.name}[/] {catalog.version}, MCP {catalog.protocol}: {catalog.instructions}", markup=True
    )
    table = Table("tool", "", "about", show_edge=False)
    for tool in catalog.tools:
        table.add_row(tool.name, "taken", tool.description.partition("\n")[0])
    for out in catalog.left_out:
        table.add_row(out.name, "left out", out.reason, style="dim")
    console.print(table)
    console.print(
        f"{catalog.listed} tools, {len(catalog.tools)} taken; {len(catalog.prompts)} prompts "
        f"({', '.join(p.name for p in catalog.prompts[:5]) or 'none'}); {len(catalog.resources)} resources read"
    )
    for line in catalog.unreadable:
        console.print(f"not readable: {line}", markup=False)


def _show_scenarios(collection: Collection, folder: Path, console: Console) -> None:
    from woodshed.mcp.scenario_collection import REJECTED, SCENARIOS

    def line(scenario: Scenario) -> str:
        return f"  {scenario.difficulty:<6} {scenario.split:<8} {' '.join(scenario.task.split())[:100]}"

    for scenario in collection.scenarios[:10]:
        console.print(line(scenario), markup=False)
    for out in collection.rejected[:5]:
        console.print(f"  rejected: {out.task[:60]}: {out.reason}", markup=False)
    console.print(
        f"{len(collection.train)} for training and {len(collection.held_out)} held out in {folder / SCENARIOS}; "
        f"{len(collection.rejected)} rejected in {folder / REJECTED}"
    )
